#include "select.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <functional>
#include <optional>

#include "abi.h"
#include "isa.h"
#include "parallel.h"

namespace billhook {

namespace {

constexpr int64_t kDigits = 1 << 16;
constexpr int64_t kSample = 1 << 17;
constexpr int64_t kBins = 1 << 12;
constexpr int64_t kRun = 8;         // neighbours sampled together: they share a cache line
constexpr int64_t kBlock = 1 << 18;  // elements of one task, a multiple of 8

template <Kind kind>
void scan_block(const Raw& raw, int64_t begin, int64_t end, Bracket bracket, int64_t room,
                Found& found, uint8_t* bits) {
  for (int64_t i = begin; i < end; i += 8) {
    unsigned byte = 0;
    for (int64_t j = i; j < std::min(i + 8, end); ++j) {
      const int32_t key = key_of<kind>(raw, j, found.nan);
      const bool above = key > bracket.high;
      byte |= static_cast<unsigned>(above) << (j - i);
      found.above += above;
      if (!above && key >= bracket.low) found.candidates.push_back({j, key});
    }
    bits[i >> 3] = static_cast<uint8_t>(byte);
    if (static_cast<int64_t>(found.candidates.size()) > room) return;
  }
}

template <Kind kind>
class Selection {
 public:
  Selection(const Raw& raw, int64_t n, int64_t keep, int64_t isa, int64_t threads, uint8_t* bits)
      : raw_(raw), n_(n), keep_(keep), isa_(isa), threads_(threads), bits_(bits) {}

  // No value aside has a key above this; afterwards none of those that did not survive has.
  int64_t ceiling = INT32_MAX;

  // One pass brackets the threshold and settles all elements outside of the bracket; the few inside
  // are ranked afterwards. Should the sample mislead, or too many be equal, a radix select gives
  // the same result.
  int64_t run() {
    const Bracket bracket = bracket_of_threshold();
    const int64_t room = n_ / 16 + 64, blocks = (n_ + kBlock - 1) / kBlock;
    const Scan scan =
        version_for<Scan>(isa_, {{kPortable, scan_portable(kind)}, {kAvx2, scan_avx2(kind)}});
    // Where nothing that is aside reaches the bracket, only the weights need be read.
    const Raw read = ceiling < bracket.low ? Raw{raw_.weight, nullptr, raw_.held} : raw_;
    std::vector<Found> found(blocks);
    std::atomic<int64_t> total{0};
    parallel_for(blocks, threads_, [&](int64_t block) {
      if (total.load() > room) return;
      const int64_t begin = block * kBlock;
      scan(read, begin, std::min(begin + kBlock, n_), bracket, room, found[block], bits_);
      total += static_cast<int64_t>(found[block].candidates.size());
    });
    bool nan = false;
    for (const Found& each : found) nan |= each.nan;
    if (nan || total.load() > room) {
      if (const int64_t nans = count_nans()) return nans;
    }
    ceiling = bracket.high;
    if (total.load() > room || !select_among(found, bracket)) {
      ceiling = INT32_MAX;
      select_by_radix();
    }
    return 0;
  }

  int64_t count_nans() const {
    int64_t nans = 0;
    for (int64_t i = 0; i < n_; ++i) {
      bool nan = false;
      key_of<kind>(raw_, i, nan);
      nans += nan;
    }
    return nans;
  }

 private:
  int32_t key(int64_t i) const {
    bool nan = false;
    return key_of<kind>(raw_, i, nan);
  }

  uint32_t unsigned_key(int64_t i) const { return static_cast<uint32_t>(key(i)) ^ 0x80000000u; }

  // Where nothing that is aside can survive, kept weights alone are asked: there are fewer of them, and
  // nearly all survive, so that a small sample makes a narrower bracket.
  Bracket bracket_of_threshold() const {
    const int64_t kept = raw_.held == nullptr ? n_ : count_kept();
    if (keep_ < kept && kept < n_) {
      const Raw present{raw_.weight, nullptr, raw_.held};
      const auto among_kept = bracket_by_sample(present, kept, kSample / 16);
      if (among_kept && (raw_.aside == nullptr || ceiling < among_kept->low)) return *among_kept;
    }
    return bracket_by_sample(raw_, n_, kSample).value();
  }

