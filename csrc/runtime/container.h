// A billhook file (src/billhook/format/SPEC.md): header, records, checksums, tensors.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "source.h"

namespace billhook {

// A tensor as its record describes it.
struct Tensor {
  std::string name, coding, dtype, line;  // line: the record without its CRC
  std::vector<int64_t> shape;
  std::map<std::string, int64_t> params;
  uint32_t crc = 0;
  int64_t begin = 0, end = 0;  // in the file
  bool plain = false;          // an ordinary tensor of safetensors

  int64_t elements() const;
  int64_t stored() const;  // values, checked against the entry's size; 0 bytes a value in no case
};

// The nonzeros of a tensor: its mask, and the values. Whether these are as many is not checked.
template <typename T>
struct Nonzeros {
  std::vector<uint8_t> mask;
  std::vector<T> values;
};

class Container {
 public:
  explicit Container(std::unique_ptr<Source> source);
  const Tensor& tensor(std::string_view name) const;  // Refusal where it is missing; ties are followed
  bool has(std::string_view name) const;
  int64_t size() const { return source_->size(); }

  // What a tensor holds, its CRC checked: all elements of U8, F32, I8 and I32, the nonzeros of F32.
  std::vector<uint8_t> bytes(const Tensor& tensor) const;
  void floats(const Tensor& tensor, float* to) const;  // as many as it has elements
  void values(const Tensor& tensor, int8_t* to) const;
  void values(const Tensor& tensor, int32_t* to) const;
  Nonzeros<float> nonzeros(const Tensor& tensor) const;

 private:
  template <typename T>
  Nonzeros<T> coded(const Tensor& tensor) const;
  template <typename T>
  void dense(const Tensor& tensor, T* to) const;
  // Its bytes, which the spans hold one after another.
  void entry(const Tensor& tensor, std::span<uint8_t> first, std::span<uint8_t> second) const;
  std::unique_ptr<Source> source_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> ties_;
};

}  // namespace billhook
