#include "lower/step_tables.hpp"

namespace terrazzo {
namespace {

void fill_rows(LoweredStep& step, const StepRequest& request) {
  step.rows.resize(request.token_ids.size());
  step.page_ids.assign(request.page_ids.begin(), request.page_ids.end());
  RowInfo* row = step.rows.data();
  const uint32_t* const page_ids = step.page_ids.data();
  const int32_t* token = request.token_ids.data();
  for (size_t s = 0; s < request.seq_lens.size(); ++s) {
    const auto table = static_cast<uint32_t>(request.page_indptr[s]);
    const auto length = static_cast<uint32_t>(request.seq_lens[s]);
    for (uint32_t i = 0; i < length; ++i, ++row, ++token) {
      const uint32_t position = static_cast<uint32_t>(request.context_lens[s]) + i;
      *row = {.token = *token,
              .position = position,
              .append_page = page_ids[table + position / kPageTokens],
              .page_table_offset = table,
              .flags = length == 1 ? kDecodeRow : 0u,
              .reserved = {}};
    }
  }
}

void fill_logit_rows(LoweredStep& step, const StepRequest& request) {
  const size_t count = request.logit_rows.size();
  step.logit_rows.resize(count);
  uint32_t slots = 0;
  for (size_t i = 0; i < count; ++i) {
    step.logit_rows[i] = {.row = static_cast<uint32_t>(request.logit_rows[i]),
                          .temperature = request.temperature[i],
                          .top_k = static_cast<uint32_t>(request.top_k[i]),
                          .top_p = request.top_p[i],
                          .seed = request.seed[i],
                          .output_position = static_cast<uint32_t>(request.output_position[i]),
                          .logits_slot = request.want_logits[i] != 0 ? slots++ : kNoLogits};
  }
  step.num_wanted_logits = slots;
  for (size_t i = 0; i < count; ++i) {
    if (request.want_logits[i] == 0 && samples_from_logits(request, i)) {
      step.logit_rows[i].logits_slot = slots++;
    }
  }
  step.num_logits_slots = slots;
}

}  // namespace

void fill_tables(LoweredStep& step, const StepRequest& request) {
  fill_rows(step, request);
  fill_logit_rows(step, request);
}

std::vector<BlockRange> sampled_readers(const LoweredStep& step, uint32_t compact_blocks) {
  std::vector<BlockRange> readers(compact_blocks);
  for (uint32_t row = 0; row < step.rows.size(); ++row) {
    const int32_t token = step.rows[row].token;
    const uint32_t source =
        token < 0 ? static_cast<uint32_t>(-(token + 1)) / kRowBlock : UINT32_MAX;
    if (source < compact_blocks) {
      BlockRange& range = readers[source];
      const uint32_t block = row / kRowBlock;
      range.first = range.count == 0 ? block : range.first;
      range.count = block - range.first + 1;
    }
  }
  return readers;
}

}  // namespace terrazzo
