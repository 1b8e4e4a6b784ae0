// Consecutive random steps of one batch of sequences, as an engine would ask for them.
#pragma once

#include <algorithm>
#include <vector>

#include "lower/steps.hpp"

namespace terrazzo::testing {

/// Sequences come and go. Prompts are taken in chunks of any length, decoded tokens are those that
/// the step before sampled, pages are used again in any order.
class Traffic {
 public:
  /// `least_sequences` are running at all times, some with prompts of up to `longest_prompt`
  /// tokens.
  Traffic(uint64_t seed, const ModelShape& shape, const StepLimits& limits,
          uint32_t least_sequences, int32_t longest_prompt)
      : random_(seed),
        shape_(shape),
        limits_(limits),
        least_sequences_(least_sequences),
        longest_prompt_(longest_prompt),
        free_pages_(ascending_pages(limits.num_pages)) {}

  StepArrays next() {
    StepArrays arrays;
    while (arrays.seq_lens.empty()) {
      arrays = try_next();
    }
    return arrays;
  }

 private:
  static constexpr int32_t kNotSampled = -1;

  struct Sequence {
    int32_t length = 0;  // tokens in the cache
    int32_t prompt_left = 0;
    int32_t sampled_row = kNotSampled;  // logit row of the last step
    int32_t outputs = 0;
    std::vector<int32_t> pages;
    uint64_t seed = 0;
    float temperature = 0;
    int32_t top_k = 0;
    float top_p = 1;
  };

  /// Empty where nothing that is running finds room.
  StepArrays try_next() {
    finish_some();
    while (running_.size() < least_sequences_ || random_.chance(0.3)) {
      if (running_.size() == limits_.max_sequences) {
        break;
      }
      add_sequence();
    }
    std::shuffle(running_.begin(), running_.end(), random_.engine());
    StepArrays arrays;
    arrays.page_indptr.push_back(0);
    for (Sequence& sequence : running_) {
      if (random_.chance(0.9)) {
        advance(sequence, arrays);
      } else {
        sequence.sampled_row = kNotSampled;
      }
    }
    return arrays;
  }

  void finish_some() {
    for (size_t i = 0; i < running_.size();) {
      const bool full = running_[i].length + 1 >= static_cast<int32_t>(limits_.max_position);
      if (full || random_.chance(0.1)) {
        free_pages_.insert(free_pages_.end(), running_[i].pages.begin(), running_[i].pages.end());
        running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
    std::shuffle(free_pages_.begin(), free_pages_.end(), random_.engine());
  }

  void add_sequence() {
    Sequence sequence;
    sequence.prompt_left = random_.chance(0.4)
                               ? random_.range(1, std::min(6, longest_prompt_))
                               : random_.range(longest_prompt_ / 2, longest_prompt_);
    sequence.seed = random_.engine()();
    sequence.temperature = random_.pick({0.0F, 0.3F, 0.8F, 1.5F});
    sequence.top_k = random_.pick({0, 0, 1, 5, 40});
    sequence.top_p = random_.pick({1.0F, 1.0F, 0.9F, 0.3F});
    running_.push_back(std::move(sequence));
  }

  void advance(Sequence& sequence, StepArrays& arrays) {
    const auto scheduled = static_cast<int32_t>(arrays.token_ids.size());
    const int32_t room = static_cast<int32_t>(limits_.max_rows) - scheduled;
    int32_t rows = 1;
    if (sequence.prompt_left > 0) {
      rows = std::min(sequence.prompt_left, random_.pick({1, 7, 64, 65, 100, 200}));
    }
    rows = std::min({rows, room, rows_that_fit(sequence)});
    if (rows <= 0) {
      sequence.sampled_row = kNotSampled;
      return;
    }
    arrays.add_sequence(rows, sequence.length);
    arrays.page_ids.insert(arrays.page_ids.end(), sequence.pages.begin(), sequence.pages.end());
    arrays.page_indptr.push_back(static_cast<int32_t>(arrays.page_ids.size()));
    for (int32_t i = scheduled; i < scheduled + rows; ++i) {
      arrays.token_ids[static_cast<size_t>(i)] =
          random_.range(0, static_cast<int32_t>(shape_.vocab) - 1);
    }
    const bool decodes = sequence.prompt_left == 0;
    if (decodes && sequence.sampled_row != kNotSampled) {
      arrays.token_ids.back() = -1 - sequence.sampled_row;
    }
    sequence.length += rows;
    sequence.prompt_left -= decodes ? 0 : rows;
    sequence.sampled_row = kNotSampled;
    if (random_.chance(sequence.prompt_left == 0 ? 0.9 : 0.2)) {
      add_logit_row(sequence, arrays);
    }
  }

  /// Takes pages as the sequence grows.
  int32_t rows_that_fit(Sequence& sequence) {
    const auto page = static_cast<int32_t>(kPageTokens);
    const int32_t wanted = std::max(sequence.prompt_left, 1);
    const auto has = [&] { return static_cast<int32_t>(sequence.pages.size()) * page; };
    while (has() < sequence.length + wanted && !free_pages_.empty()) {
      sequence.pages.push_back(free_pages_.back());
      free_pages_.pop_back();
    }
    return has() - sequence.length;
  }

  void add_logit_row(Sequence& sequence, StepArrays& arrays) {
    if (arrays.logit_rows.size() == limits_.max_logit_rows) {
      return;
    }
    sequence.sampled_row = static_cast<int32_t>(arrays.logit_rows.size());
    arrays.add_logit_row(static_cast<int32_t>(arrays.token_ids.size()) - 1, sequence.temperature,
                         sequence.top_k, random_.chance(0.3));
    arrays.top_p.back() = sequence.top_p;
    arrays.seed.back() = sequence.seed;
    arrays.output_position.back() = sequence.outputs++;
  }

  Random random_;
  ModelShape shape_;
  StepLimits limits_;
  uint32_t least_sequences_;
  int32_t longest_prompt_;
  std::vector<Sequence> running_;
  std::vector<int32_t> free_pages_;
};

}  // namespace terrazzo::testing
