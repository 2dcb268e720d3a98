/* Runs programs that billhook.save(billhook.compile(...), path) wrote, without Python and torch.
 *
 * A program holds the weights, packed for this processor, and can be shared by all threads. A session
 * holds what one run needs; one thread at a time may use it. Functions that return int give
 * BILLHOOK_OK or another status; billhook_error() then says in a sentence what is wrong. No exception
 * leaves a function, and billhook_run takes no memory.
 */
#ifndef BILLHOOK_H
#define BILLHOOK_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BILLHOOK_PUBLIC
#else
#define BILLHOOK_PUBLIC __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  BILLHOOK_OK = 0,
  BILLHOOK_BAD_FILE = 1,    /* damaged, hostile, or no program */
  BILLHOOK_UNSUPPORTED = 2, /* a program that this runtime does not run */
  BILLHOOK_BAD_CALL = 3,    /* arguments that cannot be right */
  BILLHOOK_NO_MEMORY = 4,
  BILLHOOK_IO = 5
};

typedef struct billhook_program billhook_program;
typedef struct billhook_session billhook_session;

#define BILLHOOK_MAX_DIMENSIONS 8

/* An input or an output. `shape`, `elements` and `bytes` are one sample's. `dtype` is "F32" (float), of
 * inputs also "I64" (int64_t), "I32" (int32_t) or "BOOL" (a byte, 0 or 1). Samples lie one after another
 * in the arrays of billhook_run; `axis` says which dimension they are in the model that was compiled,
 * and `merged` that it has them and the dimension after them as one. */
typedef struct {
  const char* name;
  const char* dtype;
  size_t dimensions;
  int64_t shape[BILLHOOK_MAX_DIMENSIONS];
  int64_t elements;
  int64_t bytes;
  size_t axis;
  int merged;
} billhook_tensor;

/* Bytes that a program takes: its packed weights, at most; what more is in use while they are packed;
 * and a session with one thread, then for each further thread. */
typedef struct {
  int64_t weights;
  int64_t packing;
  int64_t session;
  int64_t thread;
} billhook_memory;

/* What a program would take, from a file or from memory, before any of it is taken. */
BILLHOOK_PUBLIC int billhook_measure(const char* path, billhook_memory* memory);
BILLHOOK_PUBLIC int billhook_measure_memory(const void* data, size_t size, billhook_memory* memory);

/* Opens and checks a program and packs its weights. The file, or the memory, is not used afterwards. */
BILLHOOK_PUBLIC int billhook_open(const char* path, billhook_program** program);
BILLHOOK_PUBLIC int billhook_open_memory(const void* data, size_t size, billhook_program** program);
/* After the last session is closed. */
BILLHOOK_PUBLIC void billhook_close(billhook_program* program);

BILLHOOK_PUBLIC size_t billhook_input_count(const billhook_program* program);
BILLHOOK_PUBLIC size_t billhook_output_count(const billhook_program* program);
/* The pointers in `tensor` live as long as the program. */
BILLHOOK_PUBLIC int billhook_input(const billhook_program* program, size_t index,
                                   billhook_tensor* tensor);
BILLHOOK_PUBLIC int billhook_output(const billhook_program* program, size_t index,
                                    billhook_tensor* tensor);
/* The index of the input or output of a name. */
BILLHOOK_PUBLIC int billhook_find_input(const billhook_program* program, const char* name,
                                        size_t* index);
BILLHOOK_PUBLIC int billhook_find_output(const billhook_program* program, const char* name,
                                         size_t* index);
/* The instruction set in use, as "avx2". */
BILLHOOK_PUBLIC const char* billhook_instruction_set(const billhook_program* program);

/* A session that runs on so many threads, the calling one included. */
BILLHOOK_PUBLIC int billhook_session_open(const billhook_program* program, size_t threads,
                                          billhook_session** session);
BILLHOOK_PUBLIC void billhook_session_close(billhook_session* session);

/* Runs `samples` samples, which lie one after another in each input and output: an array for each, in
 * order, of its type and of samples * bytes. An index beyond the rows of an embedding's table is
 * BILLHOOK_BAD_CALL; then the outputs may hold anything. */
BILLHOOK_PUBLIC int billhook_run(billhook_session* session, const void* const* inputs,
                                 float* const* outputs, size_t samples);

/* Of the last call of this thread that failed; "" if none has. */
BILLHOOK_PUBLIC const char* billhook_error(void);
BILLHOOK_PUBLIC const char* billhook_version(void);

#ifdef __cplusplus
}
#endif
#endif
