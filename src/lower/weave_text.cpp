#include <algorithm>
#include <charconv>
#include <string>

#include "lower/weave.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {
namespace {

constexpr std::string_view kPlain = "plain";
constexpr const char* kDigits = "0123456789abcdef";
constexpr uint32_t kMostPercent = 100;

std::string text_of(const WeaveCurve& curve) {
  for (uint32_t percent = 0; percent <= kMostPercent; ++percent) {
    if (curve == even_curve(percent)) {
      return std::to_string(percent);
    }
  }
  std::string text;
  for (const uint8_t knot : curve) {
    text += kDigits[knot / 16];
    text += kDigits[knot % 16];
  }
  return text;
}

/// False unless the whole text is a number.
bool parse(std::string_view text, int base, uint32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

bool parse(std::string_view text, WeaveCurve& curve) {
  uint32_t value = 0;
  if (text.size() != 2 * curve.size()) {
    if (!parse(text, 10, value) || value > kMostPercent) {
      return false;
    }
    curve = even_curve(value);
    return true;
  }
  for (size_t i = 0; i < curve.size(); ++i) {
    if (!parse(text.substr(2 * i, 2), 16, value) || value > kMostPercent) {
      return false;
    }
    curve[i] = static_cast<uint8_t>(value);
  }
  return std::is_sorted(curve.begin(), curve.end());
}

}  // namespace

std::string to_text(const WeavePlan& plan) {
  if (plan.split_block == 0) {
    return std::string(kPlain);
  }
  return std::to_string(plan.split_block) + ":" + text_of(plan.curves[0]) + ":" +
         text_of(plan.curves[1]);
}

WeavePlan weave_plan_of(std::string_view text) {
  WeavePlan plan;
  if (text == kPlain) {
    return plan;
  }
  const size_t first = std::min(text.find(':'), text.size());
  const size_t second = std::min(text.find(':', first + 1), text.size());
  check(second < text.size() && parse(text.substr(0, first), 10, plan.split_block) &&
            plan.split_block != 0 &&
            parse(text.substr(first + 1, second - first - 1), plan.curves[0]) &&
            parse(text.substr(second + 1), plan.curves[1]),
        "weave", "expected plain, or a split block and two curves such as 4:80:95, got ", text);
  return plan;
}

}  // namespace terrazzo
