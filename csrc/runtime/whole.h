// What a file's numbers come to, in 64 bits: a sum or product that does not fit them is a Refusal.
#pragma once
#include <compare>
#include <cstdint>

namespace billhook {

[[noreturn]] void refuse_overflow();

class Whole {
 public:
  constexpr Whole(int64_t value) : value_(value) {}
  explicit constexpr operator int64_t() const { return value_; }
  friend constexpr auto operator<=>(const Whole&, const Whole&) = default;

  friend Whole operator+(Whole a, Whole b) {
    int64_t sum;
    if (__builtin_add_overflow(a.value_, b.value_, &sum)) refuse_overflow();
    return sum;
  }
  friend Whole operator-(Whole a, Whole b) {
    int64_t difference;
    if (__builtin_sub_overflow(a.value_, b.value_, &difference)) refuse_overflow();
    return difference;
  }
  friend Whole operator*(Whole a, Whole b) {
    int64_t product;
    if (__builtin_mul_overflow(a.value_, b.value_, &product)) refuse_overflow();
    return product;
  }
  friend Whole operator/(Whole a, int64_t positive) { return a.value_ / positive; }
  Whole& operator+=(Whole other) { return *this = *this + other; }
  Whole& operator*=(Whole other) { return *this = *this * other; }

 private:
  int64_t value_;
};

}  // namespace billhook
