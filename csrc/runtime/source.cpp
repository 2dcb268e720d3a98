// For files of 2 GB and more on processors of 32 bits.
#define _FILE_OFFSET_BITS 64
#include "source.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

#include "refusal.h"

namespace billhook {

namespace {

class File : public Source {
 public:
  explicit File(const char* path) : path_(path) {
    descriptor_ = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat found;
    if (descriptor_ < 0 || ::fstat(descriptor_, &found) != 0)
      refuse(path_ + ": " + std::strerror(errno), BILLHOOK_IO);
    if (!S_ISREG(found.st_mode)) {
      ::close(descriptor_);
      refuse(path_ + " is not an ordinary file", BILLHOOK_IO);
    }
    size_ = found.st_size;
  }
  ~File() override { ::close(descriptor_); }
  int64_t size() const override { return size_; }
  void read(int64_t begin, int64_t end, void* to) const override {
    auto* bytes = static_cast<uint8_t*>(to);
    const auto size = static_cast<size_t>(end - begin);
    for (size_t done = 0; done < size;) {
      const ssize_t count = ::pread(descriptor_, bytes + done, size - done,
                                    static_cast<off_t>(begin + static_cast<int64_t>(done)));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) refuse(path_ + ": " + std::strerror(errno), BILLHOOK_IO);
      if (count == 0) refuse("the file was cut off while it was read");
      done += static_cast<size_t>(count);
    }
  }

 private:
  std::string path_;
  int descriptor_;
  int64_t size_ = 0;
};

class Bytes : public Source {
 public:
  Bytes(const void* data, size_t size) : data_(static_cast<const uint8_t*>(data)), size_(size) {}
  int64_t size() const override { return static_cast<int64_t>(size_); }
  void read(int64_t begin, int64_t end, void* to) const override {
    if (end > begin) std::memcpy(to, data_ + begin, static_cast<size_t>(end - begin));
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace

std::unique_ptr<Source> open_file(const char* path) { return std::make_unique<File>(path); }
std::unique_ptr<Source> open_bytes(const void* data, size_t size) {
  return std::make_unique<Bytes>(data, size);
}

}  // namespace billhook
