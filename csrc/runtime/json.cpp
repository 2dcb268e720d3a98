#include "json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <locale>
#include <sstream>

#include "refusal.h"

namespace billhook {

namespace {

constexpr int kDepth = 64;
constexpr std::string_view kInfinity = "Infinity";

bool digit(char c) { return c >= '0' && c <= '9'; }

// Appends a code point in UTF-8.
void append(std::string& to, uint32_t code) {
  if (code < 0x80) {
    to += static_cast<char>(code);
  } else if (code < 0x800) {
    to += static_cast<char>(0xc0 | code >> 6);
    to += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    to += static_cast<char>(0xe0 | code >> 12);
    to += static_cast<char>(0x80 | (code >> 6 & 0x3f));
    to += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    to += static_cast<char>(0xf0 | code >> 18);
    to += static_cast<char>(0x80 | (code >> 12 & 0x3f));
    to += static_cast<char>(0x80 | (code >> 6 & 0x3f));
    to += static_cast<char>(0x80 | (code & 0x3f));
  }
}

uint32_t hex4(std::string_view text, size_t at) {
  uint32_t code = 0;
  require(at + 4 <= text.size(), "an escape in its JSON is cut off");
  const auto [end, error] = std::from_chars(text.data() + at, text.data() + at + 4, code, 16);
  require(error == std::errc() && end == text.data() + at + 4, "an escape in its JSON is not valid");
  return code;
}

std::string unescaped(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      result += text[i];
      continue;
    }
    constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    const char c = text[++i];
    if (const size_t known = kEscapes.find(c); known != std::string_view::npos) {
      result += kMeant[known];
      continue;
    }
    require(c == 'u', "an escape in its JSON is not valid");
    uint32_t code = hex4(text, i + 1);
    i += 4;
    if (code >= 0xd800 && code < 0xdc00 && text.substr(i + 1, 2) == "\\u") {
      const uint32_t low = hex4(text, i + 3);
      require(low >= 0xdc00 && low < 0xe000, "its JSON holds half a character");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      i += 6;
    }
    require(code < 0xd800 || code >= 0xe000, "its JSON holds half a character");
    append(result, code);
  }
  return result;
}

}  // namespace

Json::Json(std::string_view text) : text_(text) {
  if (text.size() >= UINT32_MAX) fail("it is too long");
  value(0);
  space();
  if (at_ != text_.size()) fail("something follows it");
}

void Json::fail(const char* what) const {
  refuse("its JSON cannot be read at byte " + std::to_string(at_) + ": " + what);
}

void Json::space() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' ||
                                text_[at_] == '\t'))
    ++at_;
}

bool Json::take(char c) {
  space();
  if (at_ >= text_.size() || text_[at_] != c) return false;
  ++at_;
  return true;
}

void Json::word(std::string_view word) {
  if (text_.substr(at_, word.size()) != word) fail("it is not a value");
  nodes_.push_back({word[0], static_cast<uint32_t>(at_), static_cast<uint32_t>(at_ + word.size()), 0});
  at_ += word.size();
}

void Json::string() {
  if (!take('"')) fail("a name is missing");
  const size_t begin = at_;
  for (; at_ < text_.size() && text_[at_] != '"'; ++at_) {
    if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("a string holds a control character");
    if (text_[at_] == '\\') ++at_;
  }
  if (at_ >= text_.size()) fail("a string does not end");
  nodes_.push_back({'"', static_cast<uint32_t>(begin), static_cast<uint32_t>(at_),
                    static_cast<uint32_t>(nodes_.size() + 1)});
  ++at_;
}

void Json::number() {
  const size_t begin = at_;
  const auto digits = [&] {
    if (at_ >= text_.size() || !digit(text_[at_])) fail("a number has no digits");
    while (at_ < text_.size() && digit(text_[at_])) ++at_;
  };
  if (text_[at_] == '-') ++at_;
  if (text_.substr(at_, kInfinity.size()) == kInfinity) {
    at_ += kInfinity.size();
    nodes_.push_back({'0', static_cast<uint32_t>(begin), static_cast<uint32_t>(at_), 0});
    return;
  }
  if (at_ < text_.size() && text_[at_] == '0')
    ++at_;
  else
    digits();
  if (at_ < text_.size() && text_[at_] == '.') ++at_, digits();
  if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
    ++at_;
    if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
    digits();
  }
  nodes_.push_back({'0', static_cast<uint32_t>(begin), static_cast<uint32_t>(at_), 0});
}

