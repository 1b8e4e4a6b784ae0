// Owned streams and events.
#pragma once

#include <utility>

#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::cuda {

class Stream {
 public:
  /// Not ordered with the legacy default stream.
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  /// `flags`: cudaEventDefault takes times, cudaEventDisableTiming is cheaper.
  explicit Event(unsigned flags = cudaEventDisableTiming) {
    check_cuda(cudaEventCreateWithFlags(&event_, flags));
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }

  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream)); }
  /// Work queued on `stream` from now on waits for what was recorded; at once if nothing was.
  void hold(cudaStream_t stream) const { check_cuda(cudaStreamWaitEvent(stream, event_)); }
  void wait() const { check_cuda(cudaEventSynchronize(event_)); }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace terrazzo::cuda
