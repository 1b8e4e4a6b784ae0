#include "lower/peer_traffic.hpp"

#include <map>
#include <tuple>

namespace terrazzo {
namespace {

constexpr uint32_t kSignalsOfBothStorers = 2;

struct Volume {
  uint64_t bytes = 0;
  uint64_t writes = 0;
};

/// As instructions of a segment see it: the prologue plays the part of layer -1.
int32_t layer_of(const LoweredStep& step, Segment segment) {
  switch (segment) {
    case Segment::kPrologue:
      return -1;
    case Segment::kBody:
      return 0;
    default:
      return static_cast<int32_t>(step.num_layers);
  }
}

}  // namespace

std::vector<PeerFlow> peer_traffic(const LoweredStep& step, Segment segment,
                                   const ModelShape& shape, const StepLimits& limits) {
  std::map<std::tuple<Opcode, Buffer, uint32_t, uint32_t>, Volume> flows;
  const int32_t layer = layer_of(step, segment);
  const StepTables tables = step.tables();
  for (uint32_t gpu = 0; gpu < step.gpus.size(); ++gpu) {
    for (const Instruction& instruction : step.gpus[gpu].segment(segment)) {
      const auto add = [&](Buffer buffer, uint32_t to, uint64_t bytes, uint64_t writes) {
        Volume& volume = flows[{instruction.opcode, buffer, gpu, to}];
        volume.bytes += bytes;
        volume.writes += writes;
      };
      for_each_access(instruction, gpu, layer, shape, limits, tables, [&](const Access& access) {
        if (access.mode == AccessMode::kWrite && access.gpu != gpu) {
          add(access.buffer, access.gpu, access.end - access.begin, 1);
        }
      });
      for (const Signal& signal : instruction.signals) {
        for (uint32_t to = 0; to < shape.world; ++to) {
          if (to != gpu && signal.count != 0 && (signal.gpus >> to & 1u) != 0) {
            const uint64_t adds = uint64_t{signal.count} * kSignalsOfBothStorers;
            add(Buffer::kCounters, to, adds * sizeof(uint32_t), adds);
          }
        }
      }
    }
  }
  std::vector<PeerFlow> out;
  for (const auto& [key, volume] : flows) {
    const auto& [opcode, buffer, from, to] = key;
    out.push_back({opcode, buffer, from, to, volume.bytes, volume.writes});
  }
  return out;
}

}  // namespace terrazzo
