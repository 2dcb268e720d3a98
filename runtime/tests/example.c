/* A program from C: run.c FILE INPUT OUTPUT [THREADS]. INPUT and OUTPUT are raw floats, as many samples
 * as INPUT holds. Prints the milliseconds to open and the bytes that running takes (none). */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "billhook.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, billhook_error());
  return 1;
}

int main(int count, char** arguments) {
  if (count < 4) return 2;
  billhook_program* program;
  billhook_session* session;
  billhook_tensor input, output;
  const double begin = now();
  if (billhook_open(arguments[1], &program) != BILLHOOK_OK) return failed("open");
  if (billhook_session_open(program, count > 4 ? (size_t)atoi(arguments[4]) : 1, &session) != BILLHOOK_OK)
    return failed("session");
  const double opened = now() - begin;
  billhook_input(program, 0, &input);
  billhook_output(program, 0, &output);

  FILE* file = fopen(arguments[2], "rb");
  if (file == NULL) return 2;
  fseek(file, 0, SEEK_END);
  const size_t samples = (size_t)ftell(file) / sizeof(float) / (size_t)input.elements;
  rewind(file);
  float* x = malloc(samples * (size_t)input.elements * sizeof(float));
  float* y = malloc(samples * (size_t)output.elements * sizeof(float));
  if (x == NULL || y == NULL || fread(x, sizeof(float), samples * (size_t)input.elements, file) == 0)
    return 2;
  fclose(file);

  const float* inputs[] = {x};
  float* outputs[] = {y};
  const size_t before = mallinfo2().uordblks;
  if (billhook_run(session, inputs, outputs, samples) != BILLHOOK_OK) return failed("run");
  const size_t taken = mallinfo2().uordblks - before;
  file = fopen(arguments[3], "wb");
  if (file == NULL) return 2;
  fwrite(y, sizeof(float), samples * (size_t)output.elements, file);
  fclose(file);
  printf("%s: %zu samples on %s, opened in %.2f ms, %zu bytes taken by running\n", output.name, samples,
         billhook_instruction_set(program), opened, taken);
  free(x);
  free(y);
  billhook_session_close(session);
  billhook_close(program);
  return taken == 0 ? 0 : 3;
}
