// A CUDA runtime without a GPU, for the host code of the CUDA machine: device memory is memory, and
// streams are late. What is queued happens when somebody waits, in any order that streams and
// events allow; so a forgotten event, or a buffer that is used again too early, gives wrong
// results.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <set>
#include <utility>

namespace terrazzo::testing {

/// Chooses among what may happen next, and how much happens before anybody waits.
void seed_fake_runtime(uint64_t seed);

/// Queues work on a stream, as a kernel launch does.
void enqueue_on(cudaStream_t stream, std::function<void()> work);
/// What is queued on the stream later waits until `ready()`.
void hold_until(cudaStream_t stream, std::function<bool()> ready);

/// What every device says of itself from now on.
void set_fake_model(const char* name, int num_sms, uint64_t memory_bytes);
/// So many devices from now on; the pairs (device, peer) have no peer access.
void set_fake_devices(int count, const std::set<std::pair<int, int>>& unreachable = {});
/// Who waits for one of these devices from now on learns of an illegal address.
void lose_fake_devices(const std::set<int>& devices);
bool is_peer_enabled(int device, int peer);
int current_fake_device();
int device_of(cudaStream_t stream);

/// The watchdog of the next step's launches gives up at once: in the last rank, then in the first.
void fail_next_launch();
/// The next launch on this device is refused.
void refuse_next_launch(int device);

/// Steps whose launches found the abort flag raised and did nothing.
uint32_t aborted_launches();

/// Counter banks that were not clear on some GPU when a launch began on another or the same.
uint32_t early_launches();

/// Bytes of device memory in use, and page-locked bytes.
uint64_t fake_device_bytes();
uint64_t fake_pinned_bytes();

}  // namespace terrazzo::testing
