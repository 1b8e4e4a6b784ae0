// What the benchmarks of steps share: how a launch is timed, what memory holds, events as a file.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "machine/cuda/cuda_machine.hpp"
#include "machine/cuda/handles.hpp"
#include "machine/cuda/random_fill.hpp"
#include "simulate/step_archive.hpp"
#include "terrazzo/core/isa.hpp"

namespace terrazzo::testing {

inline constexpr int kTimedLaunches = 9;

/// Of launches of the uploaded step, in milliseconds on the first device; after one to warm up.
inline double median_ms(cuda::CudaMachine& machine) {
  machine.use_device(0);
  cuda::Event begin(cudaEventDefault);
  cuda::Event end(cudaEventDefault);
  std::vector<float> times;
  for (int i = 0; i < kTimedLaunches + 1; ++i) {
    machine.launch(/*fetch=*/false, &begin);
    machine.use_device(0);
    end.record(machine.stream());
    machine.wait();
    end.wait();  // it comes after what `wait` waits for
    float ms = 0;
    cuda::check_cuda(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 1) {
      times.push_back(ms);
    }
  }
  std::nth_element(times.begin(), times.begin() + kTimedLaunches / 2, times.end());
  return times[kTimedLaunches / 2];
}

/// Everything but a rank's counters.
inline void fill_heap(cuda::CudaMachine& machine, const cuda::DeviceMemory& values,
                      uint32_t rank = 0) {
  const uint64_t heap_bytes = machine.layout().at(Buffer::kCounters);
  for (uint64_t at = 0; at < heap_bytes; at += values.bytes()) {
    machine.write(static_cast<Buffer>(0), at, values.data(),
                  std::min<uint64_t>(values.bytes(), heap_bytes - at), rank);
  }
  cuda::check_cuda(cudaDeviceSynchronize());  // copies within a device return before they end
}

/// One line an instruction and role of every rank, in nanoseconds of its GPU's clock.
inline void write_trace(const std::string& path, const std::vector<TraceEvent>& events) {
  const ArchiveFile file(path, "w");
  std::fprintf(file.get(), "begin,end,position,layer,gpu,sm,role,opcode\n");
  for (const TraceEvent& event : events) {
    std::fprintf(file.get(), "%llu,%llu,%u,%d,%u,%u,%u,%s\n",
                 static_cast<unsigned long long>(event.begin_ns),
                 static_cast<unsigned long long>(event.end_ns), event.position, event.layer,
                 static_cast<unsigned>(event.gpu), static_cast<unsigned>(event.sm),
                 static_cast<unsigned>(event.role), opcode_name(event.opcode));
  }
}

/// The value of the command line's "name=value", or null.
inline const char* value_of(const char* argument, const char* name) {
  const size_t length = std::strlen(name);
  return std::strncmp(argument, name, length) == 0 && argument[length] == '='
             ? argument + length + 1
             : nullptr;
}

}  // namespace terrazzo::testing
