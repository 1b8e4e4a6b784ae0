#include "lower/step_request.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "terrazzo/core/check.hpp"
#include "terrazzo/core/isa.hpp"

namespace terrazzo {
namespace {

constexpr const char* kOp = "lower";
constexpr uint32_t kMaxIncrement = 255;    // of one Signal
constexpr uint32_t kMaxGroup = kHalfRows;  // query heads are the rows of a decode tile

std::string degrees_of(uint32_t kv_heads) {
  std::string degrees;
  for (uint32_t world = 1; world <= kMaxGpus; ++world) {
    if (kv_heads % world == 0) {
      degrees += (degrees.empty() ? "" : ", ") + std::to_string(world);
    }
  }
  return degrees;
}

void check_sizes(const StepRequest& request, const StepLimits& limits) {
  const size_t sequences = request.seq_lens.size();
  const size_t logits = request.logit_rows.size();
  check(sequences > 0, kOp, "expected at least one sequence, got none");
  check(sequences <= limits.max_sequences, kOp, "expected at most ", limits.max_sequences,
        " sequences, got ", sequences);
  check(request.token_ids.size() <= limits.max_rows, kOp, "expected at most ", limits.max_rows,
        " rows, got ", request.token_ids.size());
  check(logits <= limits.max_sequences, kOp, "expected at most ", limits.max_sequences,
        " logit rows, got ", logits);
  const auto sized = [](const char* name, size_t seen, size_t expected) {
    check(seen == expected, kOp, name, ": expected ", expected, " values, got ", seen);
  };
  sized("context_lens", request.context_lens.size(), sequences);
  sized("page_indptr", request.page_indptr.size(), sequences + 1);
  sized("temperature", request.temperature.size(), logits);
  sized("top_k", request.top_k.size(), logits);
  sized("top_p", request.top_p.size(), logits);
  sized("seed", request.seed.size(), logits);
  sized("output_position", request.output_position.size(), logits);
  sized("want_logits", request.want_logits.size(), logits);
}

void check_sequences(const StepRequest& request, const StepLimits& limits) {
  const int64_t max_pages = ceil_div(limits.max_position, kPageTokens);
  int64_t rows = 0;
  check(request.page_indptr[0] == 0, kOp, "expected page_indptr[0] = 0, got ",
        request.page_indptr[0]);
  for (size_t s = 0; s < request.seq_lens.size(); ++s) {
    const int64_t length = request.seq_lens[s];
    const int64_t context = request.context_lens[s];
    check(length >= 1, kOp, "sequence ", s, ": expected seq_len >= 1, got ", length);
    check(context >= 0, kOp, "sequence ", s, ": expected context_len >= 0, got ", context);
    check(context + length <= limits.max_position, kOp, "sequence ", s, ": expected at most ",
          limits.max_position, " tokens, got ", context, " in the cache + ", length, " rows");
    const int64_t pages = int64_t{request.page_indptr[s + 1]} - request.page_indptr[s];
    const int64_t needed = ceil_div<int64_t>(context + length, kPageTokens);
    check(pages >= needed && pages <= max_pages, kOp, "sequence ", s, ": expected ", needed, " to ",
          max_pages, " pages for ", context + length, " tokens, got ", pages);
    rows += length;
  }
  check(rows == static_cast<int64_t>(request.token_ids.size()), kOp,
        "expected sum(seq_lens) = ", request.token_ids.size(), " rows, got ", rows);
  check(request.page_indptr.back() == static_cast<int64_t>(request.page_ids.size()), kOp,
        "expected page_indptr[-1] = ", request.page_ids.size(), ", got ",
        request.page_indptr.back());
}

/// Whether all values lie in [first, last]. No branch for each, so that it takes them by vectors.
bool all_within(std::span<const int32_t> values, int64_t first, int64_t last) {
  const auto low = static_cast<int32_t>(std::clamp<int64_t>(first, INT32_MIN, INT32_MAX));
  const auto high = static_cast<int32_t>(std::clamp<int64_t>(last, INT32_MIN, INT32_MAX));
  int32_t outside = 0;
  for (const int32_t value : values) {
    outside |= static_cast<int32_t>(value < low) | static_cast<int32_t>(value > high);
  }
  return outside == 0;
}

/// A page that this step writes belongs to one place of one sequence.
void check_pages(const StepRequest& request, const StepLimits& limits) {
  const bool known = all_within(request.page_ids, 0, int64_t{limits.num_pages} - 1);
  for (size_t i = 0; !known && i < request.page_ids.size(); ++i) {
    const int32_t page = request.page_ids[i];
    check(page >= 0 && static_cast<uint32_t>(page) < limits.num_pages, kOp, "page_ids[", i,
          "]: expected a page in [0, ", limits.num_pages, "), got ", page);
  }
  std::vector<uint8_t> written(limits.num_pages);
  for (size_t s = 0; s < request.seq_lens.size(); ++s) {
    const int32_t* const pages = &request.page_ids[static_cast<uint32_t>(request.page_indptr[s])];
    const auto context = static_cast<uint32_t>(request.context_lens[s]);
    const uint32_t end = context + static_cast<uint32_t>(request.seq_lens[s]);
    for (uint32_t i = context / kPageTokens; i < ceil_div(end, kPageTokens); ++i) {
      const auto page = static_cast<uint32_t>(pages[i]);
      check(written[page] == 0, kOp, "sequence ", s, ": page ", page,
            " is written in this step by another sequence or position too");
      written[page] = 1;
    }
  }
  for (size_t s = 0; s < request.seq_lens.size(); ++s) {
    const int32_t* const pages = &request.page_ids[static_cast<uint32_t>(request.page_indptr[s])];
    const uint32_t whole_pages = static_cast<uint32_t>(request.context_lens[s]) / kPageTokens;
    for (uint32_t i = 0; i < whole_pages; ++i) {
      const auto page = static_cast<uint32_t>(pages[i]);
      check(written[page] == 0, kOp, "sequence ", s, ": page ", page,
            " of its context is written in "
            "this step by another sequence or position");
    }
  }
}

void check_tokens(const StepRequest& request, const ModelShape& shape, const StepLimits& limits) {
  const int64_t most_sampled = limits.max_sequences;
  const bool known = all_within(request.token_ids, -most_sampled, int64_t{shape.vocab} - 1);
  for (size_t row = 0; !known && row < request.token_ids.size(); ++row) {
    const int64_t token = request.token_ids[row];
    check(token < int64_t{shape.vocab} && token >= -most_sampled, kOp, "row ", row,
          ": expected a token in [", -most_sampled, ", ", shape.vocab, "), got ", token);
  }
}

void check_logit_rows(const StepRequest& request, const StepLimits& limits) {
  int64_t previous = -1;
  uint32_t slots = 0;
  for (size_t i = 0; i < request.logit_rows.size(); ++i) {
    const int32_t row = request.logit_rows[i];
    check(row > previous && row < static_cast<int64_t>(request.token_ids.size()), kOp,
          "logit_rows[", i, "]: expected ascending rows below ", request.token_ids.size(), ", got ",
          row, " after ", previous);
    previous = row;
    const float temperature = request.temperature[i];
    check(std::isfinite(temperature) && temperature >= 0, kOp, "logit row ", i,
          ": expected temperature finite and >= 0, got ", temperature);
    check(request.top_k[i] >= 0, kOp, "logit row ", i, ": expected top_k >= 0, got ",
          request.top_k[i]);
    check(request.top_p[i] > 0 && request.top_p[i] <= 1, kOp, "logit row ", i,
          ": expected top_p in (0, 1], got ", request.top_p[i]);
    check(request.output_position[i] >= 0, kOp, "logit row ", i,
          ": expected output_position >= 0, got ", request.output_position[i]);
    slots += request.want_logits[i] != 0 || samples_from_logits(request, i) ? 1 : 0;
  }
  check(slots <= limits.max_logit_rows, kOp, "expected at most ", limits.max_logit_rows,
        " rows that want logits or sample by top-k or top-p, got ", slots);
}

}  // namespace

void validate(const ModelShape& shape) {
  check(shape.num_layers > 0 && shape.hidden > 0 && shape.intermediate > 0 && shape.vocab > 0, kOp,
        "expected layers, hidden, intermediate and vocabulary sizes above 0, got ",
        shape.num_layers, ", ", shape.hidden, ", ", shape.intermediate, ", ", shape.vocab);
  check(shape.head_dim == 64 || shape.head_dim == 128, kOp,
        "expected head dimension 64 or 128, got ", shape.head_dim);
  check(shape.num_kv_heads > 0 && shape.num_heads >= shape.num_kv_heads &&
            shape.num_heads % shape.num_kv_heads == 0,
        kOp, "expected heads to be a multiple of KV heads, got ", shape.num_heads, " and ",
        shape.num_kv_heads);
  check(shape.group() <= kMaxGroup, kOp, "expected at most ", kMaxGroup,
        " heads for each KV head, got ", shape.group());
  check(shape.world > 0 && shape.world <= kMaxGpus && shape.num_kv_heads % shape.world == 0, kOp,
        shape.world, " GPUs cannot share ", shape.num_kv_heads,
        " KV heads; degrees that can: ", degrees_of(shape.num_kv_heads));
  check(!shape.o_sharded || shape.world > 1, kOp,
        "O is sharded over several GPUs, expected more than 1");
  check(shape.split_tokens > 0 && shape.split_tokens % kPageTokens == 0, kOp,
        "expected split_tokens to be a multiple of ", kPageTokens, ", got ", shape.split_tokens);
  check(shape.hidden_panels() <= kNumSignals * kMaxIncrement, kOp, "expected hidden size at most ",
        kNumSignals * kMaxIncrement * kPanelCols, ", got ", shape.hidden);
}

void validate(const StepRequest& request, const ModelShape& shape, const StepLimits& limits) {
  check_sizes(request, limits);
  check_sequences(request, limits);
  check_pages(request, limits);
  check_tokens(request, shape, limits);
  check_logit_rows(request, limits);
}

}  // namespace terrazzo
