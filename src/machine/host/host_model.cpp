#include "machine/host/host_model.hpp"

#include <algorithm>
#include <cstring>

#include "lower/lower.hpp"
#include "lower/verifier.hpp"

namespace terrazzo::host {

HostModel::HostModel(const ModelShape& shape, const StepLimits& limits, const HostOptions& options)
    : machine_(shape, limits, options), options_(options) {
  for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
    weights_.emplace_back(shape);
  }
}

PackedModel& HostModel::weights(uint32_t gpu) {
  check(gpu < weights_.size(), "host model", "gpu ", gpu, " of ", weights_.size());
  return weights_[gpu];
}

void HostModel::set_tables(const SourceMatrix& embedding, std::span<const bf16> final_norm,
                           std::span<const float> rope) {
  const ModelShape& shape = machine_.shape();
  check_tables(shape, machine_.limits().max_position, embedding, final_norm, rope);
  const uint64_t cols = uint64_t{shape.hidden_panels()} * kPanelCols;
  tables_.embedding.assign(embedding.rows * cols, bf16{0});
  for (uint64_t row = 0; row < embedding.rows; ++row) {
    std::copy_n(embedding.data + row * embedding.cols, embedding.cols,
                tables_.embedding.data() + row * cols);
  }
  tables_.final_norm.assign(cols, bf16{0});
  std::copy(final_norm.begin(), final_norm.end(), tables_.final_norm.begin());
  tables_.rope.assign(rope.begin(), rope.end());
  for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
    machine_.set_model(gpu, weights_[gpu].view(tables_));
  }
}

void HostModel::lower_step(const StepRequest& request, const WeavePlan& order) {
  check(!tables_.rope.empty(), "step", "the model has no tables yet: call set_tables first");
  check_placeholders(request, outputs_.tokens.size());
  lower_into(step_, request, machine_.shape(), machine_.limits(), {options_.num_sms, order});
  outputs_.tokens.clear();  // a step that fails leaves nothing that a placeholder may stand for
}

template <class Run>
StepOutputs HostModel::run_step(const StepRequest& request, const WeavePlan& order, Run run) {
  check(!busy_.test_and_set(std::memory_order_acquire), "step",
        "another thread's step is running: a model takes one step at a time");
  struct Release {
    std::atomic_flag& flag;
    ~Release() { flag.clear(std::memory_order_release); }
  } const release{busy_};
  lower_step(request, order);
  run(step_);
  collect();
  return outputs_;
}

StepOutputs HostModel::step(const StepRequest& request, const WeavePlan& order) {
  return run_step(request, order, [&](const LoweredStep& step) { machine_.run(step); });
}

StepOutputs HostModel::step_checked(const StepRequest& request, const CheckOptions& options,
                                    const WeavePlan& order) {
  return run_step(request, order,
                  [&](const LoweredStep& step) { machine_.run_checked(step, options); });
}

std::vector<std::string> HostModel::verify(const StepRequest& request,
                                           const WeavePlan& order) const {
  const LoweredStep step =
      lower(request, machine_.shape(), machine_.limits(), {options_.num_sms, order});
  std::vector<std::string> out;
  for (const Problem& problem : terrazzo::verify(step, machine_.shape(), machine_.limits())) {
    out.push_back(problem.text);
  }
  return out;
}

void HostModel::collect() {
  const ModelShape& shape = machine_.shape();
  const size_t rows = step_.logit_rows.size();
  outputs_.tokens.resize(rows);
  outputs_.logprobs.resize(rows);
  for (size_t row = 0; row < rows; ++row) {
    outputs_.tokens[row] = machine_.sampled()[row].token;
    outputs_.logprobs[row] = machine_.sampled()[row].logprob;
  }
  outputs_.logits.resize(size_t{step_.num_wanted_logits} * shape.vocab);
  const uint32_t gpu_cols = shape.vocab_panels() * kPanelCols;
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t slot = step_.logit_rows[row].logits_slot;
    if (slot >= step_.num_wanted_logits) {
      continue;
    }
    const uint32_t owner = shape.owner(static_cast<uint32_t>(row / kRowBlock));
    for (uint32_t gpu = 0; gpu * gpu_cols < shape.vocab; ++gpu) {
      const uint32_t count = std::min(gpu_cols, shape.vocab - gpu * gpu_cols);
      std::copy_n(machine_.logits(owner, slot, gpu), count,
                  outputs_.logits.data() + size_t{slot} * shape.vocab + gpu * gpu_cols);
    }
  }
}

}  // namespace terrazzo::host
