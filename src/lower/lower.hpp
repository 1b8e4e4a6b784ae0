// Lowering: a step -> one program a GPU, with generated targets.
#pragma once

#include "lower/lowered_step.hpp"
#include "lower/step_request.hpp"
#include "lower/weave.hpp"
#include "terrazzo/core/heap.hpp"

namespace terrazzo {

struct LowerOptions {
  uint32_t num_sms = 132;  // of one GPU: sizes the units of work; never changes a result's bits
  WeavePlan weave = {};    // of the queue order; never changes a result's bits either
};

/// Most counters that a block of any step within the limits can have.
uint32_t max_counters_per_block(const ModelShape& shape, const StepLimits& limits);

/// Heap layout of a machine for this model and these limits; counter banks fit any step.
HeapLayout heap_layout(const ModelShape& shape, const StepLimits& limits);

/// Validates the request and builds its programs and tables.
LoweredStep lower(const StepRequest& request, const ModelShape& shape, const StepLimits& limits,
                  const LowerOptions& options = {});

/// The same, into the storage of an earlier step.
void lower_into(LoweredStep& step, const StepRequest& request, const ModelShape& shape,
                const StepLimits& limits, const LowerOptions& options = {});

}  // namespace terrazzo
