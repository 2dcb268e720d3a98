// The threads of one session: a loop of a step runs on them and on the thread that calls.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace billhook {

struct Lent;

class Pool {
 public:
  // With the calling thread so many threads as `lent` has entries; thread i uses lent[i].
  explicit Pool(const std::vector<Lent>& lent);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Calls body(data) on `threads` threads, this one included, and returns when all are done. body
  // throws nothing.
  void run(void (*body)(void*), void* data, int64_t threads);

  // The pool that loops of this thread use, null for none.
  static Pool* current() { return current_; }
  static void use(Pool* pool) { current_ = pool; }

 private:
  void work(int64_t index, const Lent* lent);
  void stop();

  static thread_local Pool* current_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  void (*body_)(void*) = nullptr;
  void* data_ = nullptr;
  int64_t wanted_ = 0;
  std::atomic<uint64_t> round_{0};
  std::atomic<int64_t> busy_{0};
  bool stopping_ = false;
};

}  // namespace billhook
