// A model of one k16 step of the Hopper tensor core: bf16 products added to an fp32 accumulator.
#pragma once

#include <cstdint>
#include <cstring>

namespace probe {

enum class Round { kTowardZero, kDown, kNearestEven };

struct MmaModel {
  int extra_bits = 2;                 // fraction bits kept below fp32's 23 when addends are aligned
  Round align = Round::kTowardZero;   // how an addend loses bits in alignment
  Round result = Round::kTowardZero;  // how the sum becomes fp32
  int group = 16;                     // products added in one alignment
  bool product_normalised = false;    // exponent of a product in [2, 4) counts as one more
};

struct Addend {
  bool negative;
  int exponent;  // of the bit `fraction` of the significand
  int64_t significand;
  int fraction;  // value = significand * 2^(exponent - fraction)
};

inline int64_t shift_right(int64_t value, int by, Round mode) {
  if (by <= 0)
    return value << -by;
  if (by > 62)
    by = 62;
  if (mode == Round::kTowardZero)
    return value < 0 ? -((-value) >> by) : value >> by;
  int64_t low = value >> by;
  if (mode == Round::kDown)
    return low;
  int64_t rest = value - (low << by);
  int64_t half = int64_t(1) << (by - 1);
  return low + (rest > half || (rest == half && (low & 1)));
}

inline int top_bit(uint64_t value) { return 63 - __builtin_clzll(value); }

inline uint32_t float_bits_of_sum(int64_t sum, int exponent_of_unit, Round mode) {
  if (sum == 0)
    return 0;
  bool negative = sum < 0;
  int64_t magnitude = negative ? -sum : sum;
  int exponent = top_bit(uint64_t(magnitude)) + exponent_of_unit;
  int lowest = exponent < -126 ? -149 : exponent - 23;  // exponent of the last kept bit
  Round magnitude_mode = mode;
  if (mode == Round::kDown)
    magnitude_mode = negative ? Round::kDown : Round::kTowardZero;
  int64_t kept = negative && mode == Round::kDown
                     ? -shift_right(-magnitude, lowest - exponent_of_unit, Round::kDown)
                     : shift_right(magnitude, lowest - exponent_of_unit, magnitude_mode);
  if (kept >> 24) {  // rounding carried out of the significand
    kept >>= 1;
    ++lowest;
  }
  uint32_t sign = negative ? 0x80000000u : 0u;
  if (kept == 0)
    return sign;
  if (!(kept >> 23))
    return sign | uint32_t(kept);  // subnormal
  int biased = lowest + 23 + 127;
  if (biased >= 255)
    return sign | 0x7F800000u;
  return sign | (uint32_t(biased) << 23) | (uint32_t(kept) & 0x7FFFFF);
}

// a, b: 16 bf16 values; c: fp32 bits. NaN and infinity follow the usual rules, NaN is 0x7FFFFFFF.
inline uint32_t mma_step(const MmaModel& model, const uint16_t* a, const uint16_t* b, uint32_t c) {
  constexpr uint32_t kNan = 0x7FFFFFFFu;
  for (int first = 0; first < 16; first += model.group) {
    Addend addends[17];
    int count = 0;
    bool plus_infinity = false;
    bool minus_infinity = false;
    bool nan = false;
    auto note_infinity = [&](bool negative) { (negative ? minus_infinity : plus_infinity) = true; };
    for (int k = first; k < first + model.group; ++k) {
      int exponent_a = (a[k] >> 7) & 0xFF;
      int exponent_b = (b[k] >> 7) & 0xFF;
      int64_t significand_a = (a[k] & 0x7F) | (exponent_a ? 0x80 : 0);
      int64_t significand_b = (b[k] & 0x7F) | (exponent_b ? 0x80 : 0);
      bool negative = ((a[k] ^ b[k]) & 0x8000) != 0;
      if (exponent_a == 255 || exponent_b == 255) {
        bool nan_a = exponent_a == 255 && (a[k] & 0x7F);
        bool nan_b = exponent_b == 255 && (b[k] & 0x7F);
        if (nan_a || nan_b || !significand_a || !significand_b)
          nan = true;
        else
          note_infinity(negative);
        continue;
      }
      int64_t product = significand_a * significand_b;
      if (product == 0)
        continue;
      int exponent = (exponent_a ? exponent_a : 1) + (exponent_b ? exponent_b : 1) - 254;
      int fraction = 14;
      if (model.product_normalised) {
        int top = top_bit(uint64_t(product));
        exponent += top - 14;
        fraction = top;
      }
      addends[count++] = {negative, exponent, product, fraction};
    }
    int exponent_c = (c >> 23) & 0xFF;
    int64_t significand_c = (c & 0x7FFFFF) | (exponent_c ? 0x800000 : 0);
    if (exponent_c == 255) {
      if (c & 0x7FFFFF)
        nan = true;
      else
        note_infinity(c >> 31);
    } else if (significand_c) {
      addends[count++] = {(c >> 31) != 0, (exponent_c ? exponent_c : 1) - 127, significand_c, 23};
    }
    if (nan || (plus_infinity && minus_infinity)) {
      c = kNan;
      continue;
    }
    if (plus_infinity || minus_infinity) {
      c = plus_infinity ? 0x7F800000u : 0xFF800000u;
      continue;
    }
    int largest = -100000;
    for (int i = 0; i < count; ++i) {
      if (addends[i].exponent > largest)
        largest = addends[i].exponent;
    }
    int unit = largest - 23 - model.extra_bits;
    int64_t sum = 0;
    for (int i = 0; i < count; ++i) {
      int64_t value = addends[i].negative ? -addends[i].significand : addends[i].significand;
      int by = unit - (addends[i].exponent - addends[i].fraction);
      sum += shift_right(value, by, model.align);
    }
    c = float_bits_of_sum(sum, unit, model.result);
  }
  return c;
}

}  // namespace probe
