/* A program from C: example FILE THREADS FOLDER. FOLDER has for each input a file of its name, raw
 * numbers of as many samples as the first one holds; each output is written there likewise. Prints the
 * milliseconds to open and the bytes that running takes (none). */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "billhook.h"

#define MAX_PORTS 256

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void stop(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(int status) {
  if (status != BILLHOOK_OK) stop("billhook", billhook_error());
}

static FILE* file_of(const char* folder, const char* name, const char* mode) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE* file = fopen(path, mode);
  if (file == NULL) stop(path, "cannot be opened");
  return file;
}

/* All bytes of a file; *size says how many. */
static void* read_file(const char* folder, const char* name, size_t* size) {
  FILE* file = file_of(folder, name, "rb");
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  void* bytes = malloc(*size);
  if (bytes == NULL || fread(bytes, 1, *size, file) != *size) stop(name, "cannot be read");
  fclose(file);
  return bytes;
}

int main(int count, char** arguments) {
  if (count != 4) return 2;
  const char* folder = arguments[3];
  billhook_program* program;
  billhook_session* session;
  const double begin = now();
  check(billhook_open(arguments[1], &program));
  check(billhook_session_open(program, (size_t)atoi(arguments[2]), &session));
  const double opened = now() - begin;

  static const void* inputs[MAX_PORTS];
  static float* outputs[MAX_PORTS];
  const size_t given = billhook_input_count(program), made = billhook_output_count(program);
  billhook_tensor tensor;
  size_t samples = 0, size;
  for (size_t i = 0; i < given; ++i) {
    check(billhook_input(program, i, &tensor));
    inputs[i] = read_file(folder, tensor.name, &size);
    if (i == 0) samples = size / (size_t)tensor.bytes;
    if (size != samples * (size_t)tensor.bytes) stop(tensor.name, "has another number of samples");
  }
  for (size_t i = 0; i < made; ++i) {
    check(billhook_output(program, i, &tensor));
    outputs[i] = malloc(samples * (size_t)tensor.bytes);
    if (outputs[i] == NULL) stop(tensor.name, "needs more memory than there is");
  }

  const size_t before = mallinfo2().uordblks;
  check(billhook_run(session, inputs, outputs, samples));
  const size_t taken = mallinfo2().uordblks - before;

  for (size_t i = 0; i < made; ++i) {
    check(billhook_output(program, i, &tensor));
    FILE* file = file_of(folder, tensor.name, "wb");
    fwrite(outputs[i], (size_t)tensor.bytes, samples, file);
    fclose(file);
    free(outputs[i]);
  }
  for (size_t i = 0; i < given; ++i) free((void*)inputs[i]);
  printf("%zu samples on %s, opened in %.2f ms, %zu bytes taken by running\n", samples,
         billhook_instruction_set(program), opened, taken);
  billhook_session_close(session);
  billhook_close(program);
  return taken == 0 ? 0 : 3;
}
