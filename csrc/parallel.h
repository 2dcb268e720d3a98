// Parallel loops: on the OpenMP pool the process already has, or in the runtime on a session's threads.
//
// The library for Python neither links nor bundles an OpenMP runtime: the weak symbol binds to the one
// torch loaded (every OpenMP runtime in use answers to GOMP_parallel), so both share one pool and no
// core is oversubscribed. Without one the loop runs on the calling thread.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#if defined(BILLHOOK_RUNTIME)
#include "runtime/pool.h"
#else
extern "C" void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags)
    __attribute__((weak));
#endif

namespace billhook {

#if defined(BILLHOOK_RUNTIME)
inline bool has_threads() { return Pool::current() != nullptr; }
inline void on_threads(void (*body)(void*), void* data, int64_t threads) {
  Pool::current()->run(body, data, threads);
}
#else
inline bool has_threads() { return GOMP_parallel != nullptr; }
inline void on_threads(void (*body)(void*), void* data, int64_t threads) {
  GOMP_parallel(body, data, static_cast<unsigned>(threads), 0);
}
#endif

// Calls body(task) once for every task in [0, tasks), on up to `threads` threads. What a body throws
// ends the loop and is thrown here: an exception must not leave a thread of the pool.
template <typename Body>
void parallel_for(int64_t tasks, int64_t threads, const Body& body) {
  if (threads > tasks) threads = tasks;
  if (threads <= 1 || !has_threads()) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next;
    int64_t tasks;
    const Body* body;
    std::atomic_flag failed;
    std::exception_ptr error;
  } shared{{0}, tasks, &body, ATOMIC_FLAG_INIT, nullptr};
  on_threads(
      [](void* data) {
        auto* loop = static_cast<Shared*>(data);
        try {
          for (int64_t task; (task = loop->next.fetch_add(1)) < loop->tasks;) (*loop->body)(task);
        } catch (...) {
          if (!loop->failed.test_and_set()) loop->error = std::current_exception();
          loop->next.store(loop->tasks);
        }
      },
      &shared, threads);
  if (shared.error != nullptr) std::rethrow_exception(shared.error);
}

// Calls body(first, last) for ranges that share [0, count): one, or of several threads four each.
template <typename Body>
void parallel_ranges(int64_t count, int64_t threads, const Body& body) {
  const int64_t ranges = threads <= 1 ? 1 : std::min(count, 4 * threads);
  parallel_for(ranges, threads, [&](int64_t i) {
    body(count * i / ranges, count * (i + 1) / ranges);
  });
}

}  // namespace billhook
