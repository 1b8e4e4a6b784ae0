// The CUDA machine's kernels on the fake runtime: `interpret` runs a launch's parameters, program
// and memory as the kernel would.
#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/fake_runtime.hpp"
#include "cuda/interpret.hpp"
#include "machine/cuda/check_cuda.hpp"
#include "machine/cuda/megakernel.hpp"
#include "machine/cuda/pack_kernel.hpp"

namespace terrazzo {
namespace {

using testing::interpret;
using testing::Step;

std::atomic<bool> fails_next{false};
std::atomic<int> refusing_device{-1};
std::atomic<uint32_t> num_aborted{0};
std::atomic<uint32_t> num_too_early{0};

/// A launch may count on all GPUs as soon as it starts: their banks must be clear.
void check_banks(const StepParams& params) {
  for (uint32_t gpu = 0; gpu < params.shape.world; ++gpu) {
    const uint32_t* const bank = params.counters(gpu);
    num_too_early +=
        std::any_of(bank, bank + params.bank_counters, [](uint32_t count) { return count != 0; });
  }
}

bool is_stopped(const Step& step) {
  return std::any_of(step.begin(), step.end(),
                     [](const auto& rank) { return rank.view.abort->raised != 0; });
}

void report_failure(const cuda::RankParams& rank, uint64_t at_ns) {
  *rank.view.report = {.raised = 1,
                       .gpu = rank.view.gpu,
                       .sm = 1,
                       .role = static_cast<uint32_t>(RoleKind::kLoader),
                       .position = 0,
                       .layer = -1,
                       .opcode = static_cast<uint32_t>(Opcode::kEmbed),
                       .wait_kind = static_cast<uint32_t>(WaitKind::kCounter),
                       .index = BankLayout::kBlocks,
                       .seen = 0,
                       .wanted = 4,
                       .at_ns = at_ns};
  for (uint32_t* const flag : rank.view.abort->flags) {
    *flag = 1;
  }
}

void run_step(const Step& step, uint32_t blocks) {
  for (const auto& rank : step) {
    if (rank.view.last_claims != nullptr) {
      // Later ranks are further behind.
      rank.view.last_claims[0] = rank.step.program.prologue_size + rank.view.world - rank.view.gpu;
    }
  }
  if (is_stopped(step)) {
    ++num_aborted;
    return;
  }
  if (!fails_next.exchange(false) && interpret(step, blocks)) {
    return;
  }
  report_failure(step[0], 9);
  report_failure(step.back(), 5);
}

/// Launches of a step on several devices: none comes to its end before all have begun.
struct Meeting {
  Step step;
  uint32_t blocks = 0;
  bool over = false;

  void arrive(const cuda::RankParams& rank, uint32_t rank_blocks) {
    if (rank.view.abort->raised == 0) {
      check_banks(rank.step);
    }
    step.push_back(rank);
    blocks = rank_blocks;
    if (step.size() == rank.step.shape.world) {
      std::sort(step.begin(), step.end(),
                [](const auto& a, const auto& b) { return a.step.gpu < b.step.gpu; });
      run_step(step, blocks);
      over = true;
    }
  }
};

/// Finds the other launches of a step: the n-th of each rank of a machine belong together.
class Meetings {
 public:
  std::shared_ptr<Meeting> next(const cuda::RankParams& rank) {
    const void* const machine = rank.step.heaps[0];
    auto& meeting = meetings_[{machine, launches_[{machine, rank.step.gpu}]++}];
    if (meeting == nullptr) {
      meeting = std::make_shared<Meeting>();
    }
    return meeting;
  }
  /// Between steps: an address may be another machine's next time, and a refused launch is not
  /// counted.
  void forget() {
    launches_.clear();
    meetings_.clear();
  }

 private:
  std::map<std::pair<const void*, uint32_t>, uint64_t> launches_;
  std::map<std::pair<const void*, uint64_t>, std::shared_ptr<Meeting>> meetings_;
};
Meetings meetings;

}  // namespace

namespace testing {

void fail_next_launch() { fails_next = true; }
void refuse_next_launch(int device) { refusing_device = device; }
uint32_t aborted_launches() { return num_aborted; }
uint32_t early_launches() { return num_too_early; }

}  // namespace testing

namespace cuda {

template <uint32_t kHeadPanels, uint32_t kMostRanks>
void Megakernel<kHeadPanels, kMostRanks>::prepare() {
  meetings.forget();
}

template <uint32_t kHeadPanels, uint32_t kMostRanks>
void Megakernel<kHeadPanels, kMostRanks>::launch(const LaunchParams<kMostRanks>& params,
                                                 uint32_t ranks, uint32_t blocks,
                                                 cudaStream_t stream) {
  const int device = testing::current_fake_device();
  check_cuda(testing::device_of(stream) == device ? cudaSuccess : cudaErrorInvalidResourceHandle);
  int refusing = device;
  if (refusing_device.compare_exchange_strong(refusing, -1)) {
    meetings.forget();
    check_cuda(cudaErrorLaunchOutOfResources);
  }
  const StepParams& first = params.ranks[0].step;
  const bool is_alone = first.shape.world > 1 && first.heaps[0] == first.heaps[1];
  if (ranks == first.shape.world || is_alone) {
    const Step step(params.ranks, params.ranks + ranks);
    testing::enqueue_on(stream, [=] {
      if (!is_stopped(step)) {
        check_banks(step[0].step);
      }
      run_step(step, blocks);
    });
    return;
  }
  check_cuda(ranks == 1 ? cudaSuccess : cudaErrorNotSupported);  // not needed so far
  const RankParams rank = params.ranks[0];
  const auto meeting = meetings.next(rank);
  testing::enqueue_on(stream, [=] { meeting->arrive(rank, blocks); });
  testing::hold_until(stream, [=] { return meeting->over || rank.view.abort->raised != 0; });
}

template struct Megakernel<1, 1>;
template struct Megakernel<2, 1>;
template struct Megakernel<1, kMaxGpus>;
template struct Megakernel<2, kMaxGpus>;

void launch_pack(const RowBlock& block, cudaStream_t stream) {
  testing::enqueue_on(stream, [=] {
    for (uint32_t row = 0; row < block.rows; ++row) {
      for (uint32_t chunk = 0; chunk < block.chunks_per_row(); ++chunk) {
        pack_chunk(block, row, chunk);
      }
    }
  });
}

void launch_lay(const TableRows& table, cudaStream_t stream) {
  testing::enqueue_on(stream, [=] {
    for (uint32_t row = 0; row < table.source.rows; ++row) {
      for (uint32_t chunk = 0; chunk < table.source.chunks_per_row(); ++chunk) {
        lay_chunk(table, row, chunk);
      }
    }
  });
}

}  // namespace cuda
}  // namespace terrazzo
