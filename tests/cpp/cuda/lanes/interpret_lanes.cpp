// The megakernel's stand-in by lanes: the kernel's own code, a fiber a thread.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

// Stand-ins for PTX; before everything that uses them.
#include "terrazzo/arch/sm90/special.hpp"

#include "cuda/fake_runtime.hpp"
#include "cuda/interpret.hpp"
#include "cuda/lanes/lanes.hpp"
#include "machine/cuda/block.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kMostBlocks = 8;  // of all ranks
constexpr uint32_t kMostSms = 3;     // of a rank

/// A device with the name by which tests know it, and an H100's SMs for the lowering.
const bool is_named = [] {
  set_fake_model("lanes", 132, uint64_t{8} << 30);
  return true;
}();

}  // namespace

bool interpret(const Step& step, uint32_t num_launched) {
  const auto ranks = static_cast<uint32_t>(step.size());
  const uint32_t num_sms = std::min({num_launched, kMostSms, std::max(1u, kMostBlocks / ranks)});
  static std::vector<std::unique_ptr<lanes::Block>> pool;
  static uint64_t seed = [] {
    const char* const text = std::getenv(lanes::kSeedVariable);
    return text == nullptr ? 1 : std::stoull(text);
  }();
  std::vector<lanes::Block*> blocks;
  for (size_t i = 0; i < step.size() * num_sms; ++i) {
    if (i == pool.size()) {
      pool.push_back(std::make_unique<lanes::Block>(cuda::kBlockThreads));
    }
    lanes::Block* const block = pool[i].get();
    const cuda::RankParams& rank = step[i / num_sms];
    const auto sm = static_cast<uint32_t>(i % num_sms);
    block->body = [block, &rank, sm](uint32_t thread) {
      auto& shared = *reinterpret_cast<sm90::SharedStorage*>(block->shared);
      if (rank.step.shape.head_panels() == 1) {
        cuda::run_thread<1>(shared, rank, sm, thread);
      } else {
        cuda::run_thread<2>(shared, rank, sm, thread);
      }
    };
    blocks.push_back(block);
  }
  const bool is_patient = step[0].step.watchdog_ns >= kShortestWaitNs;
  lanes::Launch launch(blocks, seed++, is_patient);
  launch.run();
  const bool is_given_up = step[0].view.abort->raised != 0;
  lanes::require(launch.is_drained() || is_given_up, "work in flight at the kernel's end");
  return true;
}

}  // namespace terrazzo::testing
