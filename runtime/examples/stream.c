/* The keys of a telephone in a WAV file, as examples/tones.py trains a network to hear them:
 * stream FILE WAV [SCORES]. The file is read in frames of 20 ms, as a microphone gives them. What the
 * network remembers between two frames is one array, which goes in and comes out: a stream may be cut
 * anywhere and go on later. A key counts when two frames running have it and the two before did not.
 * All scores are written to SCORES, as floats. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "billhook.h"

#define FRAME 160 /* samples, of which there are 8000 a second */
#define SILENCE 16
#define MAX_SCORES 64

static const char KEYS[] = "123A456B789C*0#D";

static void stop(const char* why) {
  fprintf(stderr, "%s\n", why);
  exit(1);
}

static void check(int status) {
  if (status != BILLHOOK_OK) stop(billhook_error());
}

static unsigned number(const unsigned char* bytes, int count) {
  unsigned made = 0;
  for (int i = count - 1; i >= 0; --i) made = made << 8 | bytes[i];
  return made;
}

/* Goes to the samples of a WAV file; says how many bytes they are. */
static unsigned find_samples(FILE* file) {
  unsigned char head[12], chunk[8], format[16];
  if (fread(head, 1, 12, file) != 12 || memcmp(head, "RIFF", 4) || memcmp(head + 8, "WAVE", 4))
    stop("that is not a WAV file");
  int known = 0;
  while (fread(chunk, 1, 8, file) == 8) {
    unsigned size = number(chunk + 4, 4);
    if (!memcmp(chunk, "data", 4)) {
      if (!known) stop("the WAV file does not say what its samples are");
      return size;
    }
    if (!memcmp(chunk, "fmt ", 4) && size >= 16) {
      if (fread(format, 1, 16, file) != 16) break;
      if (number(format, 2) != 1 || number(format + 2, 2) != 1 || number(format + 4, 4) != 8000 ||
          number(format + 14, 2) != 16)
        stop("the WAV file must have one channel of 8000 samples of 16 bits a second");
      known = 1;
      size -= 16;
    }
    if (fseek(file, (long)size + (size & 1), SEEK_CUR) != 0) break;
  }
  stop("the WAV file ends before its samples");
  return 0;
}

/* A frame of samples in [-1, 1); 0 at the end of the file. */
static int read_frame(FILE* file, unsigned* left, float* frame) {
  unsigned char bytes[2 * FRAME];
  if (*left < sizeof bytes || fread(bytes, 1, sizeof bytes, file) != sizeof bytes) return 0;
  *left -= sizeof bytes;
  for (int i = 0; i < FRAME; ++i) {
    const int value = (int)number(bytes + 2 * i, 2);
    frame[i] = (float)(value < 32768 ? value : value - 65536) / 32768.0f;
  }
  return 1;
}

static int largest(const float* scores, size_t count) {
  size_t best = 0;
  for (size_t i = 1; i < count; ++i)
    if (scores[i] > scores[best]) best = i;
  return (int)best;
}

int main(int count, char** arguments) {
  if (count < 3 || count > 4) stop("stream FILE WAV [SCORES]");
  billhook_program* program;
  billhook_session* session;
  check(billhook_open(arguments[1], &program));
  check(billhook_session_open(program, 1, &session));
  billhook_tensor samples, before, scored, after;
  if (billhook_input_count(program) != 2 || billhook_output_count(program) != 2)
    stop("the program must take samples and a state, and give scores and a state");
  check(billhook_input(program, 0, &samples));
  check(billhook_input(program, 1, &before));
  check(billhook_output(program, 0, &scored));
  check(billhook_output(program, 1, &after));
  if (samples.elements != FRAME || before.elements != after.elements ||
      scored.elements != SILENCE + 1 || strcmp(samples.dtype, "F32") || strcmp(before.dtype, "F32"))
    stop("the program must take 160 samples and give 17 scores, and its states must be of one size");

  FILE* wav = fopen(arguments[2], "rb");
  FILE* log = count == 4 ? fopen(arguments[3], "wb") : NULL;
  float* states[2] = {calloc(1, (size_t)before.bytes), calloc(1, (size_t)before.bytes)};
  if (wav == NULL || (count == 4 && log == NULL)) stop("a file cannot be opened");
  if (states[0] == NULL || states[1] == NULL) stop("there is not enough memory");
  float frame[FRAME], scores[MAX_SCORES];
  unsigned left = find_samples(wav);
  int last = SILENCE, pressed = SILENCE;
  for (int t = 0; read_frame(wav, &left, frame); ++t) {
    const void* inputs[] = {frame, states[t % 2]};
    float* outputs[] = {scores, states[(t + 1) % 2]};
    check(billhook_run(session, inputs, outputs, 1));
    const int key = largest(scores, SILENCE + 1);
    if (key == last && key != pressed) {
      if (key != SILENCE) printf("%.2f s: %c\n", 0.02 * (t - 1), KEYS[key]);
      pressed = key;
    }
    last = key;
    if (log != NULL) fwrite(scores, sizeof(float), SILENCE + 1, log);
  }
  if (log != NULL) fclose(log);
  fclose(wav);
  free(states[0]);
  free(states[1]);
  billhook_session_close(session);
  billhook_close(program);
  return 0;
}
