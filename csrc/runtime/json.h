// A strict reader of JSON (RFC 8259): bounded depth, names once, memory in proportion to the text. As
// in Python's module json a number may also be Infinity or -Infinity.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace billhook {

class Json;

// A value in a parsed text, valid as long as its Json.
class Value {
 public:
  bool is_object() const { return kind() == '{'; }
  bool is_list() const { return kind() == '['; }
  bool is_string() const { return kind() == '"'; }

  std::string text() const;              // of a string; Refusal otherwise
  int64_t number(int64_t least, int64_t most) const;  // a whole number; Refusal otherwise
  double real() const;                   // any number
  bool truth() const;                    // true or false
  std::vector<Value> items() const;      // of a list
  std::vector<std::pair<std::string, Value>> members() const;  // of an object, each name once
  Value operator[](std::string_view name) const;  // Refusal where it is missing
  bool has(std::string_view name) const;

 private:
  friend class Json;
  Value(const Json* json, size_t node) : json_(json), node_(node) {}
  char kind() const;
  const Json* json_;
  size_t node_;
};

class Json {
 public:
  explicit Json(std::string_view text);  // Refusal unless it is one value
  Value root() const { return Value(this, 0); }

 private:
  friend class Value;
  struct Node {
    char kind;  // { [ " 0 t f n
    uint32_t begin, end;  // in the text; of a string without its quotes
    uint32_t next;        // the node after this one and all that it holds
  };
  void value(int depth);
  void string();
  void number();
  void word(std::string_view word);
  void space();
  bool take(char c);
  [[noreturn]] void fail(const char* what) const;

  std::string_view text_;
  size_t at_ = 0;
  std::vector<Node> nodes_;
};

}  // namespace billhook
