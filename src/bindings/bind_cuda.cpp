#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "lower/part_of_step.hpp"
#include "machine/cuda/cuda.hpp"
#include "machine/cuda/cuda_model.hpp"

namespace nb = nanobind;

namespace {

using terrazzo::ModelShape;
using terrazzo::RepeatedMatrix;
using terrazzo::SourceMatrix;
using terrazzo::StepLimits;
using terrazzo::WeavePlan;
using terrazzo::bindings::Array1;
using terrazzo::bindings::Array2;
using terrazzo::bindings::as_bf16;
using terrazzo::bindings::order_or_plain;
using terrazzo::bindings::outputs_of;
using terrazzo::bindings::span_of;
using terrazzo::bindings::StepArrays;
using terrazzo::cuda::CudaModel;
using terrazzo::cuda::DeviceInfo;

std::vector<terrazzo::Opcode> opcodes_named(const std::vector<std::string>& names) {
  std::vector<terrazzo::Opcode> opcodes;
  for (const std::string& name : names) {
    opcodes.push_back(terrazzo::opcode_named(name));
  }
  return opcodes;
}

uint64_t nanoseconds(double seconds) { return static_cast<uint64_t>(seconds * 1e9); }

void bind_device(nb::module_& m) {
  m.def("cuda_built", &terrazzo::cuda_built, "Whether this build contains the CUDA machine.");
  m.def("cuda_problem", &terrazzo::cuda::device_problem, nb::arg("num_gpus") = 1,
        "Why the CUDA machine cannot run on so many GPUs, with the remedy; empty if it can.");
  nb::class_<DeviceInfo>(m, "CudaDevice", "A GPU that the CUDA machine runs on.")
      .def_ro("name", &DeviceInfo::name)
      .def_ro("num_sms", &DeviceInfo::num_sms)
      .def_prop_ro("compute_capability",
                   [](const DeviceInfo& d) {
                     return std::to_string(d.compute_major) + "." + std::to_string(d.compute_minor);
                   })
      .def_ro("total_bytes", &DeviceInfo::total_bytes)
      .def_ro("free_bytes", &DeviceInfo::free_bytes)
      .def_ro("driver_version", &DeviceInfo::driver_version, "1000 * major + 10 * minor")
      .def_ro("runtime_version", &DeviceInfo::runtime_version, "1000 * major + 10 * minor");
  m.def("cuda_device", &terrazzo::cuda::device_info, nb::arg("gpu") = 0,
        "The device as it is now; Error where the CUDA machine cannot run.");
}

void bind_timing(nb::class_<CudaModel>& model) {
  model
      .def("fill_random", &CudaModel::fill_random, nb::call_guard<nb::gil_scoped_release>(),
           nb::arg("seed"),
           "Random weights, tables and KV pages instead of loading; for measurements.")
      .def(
          "time_step",
          [](CudaModel& self, const StepArrays& arrays, const std::vector<std::string>& only,
             uint32_t repeats, bool sweep_cache, uint32_t layers) {
            const nb::gil_scoped_release release;
            return self.time_step(arrays.request(), opcodes_named(only),
                                  {repeats, sweep_cache, layers});
          },
          nb::arg("arrays"), nb::kw_only(), nb::arg("only") = std::vector<std::string>(),
          nb::arg("repeats") = 5, nb::arg("sweep_cache") = true, nb::arg("layers") = 0,
          "Milliseconds on the device of each of `repeats` launches of a step. only: its "
          "instructions of these kinds alone, without waits. layers: so many of the model's, 0: "
          "all.")
      .def(
          "time_empty",
          [](CudaModel& self, uint32_t count, uint32_t repeats) {
            const nb::gil_scoped_release release;
            return self.time_empty(count, {.repeats = repeats, .sweep_cache = false});
          },
          nb::arg("count"), nb::kw_only(), nb::arg("repeats") = 5,
          "The same of a program of `count` instructions that do nothing.");
}

}  // namespace

