#include "pool.h"

#include "f32_panel.h"

namespace billhook {

thread_local Pool* Pool::current_ = nullptr;

namespace {
// Steps follow one another within microseconds: a thread looks this often before it sleeps.
constexpr int kLooks = 4000;
}  // namespace

Pool::Pool(const std::vector<Lent>& lent) {
  try {
    for (size_t i = 1; i < lent.size(); ++i)
      threads_.emplace_back([this, i, own = &lent[i]] { work(static_cast<int64_t>(i), own); });
  } catch (...) {  // not so many threads can be had
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    round_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void Pool::work(int64_t index, const Lent* lent) {
  lend(lent);
  for (uint64_t seen = 0;;) {
    for (int look = 0; look < kLooks && round_.load() == seen; ++look) {
    }
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [&] { return round_.load() != seen; });
    seen = round_.load();
    if (stopping_) return;
    if (index >= wanted_) continue;
    auto* const body = body_;
    void* const data = data_;
    lock.unlock();
    body(data);
    if (busy_.fetch_sub(1) == 1) {
      const std::lock_guard<std::mutex> last(mutex_);
      done_.notify_one();
    }
  }
}

void Pool::run(void (*body)(void*), void* data, int64_t threads) {
  const int64_t others = std::min<int64_t>(threads - 1, static_cast<int64_t>(threads_.size()));
  if (others > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = body;
    data_ = data;
    wanted_ = others + 1;
    busy_.store(others);
    round_.fetch_add(1);
  }
  if (others > 0) wake_.notify_all();
  body(data);
  for (int look = 0; look < kLooks && busy_.load() > 0; ++look) {
  }
  if (others <= 0) return;
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [&] { return busy_.load() == 0; });
}

}  // namespace billhook
