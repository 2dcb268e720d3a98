#include "container.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <type_traits>

#include "crc32.h"
#include "entropy.h"
#include "json.h"
#include "refusal.h"
#include "whole.h"

namespace billhook {

namespace {

constexpr int64_t kLength = 8, kMaxHeader = 100'000'000;
constexpr std::string_view kSuffix = ".billhook";

// Of eight bytes at most, which an address must count to.
constexpr int64_t kMostElements = PTRDIFF_MAX / 8;

int64_t product(const std::vector<int64_t>& shape) {
  Whole result = 1;
  for (const int64_t side : shape) {
    require(side <= kMostElements && (result *= side) <= kMostElements,
            "a tensor's shape has more elements than this machine can address");
  }
  return static_cast<int64_t>(result);
}

int64_t width_of(const std::string& dtype) {
  constexpr std::pair<const char*, int64_t> kWidths[] = {
      {"F32", 4}, {"U8", 1}, {"I8", 1}, {"I32", 4}};
  for (const auto& [name, width] : kWidths)
    if (dtype == name) return width;
  return 0;
}

int64_t whole(std::string_view digits) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool plain = !digits.empty() && digits[0] != '-' && (digits[0] != '0' || digits.size() == 1);
  require(plain && error == std::errc() && end == digits.data() + digits.size(),
          "a record holds something else than a whole number");
  return value;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

uint32_t crc_of(std::string_view digits) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  require(digits.size() == 8 && error == std::errc() && end == digits.data() + 8,
          "a record does not begin with a CRC-32");
  return value;
}

Tensor parse_record(const std::string& name, const std::string& text) {
  Tensor tensor;
  tensor.name = name;
  const std::vector<std::string_view> parts = split(text, ' ');
  require(parts.size() >= 4, "a record is too short");
  tensor.crc = crc_of(parts[0]);
  tensor.line = text.substr(9);
  tensor.coding = parts[1];
  tensor.dtype = parts[2];
  const std::string_view shape = parts[3];
  require(shape.size() >= 2 && shape.front() == '[' && shape.back() == ']',
          "a record's shape is not in brackets");
  if (shape.size() > 2)
    for (const std::string_view side : split(shape.substr(1, shape.size() - 2), ','))
      tensor.shape.push_back(whole(side));
  for (size_t i = 4; i < parts.size(); ++i) {
    const size_t sign = parts[i].find('=');
    require(sign != std::string_view::npos, "a record holds something else than KEY=NUMBER");
    const auto [at, fresh] = tensor.params.emplace(parts[i].substr(0, sign), 0);
    require(fresh, "a record holds a key twice");
    at->second = whole(parts[i].substr(sign + 1));
  }
  tensor.plain = tensor.coding == "dense" && tensor.dtype.find(':') == std::string::npos;
  return tensor;
}

struct Entry {
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t begin, end;
};

std::map<std::string, Entry, std::less<>> parse_entries(const Value& header, int64_t start,
                                                        int64_t size) {
  std::map<std::string, Entry, std::less<>> entries;
  std::vector<std::pair<int64_t, int64_t>> covers;
  for (const auto& [name, fields] : header.members()) {
    if (name == "__metadata__") continue;
    require(fields.members().size() == 3, "an entry has other fields than the three it should have");
    Entry entry{fields["dtype"].text(), {}, 0, 0};
    for (const Value& side : fields["shape"].items()) entry.shape.push_back(side.number(0, INT64_MAX));
    const std::vector<Value> offsets = fields["data_offsets"].items();
    require(offsets.size() == 2, "an entry's data_offsets are not two");
    entry.begin = start + offsets[0].number(0, size);
    entry.end = start + offsets[1].number(0, size);
    require(entry.begin <= entry.end && entry.end <= size, "an entry lies beyond the file's end");
    const int64_t width = width_of(entry.dtype);
    require(width == 0 || Whole(product(entry.shape)) * width == entry.end - entry.begin,
            "an entry's size is not that of its shape");
    covers.emplace_back(entry.begin, entry.end);
    entries.emplace(name, std::move(entry));
  }
  std::sort(covers.begin(), covers.end());
  int64_t position = start;
  for (const auto& [begin, end] : covers) {
    require(begin == position, "its entries overlap, or leave out a part of the file");
    position = end;
  }
  require(position == size, "its entries leave out a part of the file");
  return entries;
}

// The blocks that a tensor is cut into by the coding "blocks", and the mask of its elements.
class BlockGrid {
 public:
  explicit BlockGrid(const Tensor& tensor) {
    const bool flat = tensor.shape.size() < 2 || tensor.elements() == 0;
    size_[0] = flat ? 1 : tensor.shape[0];
    size_[1] = flat ? 1 : tensor.shape[1];
    size_[2] = flat ? tensor.elements() : tensor.elements() / (size_[0] * size_[1]);
    constexpr const char* kKeys[] = {"rows", "columns", "inner"};
    int64_t elements = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const auto found = tensor.params.find(kKeys[axis]);
      const int64_t side = found == tensor.params.end() ? 0 : found->second;
      require(side >= 1 && side <= 256 && (side & (side - 1)) == 0, "a block's side does not fit");
      elements *= side_[axis] = side;
      blocks_[axis] = (size_[axis] + side - 1) / side;
    }
    require(elements <= 256, "a block has more than 256 elements");
  }