  int64_t count_kept() const {
    int64_t kept = 0, i = 0;
    for (; i + 64 <= n_; i += 64) {
      uint64_t bits;
      std::memcpy(&bits, raw_.held + i / 8, sizeof bits);
      kept += std::popcount(bits);
    }
    for (; i < n_; ++i) kept += billhook::kept(raw_.held, i);
    return kept;
  }

  // The threshold's rank in a strided sample of about `size` of the `present` elements that are not
  // absent, give or take four standard deviations. None if the sample is empty.
  std::optional<Bracket> bracket_by_sample(const Raw& raw, int64_t present, int64_t size) const {
    const auto stride = std::max<int64_t>(kRun, kRun * present / size);
    std::vector<int32_t> sample;
    sample.reserve(static_cast<size_t>(2 * std::min(present, size)));
    for (int64_t run = 0; run < n_; run += stride) {
      for (int64_t i = run; i < std::min(run + kRun, n_); ++i) {
        bool nan = false;
        const int32_t key = key_of<kind>(raw, i, nan);
        if (key != kAbsent || present == n_) sample.push_back(key);
      }
    }
    if (sample.empty()) return std::nullopt;
    const double count = static_cast<double>(sample.size());
    const double share = static_cast<double>(keep_) / static_cast<double>(present);
    const double spread = 4.0 * std::sqrt(count * share * (1.0 - share)) + 4.0;
    const auto place = [&](double rank) {
      return sample.begin() + static_cast<int64_t>(std::clamp(rank, 0.0, count - 1.0));
    };
    const auto low = place(count * share + spread), high = place(count * share - spread);
    std::nth_element(sample.begin(), low, sample.end(), std::greater<>());
    std::nth_element(sample.begin(), high, low + 1, std::greater<>());
    return Bracket{*low, *high};
  }

  // Finishes the mask from the candidates. False if the threshold is not among them.
  bool select_among(const std::vector<Found>& found, Bracket bracket) const {
    int64_t missing = keep_, total = 0;
    for (const Found& each : found) {
      missing -= each.above;
      total += static_cast<int64_t>(each.candidates.size());
    }
    if (missing < 0 || missing > total) return false;
    const auto width = static_cast<uint32_t>(bracket.high) - static_cast<uint32_t>(bracket.low);
    const int shift = std::max(0, static_cast<int>(std::bit_width(width)) - 12);
    const auto bin = [&](const Candidate& each) {
      return (static_cast<uint32_t>(each.key) - static_cast<uint32_t>(bracket.low)) >> shift;
    };
    std::vector<int64_t> histogram(kBins);
    for (const Found& each : found) {
      for (const Candidate& candidate : each.candidates) ++histogram[bin(candidate)];
    }
    const uint32_t last = digit_of_rank(histogram, missing);
    std::vector<Candidate> close;  // those of the bin that the threshold cuts
    for (const Found& each : found) {
      for (const Candidate& candidate : each.candidates) {
        if (bin(candidate) > last) set(candidate.index);
        if (bin(candidate) == last) close.push_back(candidate);
      }
    }
    std::nth_element(close.begin(), close.begin() + missing, close.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.key != b.key ? a.key > b.key : a.index < b.index;
                     });
    for (int64_t i = 0; i < missing; ++i) set(close[i].index);
    return true;
  }

  void set(int64_t i) const { bits_[i >> 3] = static_cast<uint8_t>(bits_[i >> 3] | 1 << (i & 7)); }

  // The largest digit whose entries, with those of larger digits, reach `rank`; on return `rank`
  // counts within that digit.
  static uint32_t digit_of_rank(const std::vector<int64_t>& histogram, int64_t& rank) {
    for (auto digit = static_cast<int64_t>(histogram.size()) - 1; digit > 0; --digit) {
      if (rank <= histogram[digit]) return static_cast<uint32_t>(digit);
      rank -= histogram[digit];
    }
    return 0;
  }

