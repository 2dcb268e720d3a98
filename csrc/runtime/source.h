// The bytes of a billhook file, from a path or from memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace billhook {

// Where the bytes of a file come from. They are read, never mapped: a file that is cut off while it
// is mapped ends the process, and one that is changed would differ from what was checked.
class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t size() const = 0;
  // Bytes [begin, end) of it, which lie within its size.
  virtual void read(int64_t begin, int64_t end, void* to) const = 0;
};

std::unique_ptr<Source> open_file(const char* path);
std::unique_ptr<Source> open_bytes(const void* data, size_t size);

}  // namespace billhook
