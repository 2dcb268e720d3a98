/* What becomes of each file, a line each: open_files PATH...; zeros are run where it opens. Without
 * paths it prints how many bits a pointer has. */
#include <stdio.h>
#include <stdlib.h>

#include "billhook.h"

#define MAX_PORTS 256

/* Runs one sample of zeros; the status. */
static int run(billhook_program* program) {
  static void* taken[2 * MAX_PORTS];
  billhook_session* session;
  billhook_tensor tensor;
  const size_t inputs = billhook_input_count(program), outputs = billhook_output_count(program);
  int status = billhook_session_open(program, 1, &session);
  if (status != BILLHOOK_OK) return status;
  for (size_t i = 0; i < inputs + outputs; ++i) {
    if (i < inputs)
      billhook_input(program, i, &tensor);
    else
      billhook_output(program, i - inputs, &tensor);
    taken[i] = calloc(1, (size_t)tensor.bytes);
    if (taken[i] == NULL) exit(1);
  }
  status = billhook_run(session, (const void* const*)taken, (float* const*)(taken + inputs), 1);
  for (size_t i = 0; i < inputs + outputs; ++i) free(taken[i]);
  billhook_session_close(session);
  return status;
}

int main(int count, char** arguments) {
  if (count == 1) printf("%d\n", (int)(8 * sizeof(void*)));
  for (int i = 1; i < count; ++i) {
    billhook_program* program;
    int status = billhook_open(arguments[i], &program);
    if (status == BILLHOOK_OK) {
      status = run(program);
      billhook_close(program);
    }
    puts(status == BILLHOOK_OK ? "opened and ran" : billhook_error());
  }
  return 0;
}
