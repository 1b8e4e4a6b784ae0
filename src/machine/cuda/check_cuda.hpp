// Every CUDA call goes through `check_cuda`.
#pragma once

#include <cuda_runtime.h>

#include <new>
#include <source_location>
#include <sstream>
#include <string>

#include "machine/machine_error.hpp"

namespace terrazzo::cuda {

/// The device's memory does not hold what was asked for.
class OutOfDeviceMemory : public std::bad_alloc {
 public:
  explicit OutOfDeviceMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// Nothing runs on the device any more, in this process.
class DeviceLostError : public MachineError {
 public:
  using MachineError::MachineError;
};

/// Whether that is so after an error.
inline bool loses_device(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

/// Throws `MachineError` with the call's place and CUDA's own words.
inline void check_cuda(cudaError_t status,
                       const std::source_location& place = std::source_location::current()) {
  if (status == cudaSuccess) {
    return;
  }
  (void)cudaGetLastError();  // a sticky error stays, another one must not fail the next call
  std::ostringstream message;
  message << "[cuda] " << place.file_name() << ':' << place.line() << ": "
          << cudaGetErrorName(status) << ": " << cudaGetErrorString(status);
  if (loses_device(status)) {
    message << "; nothing runs on this GPU any more: start the process again";
    throw DeviceLostError(message.str());
  }
  if (status == cudaErrorMemoryAllocation) {
    throw OutOfDeviceMemory(message.str());
  }
  throw MachineError(message.str());
}

}  // namespace terrazzo::cuda
