#include "simulate/cost_model.hpp"

#include <cmath>
#include <utility>

#include "terrazzo/core/check.hpp"

namespace terrazzo {
namespace {

constexpr std::pair<const char*, double CostModel::*> kShared[] = {
    {"ring_slots", &CostModel::ring_slots},
    {"hbm_gbps", &CostModel::hbm_gbps},
    {"l2_gbps", &CostModel::l2_gbps},
    {"l2_per_hbm", &CostModel::l2_per_hbm},
    {"nvlink_gbps", &CostModel::nvlink_gbps},
    {"sm_peer_gbps", &CostModel::sm_peer_gbps},
    {"tensor_tflops", &CostModel::tensor_tflops},
    {"tflops_per_hbm_tbps", &CostModel::tflops_per_hbm_tbps},
    {"power_tflops", &CostModel::power_tflops},
    {"power_tflops_per_hbm_tbps", &CostModel::power_tflops_per_hbm_tbps},
    {"cache_bytes", &CostModel::cache_bytes},
    {"launch_ns", &CostModel::launch_ns},
    {"claim_ns", &CostModel::claim_ns},
    {"handover_ns", &CostModel::handover_ns},
    {"load_latency_ns", &CostModel::load_latency_ns},
    {"store_latency_ns", &CostModel::store_latency_ns},
    {"signal_ns", &CostModel::signal_ns},
    {"peer_signal_ns", &CostModel::peer_signal_ns},
};

constexpr std::pair<const char*, double KindCost::*> kOfKind[] = {
    {"load_slot_ns", &KindCost::load_slot_ns},
    {"consume_ns_per_mflop", &KindCost::consume_ns_per_mflop},
    {"consume_slot_ns", &KindCost::consume_slot_ns},
    {"consume_fixed_ns", &KindCost::consume_fixed_ns},
    {"consume_stage_ns", &KindCost::consume_stage_ns},
    {"store_fixed_ns", &KindCost::store_fixed_ns},
    {"store_stage_ns", &KindCost::store_stage_ns},
};

constexpr const char* kSmsName = "num_sms";
constexpr const char* kSmall = ".small";

bool is_gemm(uint32_t opcode) {
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::kQkvRopeAppend:
    case Opcode::kOProjResidual:
    case Opcode::kGateUpSilu:
    case Opcode::kDownResidual:
    case Opcode::kDownPartial:
    case Opcode::kOPartial:
    case Opcode::kLmHead:
      return true;
    default:
      return false;
  }
}

/// Where a model keeps the value of this name, or null.
double* find(CostModel& model, const std::string& name) {
  for (const auto& [field, member] : kShared) {
    if (name == field) {
      return &(model.*member);
    }
  }
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) {
    return nullptr;
  }
  for (uint32_t kind = 0; kind < kNumKinds; ++kind) {
    if (name.compare(0, dot, kind_name(kind)) != 0 || kind_name(kind).empty()) {
      continue;
    }
    for (const auto& [field, member] : kOfKind) {
      if (name.compare(dot + 1, std::string::npos, field) == 0) {
        return &(model.kinds[kind].*member);
      }
    }
  }
  return nullptr;
}

}  // namespace

std::string kind_name(uint32_t kind) {
  if (kind < kNumOpcodes) {
    return kOpcodeNames[kind];
  }
  const uint32_t opcode = kind - kNumOpcodes;
  return is_gemm(opcode) ? std::string(kOpcodeNames[opcode]) + kSmall : std::string();
}

void CostModel::set(const std::string& name, double value) {
  check(std::isfinite(value) && value >= 0, "cost model", name,
        ": expected a finite number of at least 0, got ", value);
  if (name == kSmsName) {
    check(value >= 1 && value <= 1024 && value == std::floor(value), "cost model", name,
          ": expected 1 to 1024, got ", value);
    num_sms = static_cast<uint32_t>(value);
    return;
  }
  double* const place = find(*this, name);
  check(place != nullptr, "cost model", "unknown value ", name);
  *place = value;
}

double CostModel::get(const std::string& name) const {
  if (name == kSmsName) {
    return num_sms;
  }
  CostModel copy = *this;
  const double* const place = find(copy, name);
  check(place != nullptr, "cost model", "unknown value ", name);
  return *place;
}

std::vector<std::string> CostModel::fields() {
  std::vector<std::string> names{kSmsName};
  for (const auto& [field, member] : kShared) {
    names.emplace_back(field);
  }
  for (uint32_t kind = 0; kind < kNumKinds; ++kind) {
    for (const auto& [field, member] : kOfKind) {
      if (!kind_name(kind).empty()) {
        names.push_back(kind_name(kind) + "." + field);
      }
    }
  }
  return names;
}

void CostModel::check_complete() const {
  for (const auto& [field, member] : {std::pair{"hbm_gbps", hbm_gbps},
                                      {"l2_gbps", l2_gbps},
                                      {"nvlink_gbps", nvlink_gbps},
                                      {"sm_peer_gbps", sm_peer_gbps},
                                      {"tensor_tflops", tensor_tflops},
                                      {"ring_slots", ring_slots}}) {
    check(member > 0, "cost model", field, ": expected more than 0, got ", member);
  }
}

}  // namespace terrazzo
