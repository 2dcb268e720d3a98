// The C ABI of billhook's kernels: raw pointers, no torch, no Python.
//
// Every exported function is declared BILLHOOK_API, takes pointers and 64-bit sizes, and returns
// either nothing or an int64_t status whose meaning its comment states. src/billhook/native.py
// refuses a library whose version differs from its own, so change both numbers together.
#pragma once
#include <cstdint>

#define BILLHOOK_ABI_VERSION 2
#define BILLHOOK_API extern "C" __attribute__((visibility("default")))