  // By the two halves of the key: the way where very many are equal.
  void select_by_radix() const {
    std::vector<int64_t> histogram(kDigits);
    for (int64_t i = 0; i < n_; ++i) ++histogram[unsigned_key(i) >> 16];
    int64_t ties = keep_;
    const uint32_t high = digit_of_rank(histogram, ties);
    histogram.assign(kDigits, 0);
    for (int64_t i = 0; i < n_; ++i) {
      const uint32_t key = unsigned_key(i);
      if (key >> 16 == high) ++histogram[key & 0xffffu];
    }
    const uint32_t threshold = high << 16 | digit_of_rank(histogram, ties);
    std::memset(bits_, 0, static_cast<size_t>((n_ + 7) / 8));
    for (int64_t i = 0; i < n_; ++i) {
      const uint32_t key = unsigned_key(i);
      const bool tie = key == threshold && ties > 0;
      ties -= tie;
      if (key > threshold || tie) set(i);
    }
  }

  const Raw& raw_;
  const int64_t n_, keep_, isa_, threads_;
  uint8_t* const bits_;
};

template <Kind kind>
int64_t select(const Raw& raw, int64_t n, int64_t keep, int64_t isa, int64_t threads,
               uint8_t* bits, int64_t* ceiling) {
  Selection<kind> selection(raw, n, keep, isa, threads, bits);
  if (keep > 0 && keep < n) {
    selection.ceiling = *ceiling;
    const int64_t nans = selection.run();
    *ceiling = selection.ceiling;
    return nans;
  }
  *ceiling = INT32_MAX;
  return selection.count_nans();
}

// Ones in the first n bits, or none; the last byte's further bits are 0.
void fill(uint8_t* bits, int64_t n, bool value) {
  std::memset(bits, value ? 0xff : 0, static_cast<size_t>((n + 7) / 8));
  if (value && n % 8 != 0) bits[n / 8] = static_cast<uint8_t>((1 << n % 8) - 1);
}

}  // namespace

void Found::add(const Candidate* first, int64_t count) {
  candidates.insert(candidates.end(), first, first + count);
}

Scan scan_portable(Kind kind) {
  constexpr Scan scans[] = {scan_block<kScores>, scan_block<kFloat32>, scan_block<kBfloat16>,
                            scan_block<kFloat16>, scan_block<kFloat64>};
  return scans[kind];
}

}  // namespace billhook

// Writes the mask bits of the `keep` largest of n elements; of equal ones the lower index is kept.
// `kind` says what they are (see Kind), `aside` and `held` may be null (see Raw), 0 <= keep <= n.
// `bits` has ceil(n / 8) bytes and is none of the other buffers. Returns the number of NaNs; if it
// is not 0, `bits` holds no mask. -1: no such kind. `ceiling`: no key aside is above it (INT32_MAX
// says nothing); on return, none of those that do not survive is.
BILLHOOK_API int64_t billhook_mask_select(int64_t kind, const void* weight, const void* aside,
                                          const uint8_t* held, int64_t n, int64_t keep, int64_t isa,
                                          int64_t threads, uint8_t* bits, int64_t* ceiling) try {
  using namespace billhook;
  const Raw raw{weight, aside, held};
  if (keep == 0 || keep == n) fill(bits, n, keep > 0);
  switch (kind) {
    case kScores: return select<kScores>(raw, n, keep, isa, threads, bits, ceiling);
    case kFloat32: return select<kFloat32>(raw, n, keep, isa, threads, bits, ceiling);
    case kBfloat16: return select<kBfloat16>(raw, n, keep, isa, threads, bits, ceiling);
    case kFloat16: return select<kFloat16>(raw, n, keep, isa, threads, bits, ceiling);
    case kFloat64: return select<kFloat64>(raw, n, keep, isa, threads, bits, ceiling);
    default: return -1;
  }
} catch (...) {
  return billhook::failure();
}
