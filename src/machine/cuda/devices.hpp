// The GPUs of a machine with several ranks: which they are, and what must be true of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace terrazzo::cuda {

/// Why GPUs 0 .. num_gpus - 1 cannot work together, and the remedy; empty if they can. Says nothing
/// about any of them alone.
std::string peer_problem(uint32_t num_gpus);

/// `num_gpus` GPUs from the current one on. Makes the memory of each visible to the others; throws
/// `Error` where there is a peer problem.
std::vector<int> open_devices(uint32_t num_gpus);

}  // namespace terrazzo::cuda