  int64_t count() const { return blocks_[0] * blocks_[1] * blocks_[2]; }

  std::vector<uint8_t> mask(const uint8_t* index) const {
    const int64_t elements = size_[0] * size_[1] * size_[2];
    std::vector<uint8_t> mask(static_cast<size_t>((elements + 7) / 8));
    int64_t element = 0;
    for (int64_t i = 0; i < size_[0]; ++i)
      for (int64_t j = 0; j < size_[1]; ++j)
        for (int64_t k = 0; k < size_[2]; ++k, ++element) {
          const int64_t block =
              (i / side_[0] * blocks_[1] + j / side_[1]) * blocks_[2] + k / side_[2];
          if (index[block / 8] >> (block % 8) & 1)
            mask[static_cast<size_t>(element / 8)] |= static_cast<uint8_t>(1u << (element % 8));
        }
    for (int64_t block = count(); block % 8 != 0; ++block)
      require((index[block / 8] >> (block % 8) & 1) == 0, "bits are set behind those of the blocks");
    return mask;
  }

 private:
  int64_t size_[3], side_[3], blocks_[3];
};

// Leaves the values that are zero out of the values and of their mask.
template <typename T, typename Zero>
void drop_zeros(Nonzeros<T>& found, size_t elements, const Zero& zero) {
  size_t next = 0, kept = 0;
  for (size_t i = 0; i < elements; ++i) {
    const auto bit = static_cast<uint8_t>(1u << (i % 8));
    if ((found.mask[i / 8] & bit) == 0) continue;
    require(next < found.values.size(), "a tensor's mask does not fit its values");
    const T value = found.values[next++];
    if (zero(value))
      found.mask[i / 8] = static_cast<uint8_t>(found.mask[i / 8] & ~bit);
    else
      found.values[kept++] = value;
  }
  require(next == found.values.size(), "a tensor's mask does not fit its values");
  found.values.resize(kept);
}

}  // namespace

int64_t Tensor::elements() const { return product(shape); }

int64_t Tensor::stored() const {
  const int64_t width = width_of(dtype), numel = elements(), room = end - begin;
  require(width > 0, "a tensor has a type that the runtime does not know");
  const auto param = [&](const char* key) {
    const auto found = params.find(key);
    require(found != params.end(), "a record lacks a number that its coding needs");
    return found->second;
  };
  const auto fits = [&](Whole values, Whole index) {
    require(values * width + index == room, "a tensor's entry has another size than its record says");
  };
  if (coding == "dense") {
    require(params.empty(), "a dense tensor's record has numbers");
    fits(numel, 0);
    return numel;
  }
  const int64_t nnz = param("nnz");
  require(nnz <= numel, "a tensor has more values than elements");
  if (coding == "bitmask") {
    require(params.size() == 1, "a record has numbers that its coding does not have");
    fits(nnz, (Whole(numel) + 7) / 8);
    return nnz;
  }
  if (coding == "entropy") {
    require(params.size() == 1, "a record has numbers that its coding does not have");
    require((room - Whole(nnz) * width) * 2048 >= numel,
            "a tensor's entry is too short for its mask");
    return nnz;
  }
  if (coding == "blocks") {
    const int64_t count = param("stored"), blocks = param("blocks");
    const BlockGrid grid(*this);
    require(params.size() == 6 && blocks == grid.count() && nnz <= count && count <= numel,
            "a record's numbers do not fit together");
    fits(count, (Whole(blocks) + 7) / 8);
    return count;
  }
  if (coding != "relative_index")
    refuse("a tensor has the coding '" + coding + "', which this runtime does not know");
  const int64_t count = param("stored"), bits = param("bits");
  require(params.size() == 3 && bits >= 2 && bits <= 8 && nnz <= count && count <= numel,
          "a record's numbers do not fit together");
  fits(count, (Whole(count) * bits + 7) / 8);
  require(numel < (Whole(count) + 1) * (int64_t{1} << bits), "a tensor's gaps cannot span it");
  return count;
}

