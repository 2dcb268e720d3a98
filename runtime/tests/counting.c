/* Counts what a call of billhook_run allocates: preloaded, it stands before the C library's malloc. */
#include <stdatomic.h>
#include <stddef.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static atomic_int counting, calls;

static void count(void) {
  if (counting) ++calls;
}

void* malloc(size_t size) { return count(), __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return count(), __libc_calloc(n, size); }
void* realloc(void* old, size_t size) { return count(), __libc_realloc(old, size); }
void* memalign(size_t alignment, size_t size) { return count(), __libc_memalign(alignment, size); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

typedef int (*run_function)(void*, const void* const*, float* const*, size_t);

/* The allocations of all threads during run(...); -1 if it fails. */
int counted_run(run_function run, void* session, const void* const* inputs, float* const* outputs,
                size_t samples) {
  calls = 0;
  counting = 1;
  const int status = run(session, inputs, outputs, samples);
  counting = 0;
  return status == 0 ? calls : -1;
}
