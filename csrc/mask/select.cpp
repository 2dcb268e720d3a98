#include "select.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "abi.h"
#include "isa.h"

namespace billhook {

namespace {

constexpr int64_t kDigits = 1 << 16;
constexpr int64_t kSample = 1 << 17;
constexpr int64_t kRun = 8;  // neighbours sampled together: they share a cache line

int64_t count_nans(const float* scores, int64_t n) {
  int64_t nans = 0;
  for (int64_t i = 0; i < n; ++i) nans += std::isnan(scores[i]);
  return nans;
}

// The keys between which the keep-th largest very probably lies: the same rank in a strided
// sample, give or take four standard deviations.
void bracket_by_sample(const float* scores, int64_t n, int64_t keep, Bracket& bracket) {
  const int64_t stride = std::max<int64_t>(kRun, n / (kSample / kRun));
  std::vector<uint32_t> sample;
  for (int64_t run = 0; run < n; run += stride) {
    for (int64_t i = run; i < std::min(run + kRun, n); ++i) sample.push_back(order_key(scores[i]));
  }
  const double size = static_cast<double>(sample.size());
  const double share = static_cast<double>(keep) / static_cast<double>(n);
  const double spread = 4.0 * std::sqrt(size * share * (1.0 - share)) + 4.0;
  const auto at_rank = [&](double rank) {
    const auto place = static_cast<int64_t>(std::clamp(rank, 0.0, size - 1.0));
    std::nth_element(sample.begin(), sample.begin() + place, sample.end(), std::greater<>());
    return sample[place];
  };
  bracket.high = at_rank(size * share - spread);
  bracket.low = at_rank(size * share + spread);
}

// Finishes the mask from the candidates. False if the keep-th largest is not among them.
bool select_in_bracket(Bracket& bracket, int64_t keep, uint8_t* keep_out) {
  const int64_t missing = keep - bracket.above;
  if (bracket.found > bracket.capacity || missing < 0 || missing > bracket.found) return false;
  Candidate* const end = bracket.candidates + bracket.found;
  std::nth_element(bracket.candidates, bracket.candidates + missing, end,
                   [](const Candidate& a, const Candidate& b) {
                     return a.key != b.key ? a.key > b.key : a.index < b.index;
                   });
  for (int64_t i = 0; i < missing; ++i) keep_out[bracket.candidates[i].index] = 1;
  return true;
}

// Walks a histogram down from the largest digit to the one that holds the rank-th largest entry.
// On return `rank` counts within that digit.
uint32_t digit_of_rank(const std::vector<int64_t>& histogram, int64_t& rank) {
  for (int64_t digit = kDigits - 1; digit > 0; --digit) {
    if (rank <= histogram[digit]) return static_cast<uint32_t>(digit);
    rank -= histogram[digit];
  }
  return 0;
}

// Radix select by the two halves of the key: the way for scores of which very many are equal.
void select_by_radix(const float* scores, int64_t n, int64_t keep, uint8_t* keep_out) {
  std::vector<int64_t> histogram(kDigits);
  for (int64_t i = 0; i < n; ++i) ++histogram[order_key(scores[i]) >> 16];
  int64_t ties = keep;
  const uint32_t high = digit_of_rank(histogram, ties);
  histogram.assign(kDigits, 0);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t key = order_key(scores[i]);
    if (key >> 16 == high) ++histogram[key & 0xffffu];
  }
  const uint32_t threshold = high << 16 | digit_of_rank(histogram, ties);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t key = order_key(scores[i]);
    const bool tie = key == threshold && ties > 0;
    ties -= tie;
    keep_out[i] = key > threshold || tie;
  }
}

}  // namespace

void scan_bracket_portable(const float* scores, int64_t begin, int64_t n, Bracket& bracket,
                           uint8_t* keep_out) {
  for (int64_t i = begin; i < n; ++i) {
    const uint32_t key = order_key(scores[i]);
    bracket.nan |= std::isnan(scores[i]);
    keep_out[i] = key > bracket.high;
    bracket.above += key > bracket.high;
    if (key < bracket.low || key > bracket.high) continue;
    if (bracket.found++ >= bracket.capacity) return;
    bracket.candidates[bracket.found - 1] = {i, key};
  }
}

}  // namespace billhook

// Writes 1 for each of the `keep` largest of n scores and 0 for the others; of equal scores the
// lower index is kept. Requires 0 < keep <= n. Returns the number of NaN scores; if it is not 0,
// keep_out holds no mask.
//
// One pass brackets the threshold and settles all scores outside of the bracket; the few inside
// are ranked afterwards. Should the sample mislead, or too many scores be equal, a radix select
// gives the same result.
BILLHOOK_API int64_t billhook_select_f32(const float* scores, int64_t n, int64_t keep,
                                         uint8_t* keep_out) {
  using namespace billhook;
  const int64_t capacity = n / 16 + 64;
  const std::unique_ptr<Candidate[]> candidates(new Candidate[capacity]);  // pages untouched
  Bracket bracket{0, 0, candidates.get(), capacity};
  bracket_by_sample(scores, n, keep, bracket);
  const auto scan = version_for<ScanBracket>(best_isa(), scan_bracket_portable, scan_bracket_avx2,
                                             scan_bracket_avx2);
  scan(scores, 0, n, bracket, keep_out);
  const bool gave_up = bracket.found > bracket.capacity;
  if (bracket.nan || gave_up) {
    if (const int64_t nans = count_nans(scores, n)) return nans;
  }
  if (!select_in_bracket(bracket, keep, keep_out)) select_by_radix(scores, n, keep, keep_out);
  return 0;
}