void bind_cuda(nb::module_& m) {
  bind_device(m);
  nb::class_<CudaModel> model(m, "CudaModel", "A model on one GPU or several.");
  model.attr("MAX_IN_FLIGHT") = CudaModel::kMaxInFlight;
  model
      .def(
          "__init__",
          [](CudaModel* self, const ModelShape& shape, const StepLimits& limits, uint32_t num_sms,
             uint32_t reserve_sms, double watchdog_seconds, uint64_t stream, uint32_t trace_events,
             uint32_t ranks_per_gpu) {
            const nb::gil_scoped_release release;
            new (self) CudaModel(shape, limits,
                                 {.num_sms = num_sms,
                                  .reserve_sms = reserve_sms,
                                  .watchdog_ns = nanoseconds(watchdog_seconds),
                                  .stream = stream,
                                  .trace_events = trace_events,
                                  .ranks_per_gpu = ranks_per_gpu});
          },
          nb::arg("shape"), nb::arg("limits"), nb::kw_only(), nb::arg("num_sms") = 0,
          nb::arg("reserve_sms") = 0, nb::arg("watchdog_seconds") = 10.0, nb::arg("stream") = 0,
          nb::arg("trace_events") = 0, nb::arg("ranks_per_gpu") = 1,
          "num_sms 0: all but reserve_sms. stream: handle of the stream that runs the steps; 0: "
          "one of the model's own. ranks_per_gpu: so many of shape.world ranks share a GPU.")
      .def(
          "pack_rows",
          [](CudaModel& self, uint32_t gpu, terrazzo::Matrix which, uint32_t layer,
             const Array1<int32_t>& target_rows, const Array2<uint16_t>& source,
             const Array1<int32_t>& source_rows, const Array1<float>& column_scale) {
            self.pack_rows(
                gpu,
                {which, layer, span_of(target_rows), span_of(source_rows), span_of(column_scale)},
                {as_bf16(source.data()), source.shape(0), source.shape(1)});
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("gpu"), nb::arg("which"),
          nb::arg("layer"), nb::arg("target_rows"), nb::arg("source"), nb::arg("source_rows"),
          nb::arg("column_scale"),
          "Rows of a bf16 source [rows, cols] to output rows of a matrix, times a factor a column.")
      .def(
          "pack_repeated",
          [](CudaModel& self, uint32_t gpu, terrazzo::Matrix which, uint32_t layer,
             const Array1<int32_t>& target_rows, const Array1<uint16_t>& pool, uint64_t first,
             uint64_t stride, uint64_t rows, uint64_t cols, const Array1<int32_t>& source_rows,
             const Array1<float>& column_scale) {
            self.pack_repeated(
                gpu,
                {which, layer, span_of(target_rows), span_of(source_rows), span_of(column_scale)},
                {{as_bf16(pool.data()), pool.size()}, first, stride, rows, cols});
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("gpu"), nb::arg("which"),
          nb::arg("layer"), nb::arg("target_rows"), nb::arg("pool"), nb::arg("first"),
          nb::arg("stride"), nb::arg("rows"), nb::arg("cols"), nb::arg("source_rows"),
          nb::arg("column_scale"),
          "The same of a source [rows, cols] whose (row, col) is the value "
          "(first + row * stride + col) modulo its size of a bf16 pool; made on the device.")
      .def(
          "set_tables",
          [](CudaModel& self, const Array2<uint16_t>& embedding, const Array1<uint16_t>& final_norm,
             const Array2<float>& rope) {
            self.set_tables(
                SourceMatrix{as_bf16(embedding.data()), embedding.shape(0), embedding.shape(1)},
                {as_bf16(final_norm.data()), final_norm.size()}, {rope.data(), rope.size()});
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("embedding"), nb::arg("final_norm"),
          nb::arg("rope"),
          "Embedding bf16 [vocab, hidden], final norm bf16 [hidden], rope fp32 [positions, "
          "head_dim]; ends the loading.")
      .def(
          "set_repeated_tables",
          [](CudaModel& self, const Array1<uint16_t>& pool, uint64_t first, uint64_t stride,
             uint64_t rows, uint64_t cols, const Array1<uint16_t>& final_norm,
             const Array2<float>& rope) {
            self.set_tables(
                RepeatedMatrix{{as_bf16(pool.data()), pool.size()}, first, stride, rows, cols},
                {as_bf16(final_norm.data()), final_norm.size()}, {rope.data(), rope.size()});
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("pool"), nb::arg("first"),
          nb::arg("stride"), nb::arg("rows"), nb::arg("cols"), nb::arg("final_norm"),
          nb::arg("rope"), "The same with an embedding that repeats, as for pack_repeated.")
      .def(
          "submit",
          [](CudaModel& self, const StepArrays& arrays, const WeavePlan* order) {
            return self.submit(arrays.request(), order_or_plain(order));
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("arrays"),
          nb::arg("order") = nb::none(),
          "Prepares and queues a step, layer by layer unless there is an order; its number.")
      .def(
          "collect",
          [](CudaModel& self, uint64_t number) {
            terrazzo::StepOutputs outputs;
            {
              const nb::gil_scoped_release release;
              outputs = self.collect(number);
            }
            return outputs_of(std::move(outputs), self.shape().vocab);
          },
          nb::arg("number"), "Waits for the oldest step; (tokens, logprobs, logits).")
      .def(
          "verify",
          [](const CudaModel& self, const StepArrays& arrays, const WeavePlan* order) {
            const nb::gil_scoped_release release;
            return self.verify(arrays.request(), order_or_plain(order));
          },
          nb::arg("arrays"), nb::arg("order") = nb::none(),
          "Problems of the step's program; empty if it is sound.")
      .def(
          "trace",
          [](CudaModel& self) {
            const std::vector<terrazzo::TraceEvent> events = self.events();
            return nb::bytes(reinterpret_cast<const char*>(events.data()),
                             events.size() * sizeof(terrazzo::TraceEvent));
          },
          "Events of the last step, if trace_events: records of core/trace_event.hpp.")
      .def(
          "set_watchdog_seconds",
          [](CudaModel& self, double seconds) { self.set_watchdog_ns(nanoseconds(seconds)); },
          nb::arg("seconds"), "Longest wait inside the steps launched from now on.")
      .def(
          "set_delays",
          [](CudaModel& self, uint32_t seed, uint32_t most_ns) {
            self.set_delays({seed, most_ns});
          },
          nb::arg("seed"), nb::arg("most_ns"),
          "Random sleeps of SMs in the steps launched from now on, for tests; 0: none.")
      .def_prop_ro("elapsed_ms", &CudaModel::elapsed_ms,
                   "Time on the device of the step collected last.")
      .def_prop_ro("num_sms", &CudaModel::num_sms)
      .def_prop_ro("shape", &CudaModel::shape, nb::rv_policy::reference_internal)
      .def_prop_ro("limits", &CudaModel::limits, nb::rv_policy::reference_internal);
  bind_timing(model);
}