Container::Container(std::unique_ptr<Source> source) : source_(std::move(source)) {
  const int64_t size = source_->size();
  require(size >= kLength, "it is too short for a billhook file");
  uint8_t first[kLength];
  source_->read(0, kLength, first);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | first[i];
  require(length <= kMaxHeader && static_cast<int64_t>(length) <= size - kLength,
          "it is not a billhook file, or cut off");
  const int64_t start = kLength + static_cast<int64_t>(length);
  std::vector<uint8_t> text(static_cast<size_t>(length));
  source_->read(kLength, start, text.data());
  const Json json({reinterpret_cast<const char*>(text.data()), text.size()});
  const Value header = json.root();
  const auto entries = parse_entries(header, start, size);
  require(header.has("__metadata__"), "it holds no billhook tensors");
  const auto metadata = header["__metadata__"].members();
  size_t records = 0, used = 0;
  std::string version;
  for (const auto& [key, value] : metadata) {
    const std::string text = value.text();
    if (key == "billhook") version = text;
    if (key.empty() || key[0] != '@') continue;
    ++records;
    const std::string name = key.substr(1);
    if (text.size() > 14 && text.compare(8, 6, " tied ") == 0) {
      Crc32 crc;
      const std::string line = name + "\n" + text.substr(9) + "\n";
      crc.add(line.data(), line.size());
      require(crc.value() == crc_of(std::string_view(text).substr(0, 8)), "a record is damaged");
      ties_.emplace(name, text.substr(14));
      continue;
    }
    Tensor tensor = parse_record(name, text);
    const auto found = entries.find(tensor.plain ? name : name + std::string(kSuffix));
    require(found != entries.end(), "a record has no entry");
    const Entry& entry = found->second;
    require(!tensor.plain || (entry.dtype == tensor.dtype && entry.shape == tensor.shape),
            "an entry and its record differ");
    require(tensor.plain || (entry.dtype == "U8" && entry.shape.size() == 1),
            "a coded entry is not one of bytes");
    tensor.begin = entry.begin;
    tensor.end = entry.end;
    tensors_.emplace(name, std::move(tensor));
    ++used;
  }
  require(version.compare(0, 2, "1 ") == 0 && version.substr(2) == std::to_string(records),
          "it is not a billhook file of version 1, or some of its records are gone");
  require(used == entries.size(), "an entry has no record");
  for (const auto& [name, target] : ties_)
    require(tensors_.count(target) == 1, "a tensor is tied to one that is not stored");
}

bool Container::has(std::string_view name) const {
  return tensors_.find(name) != tensors_.end() || ties_.find(name) != ties_.end();
}

const Tensor& Container::tensor(std::string_view name) const {
  const auto tie = ties_.find(name);
  const auto found = tensors_.find(tie == ties_.end() ? name : std::string_view(tie->second));
  if (found == tensors_.end()) refuse("it has no tensor " + std::string(name));
  return found->second;
}

void Container::entry(const Tensor& tensor, std::span<uint8_t> first,
                      std::span<uint8_t> second) const {
  const int64_t middle = tensor.begin + static_cast<int64_t>(first.size());
  source_->read(tensor.begin, middle, first.data());
  source_->read(middle, tensor.end, second.data());
  Crc32 crc;
  const std::string head = tensor.name + "\n" + tensor.line + "\n";
  crc.add(head.data(), head.size());
  crc.add(first.data(), first.size());
  crc.add(second.data(), second.size());
  if (crc.value() != tensor.crc)
    refuse("tensor " + tensor.name + " is damaged: its CRC-32 is another; get the file again");
}

