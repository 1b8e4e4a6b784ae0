#include "simulate/hbm_bytes.hpp"

#include "simulate/sim_memory.hpp"
#include "simulate/sim_program.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {

std::vector<double> hbm_bytes(const LoweredStep& step, const ModelShape& shape,
                              const CostModel& model, uint32_t gpu,
                              std::span<const uint32_t> positions) {
  check(gpu < step.gpus.size(), "hbm bytes", "gpu ", gpu, " of ", step.gpus.size());
  const std::vector<SimProgram> programs = compile_programs(step, shape, model, 0);
  SimCache cache(num_objects(programs), model.cache_bytes);
  std::vector<double> bytes;
  bytes.reserve(positions.size());
  for (const uint32_t position : positions) {
    check(position < programs[gpu].view.queue_size(), "hbm bytes", "position ", position, " of ",
          programs[gpu].view.queue_size());
    const QueuePlace place = place_of(programs[gpu].view, position);
    const SimInstruction& code = programs[gpu].at(place);
    double sum = code.stream_bytes;
    for (const SimOperand& operand : code.operands) {
      sum += cache.load(operand, place.layer);
    }
    cache.write(code.output, code.local_store_bytes, place.layer);
    bytes.push_back(sum);
  }
  return bytes;
}

}  // namespace terrazzo
