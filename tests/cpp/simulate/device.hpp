// Devices for tests of the simulator: round numbers, so that times can be worked out by hand.
#pragma once

#include "simulate/cost_model.hpp"

namespace terrazzo::testing {

/// All that an instruction does takes no time, and nothing is short.
inline CostModel free_device() {
  CostModel model;
  model.num_sms = 1;
  model.hbm_gbps = 1e9;
  model.l2_gbps = 1e9;
  model.nvlink_gbps = 1e9;
  model.sm_peer_gbps = 1e9;
  model.tensor_tflops = 1e9;
  return model;
}

/// Somewhat like a data-centre GPU. For steps of real size; nothing is measured.
inline CostModel large_device() {
  CostModel model;
  model.num_sms = 132;
  model.hbm_gbps = 3000;
  model.l2_gbps = 10000;
  model.nvlink_gbps = 350;
  model.sm_peer_gbps = 50;
  model.tensor_tflops = 700;
  model.tflops_per_hbm_tbps = 40;
  model.cache_bytes = 30e6;
  model.claim_ns = 400;
  model.handover_ns = 150;
  model.load_latency_ns = 500;
  model.store_latency_ns = 200;
  model.signal_ns = 700;
  model.peer_signal_ns = 1200;
  for (KindCost& kind : model.kinds) {
    kind = {.load_slot_ns = 150,
            .consume_ns_per_mflop = 140,
            .consume_slot_ns = 10,
            .consume_fixed_ns = 100,
            .consume_stage_ns = 200,
            .store_fixed_ns = 200,
            .store_stage_ns = 100};
  }
  model.kinds[static_cast<uint32_t>(Opcode::kAttendDecode)].consume_slot_ns = 180;
  return model;
}

}  // namespace terrazzo::testing