template <typename T>
Nonzeros<T> Container::coded(const Tensor& tensor) const {
  const auto numel = static_cast<size_t>(tensor.elements());
  const auto stored = static_cast<size_t>(tensor.stored());
  Nonzeros<T> found;
  found.values.resize(stored);
  const std::span<uint8_t> values(reinterpret_cast<uint8_t*>(found.values.data()), stored * sizeof(T));
  std::vector<uint8_t> index(static_cast<size_t>(tensor.end - tensor.begin) - values.size());
  entry(tensor, values, index);
  using Bits = std::conditional_t<sizeof(T) == 1, uint8_t, uint32_t>;
  const auto zero = [](T value) {  // not std::bit_cast, which emscripten of Debian has not
    Bits bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits == 0;
  };
  if (tensor.coding == "bitmask") {
    found.mask = std::move(index);
  } else if (tensor.coding == "entropy") {
    found.mask = decode_mask(index.data(), index.size(), tensor.shape, tensor.elements());
  } else if (tensor.coding == "blocks") {
    found.mask = BlockGrid(tensor).mask(index.data());
    drop_zeros(found, numel, zero);
  } else {  // values that are zero are left out of the mask
    found.mask.assign((numel + 7) / 8, 0);
    const size_t bits = tensor.coding == "dense" ? 0 : static_cast<size_t>(tensor.params.at("bits"));
    size_t position = 0, kept = 0;
    for (size_t i = 0; i < stored; ++i, ++position) {
      for (size_t b = 0; b < bits; ++b)
        position += static_cast<size_t>(index[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1) << b;
      require(position < numel, "a tensor's gaps lead beyond its end");
      if (zero(found.values[i])) continue;
      found.mask[position / 8] |= static_cast<uint8_t>(1u << (position % 8));
      found.values[kept++] = found.values[i];
    }
    require(bits == 0 || numel - position < size_t{1} << bits, "a tensor's gaps end too early");
    found.values.resize(kept);
  }
  const auto nonzero = std::count_if(found.values.begin(), found.values.end(),
                                     [&](T value) { return !zero(value); });
  const auto claimed = tensor.params.find("nnz");
  require(claimed == tensor.params.end() || claimed->second == nonzero,
          "a tensor has another number of values that are not zero than its record says");
  return found;
}

template <typename T>
void Container::dense(const Tensor& tensor, T* to) const {
  const auto bytes = static_cast<size_t>(tensor.stored()) * sizeof(T);
  if (tensor.plain) return entry(tensor, {reinterpret_cast<uint8_t*>(to), bytes}, {});
  const Nonzeros<T> found = coded<T>(tensor);
  const auto numel = static_cast<size_t>(tensor.elements());
  size_t next = 0;
  for (size_t i = 0; i < numel; ++i) {
    const bool given = (found.mask[i / 8] >> (i % 8) & 1) != 0;
    require(!given || next < found.values.size(), "a tensor's mask does not fit its values");
    to[i] = given ? found.values[next++] : T{};
  }
  require(next == found.values.size(), "a tensor's mask does not fit its values");
}

std::vector<uint8_t> Container::bytes(const Tensor& tensor) const {
  require(tensor.dtype == "U8", "a text is of another type than U8");
  std::vector<uint8_t> elements(static_cast<size_t>(tensor.elements()));
  dense(tensor, elements.data());
  return elements;
}

void Container::floats(const Tensor& tensor, float* to) const {
  require(tensor.dtype == "F32", "a bias or constant is of another type than F32");
  dense(tensor, to);
}

void Container::values(const Tensor& tensor, int8_t* to) const {
  require(tensor.dtype == "I8", "a weight in 8 bits is of another type than I8");
  dense(tensor, to);
}

void Container::values(const Tensor& tensor, int32_t* to) const {
  require(tensor.dtype == "I32", "a bias in 8 bits is of another type than I32");
  dense(tensor, to);
}

Nonzeros<float> Container::nonzeros(const Tensor& tensor) const {
  require(tensor.dtype == "F32", "a weight is of another type than F32");
  return coded<float>(tensor);
}

}  // namespace billhook
