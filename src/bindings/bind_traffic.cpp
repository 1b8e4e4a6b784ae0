#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "lower/lower.hpp"
#include "lower/peer_traffic.hpp"

namespace nb = nanobind;

namespace {

using Flow = std::tuple<std::string, std::string, uint32_t, uint32_t, uint64_t, uint64_t>;

std::vector<Flow> layer_traffic(const terrazzo::ModelShape& shape,
                                const terrazzo::StepLimits& limits,
                                const terrazzo::bindings::StepArrays& arrays, uint32_t num_sms) {
  const terrazzo::LoweredStep step = terrazzo::lower(arrays.request(), shape, limits, {num_sms});
  std::vector<Flow> flows;
  for (const terrazzo::PeerFlow& flow :
       terrazzo::peer_traffic(step, terrazzo::Segment::kBody, shape, limits)) {
    flows.emplace_back(opcode_name(flow.opcode),
                       terrazzo::kBufferNames[static_cast<uint32_t>(flow.buffer)], flow.from,
                       flow.to, flow.bytes, flow.writes);
  }
  return flows;
}

}  // namespace

void bind_traffic(nb::module_& m) {
  m.def("layer_traffic", &layer_traffic, nb::arg("shape"), nb::arg("limits"), nb::arg("arrays"),
        nb::arg("num_sms") = 132,
        "What the GPUs send each other in one layer of a step: (instruction, buffer, from, to, "
        "bytes, writes) of each flow; the buffer 'counters' stands for signals.");
}
