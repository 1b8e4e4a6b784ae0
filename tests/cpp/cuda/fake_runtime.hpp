// A CUDA runtime without a GPU, for the host code of the CUDA machine: device memory is memory, and
// streams are late. What is queued happens when somebody waits, in any order that streams and
// events allow; so a forgotten event, or a buffer that is used again too early, gives wrong
// results.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

namespace terrazzo::testing {

/// Chooses among what may happen next, and how much happens before anybody waits.
void seed_fake_runtime(uint64_t seed);

/// Queues work on a stream, as a kernel launch does.
void enqueue_on(cudaStream_t stream, std::function<void()> work);

/// The next launch's watchdog gives up at once.
void fail_next_launch();

/// Launches that found the abort flag raised and did nothing.
uint32_t aborted_launches();

/// Bytes of device memory in use, and page-locked bytes.
uint64_t fake_device_bytes();
uint64_t fake_pinned_bytes();

}  // namespace terrazzo::testing
