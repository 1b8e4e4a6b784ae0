#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "machine/host/host_model.hpp"

namespace nb = nanobind;

namespace {

using terrazzo::ModelShape;
using terrazzo::StepLimits;
using terrazzo::WeavePlan;
using terrazzo::bindings::Array1;
using terrazzo::bindings::Array2;
using terrazzo::bindings::as_bf16;
using terrazzo::bindings::order_or_plain;
using terrazzo::bindings::outputs_of;
using terrazzo::bindings::span_of;
using terrazzo::bindings::StepArrays;
using terrazzo::host::HostModel;

}  // namespace

void bind_host(nb::module_& m) {
  nb::enum_<terrazzo::host::Lateness>(m, "Lateness", "When copies land under the adversary.")
      .value("RANDOM", terrazzo::host::Lateness::kRandom)
      .value("LATE", terrazzo::host::Lateness::kLate)
      .value("EAGER", terrazzo::host::Lateness::kEager);

  nb::class_<HostModel>(m, "HostModel", "A model on the host machine's virtual GPUs.")
      .def(
          "__init__",
          [](HostModel* self, const ModelShape& shape, const StepLimits& limits, uint32_t num_sms,
             uint32_t num_threads, double watchdog_seconds) {
            new (self)
                HostModel(shape, limits,
                          {num_sms, num_threads, static_cast<uint64_t>(watchdog_seconds * 1e9)});
          },
          nb::arg("shape"), nb::arg("limits"), nb::kw_only(), nb::arg("num_sms") = 2,
          nb::arg("num_threads") = 0, nb::arg("watchdog_seconds") = 10.0)
      .def(
          "pack_rows",
          [](HostModel& self, uint32_t gpu, terrazzo::Matrix which, uint32_t layer,
             const Array1<int32_t>& target_rows, const Array2<uint16_t>& source,
             const Array1<int32_t>& source_rows, const Array1<float>& column_scale) {
            self.weights(gpu).pack_rows(which, layer, span_of(target_rows),
                                        {as_bf16(source.data()), source.shape(0), source.shape(1)},
                                        span_of(source_rows), span_of(column_scale));
          },
          nb::call_guard<nb::gil_scoped_release>(), nb::arg("gpu"), nb::arg("which"),
          nb::arg("layer"), nb::arg("target_rows"), nb::arg("source"), nb::arg("source_rows"),
          nb::arg("column_scale"),
          "Rows of a bf16 source [rows, cols] to output rows of a matrix, times a factor a column.")
      .def(
          "set_tables",
          [](HostModel& self, const Array2<uint16_t>& embedding, const Array1<uint16_t>& final_norm,
             const Array2<float>& rope) {
            self.set_tables({as_bf16(embedding.data()), embedding.shape(0), embedding.shape(1)},
                            {as_bf16(final_norm.data()), final_norm.size()},
                            {rope.data(), rope.size()});
          },
          nb::arg("embedding"), nb::arg("final_norm"), nb::arg("rope"),
          "Embedding bf16 [vocab, hidden], final norm bf16 [hidden], rope fp32 [positions, "
          "head_dim].")
      .def(
          "step",
          [](HostModel& self, const StepArrays& arrays, const WeavePlan* order) {
            terrazzo::StepOutputs outputs;
            {
              const nb::gil_scoped_release release;
              outputs = self.step(arrays.request(), order_or_plain(order));
            }
            return outputs_of(std::move(outputs), self.shape().vocab);
          },
          nb::arg("arrays"), nb::arg("order") = nb::none(),
          "Runs a step, layer by layer unless there is an order; (tokens, logprobs, logits).")
      .def(
          "step_checked",
          [](HostModel& self, const StepArrays& arrays, uint64_t seed,
             terrazzo::host::Lateness lateness, const WeavePlan* order) {
            terrazzo::StepOutputs outputs;
            {
              const nb::gil_scoped_release release;
              outputs =
                  self.step_checked(arrays.request(), {seed, lateness, {}}, order_or_plain(order));
            }
            return outputs_of(std::move(outputs), self.shape().vocab);
          },
          nb::arg("arrays"), nb::kw_only(), nb::arg("seed"), nb::arg("lateness"),
          nb::arg("order") = nb::none(),
          "Runs a step under the adversary; (tokens, logprobs, logits).")
      .def(
          "verify",
          [](const HostModel& self, const StepArrays& arrays, const WeavePlan* order) {
            const nb::gil_scoped_release release;
            return self.verify(arrays.request(), order_or_plain(order));
          },
          nb::arg("arrays"), nb::arg("order") = nb::none(),
          "Problems of the step's program; empty if it is sound.")
      .def_prop_ro("shape", &HostModel::shape, nb::rv_policy::reference_internal)
      .def_prop_ro("limits", &HostModel::limits, nb::rv_policy::reference_internal);
}
