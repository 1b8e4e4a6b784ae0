// The CUDA machine in a build without one: the same names, which say so.
#include "machine/cuda/cuda.hpp"
#include "machine/cuda/cuda_model.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {

bool cuda_built() { return false; }

namespace cuda {
namespace {

constexpr const char* kProblem =
    "this build has no CUDA machine; install nvcc 13.0 or later and build it again with "
    "-C terrazzo.cuda=on, or use the device 'host'";

[[noreturn]] void absent() { fail("cuda", kProblem); }

}  // namespace

std::string device_problem(uint32_t) { return kProblem; }

DeviceInfo device_info(uint32_t) { absent(); }

struct CudaModel::Parts {};

// Nothing but the constructor can be called: there is no object.
CudaModel::CudaModel(const ModelShape& shape, const StepLimits& limits, const CudaModelOptions&)
    : shape_(shape), limits_(limits) {
  absent();
}
CudaModel::~CudaModel() = default;
uint32_t CudaModel::num_sms() const { absent(); }
void CudaModel::set_watchdog_ns(uint64_t) { absent(); }
void CudaModel::set_delays(const DelayOptions&) { absent(); }
void CudaModel::pack_rows(uint32_t, const RowMove&, const SourceMatrix&) { absent(); }
void CudaModel::pack_repeated(uint32_t, const RowMove&, const RepeatedMatrix&) { absent(); }
void CudaModel::set_tables(const SourceMatrix&, std::span<const bf16>, std::span<const float>) {
  absent();
}
void CudaModel::set_tables(const RepeatedMatrix&, std::span<const bf16>, std::span<const float>) {
  absent();
}
void CudaModel::fill_random(uint64_t) { absent(); }
std::vector<float> CudaModel::time_step(const StepRequest&, std::span<const Opcode>,
                                        const TimingOptions&) {
  absent();
}
std::vector<float> CudaModel::time_empty(uint32_t, const TimingOptions&) { absent(); }
uint64_t CudaModel::submit(const StepRequest&, const WeavePlan&) { absent(); }
StepOutputs CudaModel::collect(uint64_t) { absent(); }
float CudaModel::elapsed_ms() const { absent(); }
std::vector<TraceEvent> CudaModel::events() { absent(); }
std::vector<std::string> CudaModel::verify(const StepRequest&, const WeavePlan&) const { absent(); }

}  // namespace cuda
}  // namespace terrazzo