void Json::value(int depth) {
  if (depth > kDepth) fail("it is nested too deep");
  space();
  const size_t node = nodes_.size();
  const char c = at_ < text_.size() ? text_[at_] : 0;
  if (c == '{' || c == '[') {
    nodes_.push_back({c, static_cast<uint32_t>(at_++), 0, 0});
    const char end = c == '{' ? '}' : ']';
    for (bool first = true; !take(end); first = false) {
      if (!first && !take(',')) fail("a comma is missing");
      if (c == '{') {
        string();
        if (!take(':')) fail("a colon is missing");
      }
      value(depth + 1);
    }
  } else if (c == '"') {
    string();
  } else if (c == '-' || c == kInfinity[0] || digit(c)) {
    number();
  } else {
    word(c == 't' ? "true" : c == 'f' ? "false" : "null");
  }
  nodes_[node].next = static_cast<uint32_t>(nodes_.size());
}

char Value::kind() const { return json_->nodes_[node_].kind; }

std::string Value::text() const {
  require(is_string(), "its JSON has something else where a text is meant");
  const Json::Node& node = json_->nodes_[node_];
  return unescaped(json_->text_.substr(node.begin, node.end - node.begin));
}

int64_t Value::number(int64_t least, int64_t most) const {
  const Json::Node& node = json_->nodes_[node_];
  const std::string_view digits = json_->text_.substr(node.begin, node.end - node.begin);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool whole = node.kind == '0' && error == std::errc() && end == digits.data() + digits.size();
  if (!whole || value < least || value > most)
    refuse("its JSON has " + std::string(digits.substr(0, 40)) +
           " where a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
           " is meant");
  return value;
}

double Value::real() const {
  const Json::Node& node = json_->nodes_[node_];
  require(node.kind == '0', "its JSON has something else where a number is meant");
  const std::string digits(json_->text_.substr(node.begin, node.end - node.begin));
  const bool negative = digits[0] == '-';
  if (digits.substr(negative ? 1 : 0) == kInfinity)
    return negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  std::istringstream stream(digits);  // strtod would read the comma of the process' locale
  stream.imbue(std::locale::classic());
  double value = 0.0;
  stream >> value;
  return value;
}

bool Value::truth() const {
  require(kind() == 't' || kind() == 'f', "its JSON has something else where true or false is meant");
  return kind() == 't';
}

std::vector<Value> Value::items() const {
  require(is_list(), "its JSON has something else where a list is meant");
  std::vector<Value> result;
  const auto& nodes = json_->nodes_;
  for (size_t i = node_ + 1; i < nodes[node_].next; i = nodes[i].next) result.push_back({json_, i});
  return result;
}

std::vector<std::pair<std::string, Value>> Value::members() const {
  require(is_object(), "its JSON has something else where an object is meant");
  std::vector<std::pair<std::string, Value>> result;
  const auto& nodes = json_->nodes_;
  for (size_t i = node_ + 1; i < nodes[node_].next; i = nodes[i].next) {
    result.emplace_back(Value(json_, i).text(), Value(json_, i + 1));
    ++i;  // from the name to its value
  }
  std::vector<std::string_view> names;
  for (const auto& member : result) names.push_back(member.first);
  std::sort(names.begin(), names.end());
  require(std::adjacent_find(names.begin(), names.end()) == names.end(),
          "its JSON holds a name twice");
  return result;
}

Value Value::operator[](std::string_view name) const {
  for (auto& [key, value] : members())
    if (key == name) return value;
  refuse("its JSON lacks " + std::string(name));
}

bool Value::has(std::string_view name) const {
  for (const auto& [key, value] : members())
    if (key == name) return true;
  return false;
}

}  // namespace billhook
