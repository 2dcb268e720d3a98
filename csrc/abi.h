// The C ABI of billhook's kernels: raw pointers, no torch, no Python.
//
// Every exported function is declared BILLHOOK_API, takes pointers and 64-bit sizes, and returns an
// int64_t whose meaning its comment states, 0 if it has none. No exception leaves one: a function
// that may allocate is a function-try-block that ends in `catch (...) { return failure(); }`, which
// src/billhook/native.py makes a MemoryError of. It also refuses a library whose version differs
// from its own, so change both numbers together.
#pragma once
#include <cstdint>
#include <new>
#include <stdexcept>

#define BILLHOOK_ABI_VERSION 4
#if defined(BILLHOOK_RUNTIME)  // which exports runtime/billhook.h alone
#define BILLHOOK_API extern "C" __attribute__((visibility("hidden")))
#else
#define BILLHOOK_API extern "C" __attribute__((visibility("default")))
#endif

namespace billhook {

// Mirrored by native.py.
constexpr int64_t kOutOfMemory = -1000, kOtherFailure = -1001, kOutOfRange = -1002;

// What a kernel returns instead of letting the exception it caught leave the library.
inline int64_t failure() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (const std::length_error&) {
    return kOutOfMemory;  // a vector of more elements than an address counts to
  } catch (const std::out_of_range&) {
    return kOutOfRange;
  } catch (...) {
    return kOtherFailure;
  }
}

}  // namespace billhook
