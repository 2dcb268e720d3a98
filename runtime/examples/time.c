/* What a program takes on this machine: time FILE RUNS [THREADS]. It runs one sample of zeros, and prints
 * milliseconds of the processor's time for opening and for the fastest and the median run, and the
 * memory of the process at its peak (on Linux). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "billhook.h"

#define MAX_PORTS 256
#define MAX_RUNS 100000

static double milliseconds(void) { return 1e3 * (double)clock() / CLOCKS_PER_SEC; }

static void check(int status) {
  if (status == BILLHOOK_OK) return;
  fprintf(stderr, "%s\n", billhook_error());
  exit(1);
}

static void* zeros(size_t bytes) {
  void* made = calloc(1, bytes);
  if (made == NULL) exit(1);
  return made;
}

/* The kilobytes of the process at its peak, or -1. */
static long peak(void) {
  FILE* status = fopen("/proc/self/status", "r");
  char line[256];
  long found = -1;
  while (status != NULL && found < 0 && fgets(line, sizeof line, status) != NULL)
    sscanf(line, "VmHWM: %ld", &found);
  if (status != NULL) fclose(status);
  return found;
}

static int by_size(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int count, char** arguments) {
  static double times[MAX_RUNS];
  const int runs = count < 3 ? 0 : atoi(arguments[2]);
  if (count > 4 || runs < 1 || runs > MAX_RUNS) {
    fprintf(stderr, "time FILE RUNS [THREADS], with 1 to %d runs\n", MAX_RUNS);
    return 2;
  }
  billhook_program* program;
  billhook_session* session;
  const double begin = milliseconds();
  check(billhook_open(arguments[1], &program));
  check(billhook_session_open(program, count == 4 ? (size_t)atoi(arguments[3]) : 1, &session));
  const double opened = milliseconds() - begin;

  static const void* inputs[MAX_PORTS];
  static float* outputs[MAX_PORTS];
  billhook_tensor tensor;
  for (size_t i = 0; i < billhook_input_count(program); ++i) {
    check(billhook_input(program, i, &tensor));
    inputs[i] = zeros((size_t)tensor.bytes);
  }
  for (size_t i = 0; i < billhook_output_count(program); ++i) {
    check(billhook_output(program, i, &tensor));
    outputs[i] = zeros((size_t)tensor.bytes);
  }
  check(billhook_run(session, inputs, outputs, 1)); /* the first run fetches the weights */
  for (int i = 0; i < runs; ++i) {
    const double start = milliseconds();
    check(billhook_run(session, inputs, outputs, 1));
    times[i] = milliseconds() - start;
  }
  qsort(times, (size_t)runs, sizeof times[0], by_size);
  printf("instructions %s\nopen_ms %.2f\nfastest_ms %.3f\nmedian_ms %.3f\npeak_kb %ld\n",
         billhook_instruction_set(program), opened, times[0], times[runs / 2], peak());
  billhook_session_close(session);
  billhook_close(program);
  return 0;
}
