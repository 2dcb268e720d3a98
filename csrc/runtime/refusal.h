// What keeps a program from being opened or run, as a status of billhook.h and a sentence.
#pragma once
#include <string>
#include <utility>

#include "billhook.h"

namespace billhook {

struct Refusal {
  int status;
  std::string why;
};

[[noreturn]] inline void refuse(std::string why, int status = BILLHOOK_BAD_FILE) {
  throw Refusal{status, std::move(why)};
}

inline void require(bool holds, const char* why) {
  if (!holds) refuse(why);
}

}  // namespace billhook
