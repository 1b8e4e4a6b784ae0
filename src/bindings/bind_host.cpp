#include "bindings/bind_host.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "lower/lower.hpp"
#include "lower/verifier.hpp"
#include "machine/host/host_model.hpp"

namespace nb = nanobind;

namespace {

using terrazzo::ModelShape;
using terrazzo::StepLimits;
using terrazzo::StepRequest;
using terrazzo::host::HostModel;

template <class T>
using Array1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<const T> span_of(const Array1<T>& array) {
  return {array.data(), array.size()};
}

const terrazzo::bf16* as_bf16(const uint16_t* bits) {
  return reinterpret_cast<const terrazzo::bf16*>(bits);
}

/// A NumPy array that owns its values.
template <class T>
nb::ndarray<nb::numpy, T> to_numpy(std::vector<T> values, std::initializer_list<size_t> shape) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* const data = owner->data();
  nb::capsule capsule(owner.release(),
                      [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return nb::ndarray<nb::numpy, T>(data, shape, capsule);
}

/// The arrays of a step; holds references while the core reads them.
struct StepArrays {
  Array1<int32_t> token_ids, seq_lens, context_lens, page_indptr, page_ids, logit_rows;
  Array1<float> temperature;
  Array1<int32_t> top_k;
  Array1<float> top_p;
  Array1<uint64_t> seed;
  Array1<int32_t> output_position;
  Array1<bool> want_logits;

  StepRequest request() const {
    return {span_of(token_ids),
            span_of(seq_lens),
            span_of(context_lens),
            span_of(page_indptr),
            span_of(page_ids),
            span_of(logit_rows),
            span_of(temperature),
            span_of(top_k),
            span_of(top_p),
            span_of(seed),
            span_of(output_position),
            {reinterpret_cast<const uint8_t*>(want_logits.data()), want_logits.size()}};
  }
};

void bind_sizes(nb::module_& m) {
  nb::class_<ModelShape>(m, "ModelShape", "Sizes of a model on `world` GPUs.")
      .def(
          "__init__",
          [](ModelShape* self, uint32_t num_layers, uint32_t hidden, uint32_t intermediate,
             uint32_t num_heads, uint32_t num_kv_heads, uint32_t head_dim, uint32_t vocab,
             float norm_eps, uint32_t world, uint32_t split_tokens) {
            new (self) ModelShape{num_layers, hidden, intermediate, num_heads, num_kv_heads,
                                  head_dim,   vocab,  norm_eps,     world,     split_tokens};
            terrazzo::validate(*self);
          },
          nb::kw_only(), nb::arg("num_layers"), nb::arg("hidden"), nb::arg("intermediate"),
          nb::arg("num_heads"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("vocab"),
          nb::arg("norm_eps"), nb::arg("world"), nb::arg("split_tokens"))
      .def_ro("world", &ModelShape::world)
      .def_ro("head_dim", &ModelShape::head_dim)
      .def_ro("vocab", &ModelShape::vocab)
      .def_prop_ro("group", [](const ModelShape& s) { return s.group(); })
      .def_prop_ro("local_kv_heads", [](const ModelShape& s) { return s.local_kv_heads(); })
      .def_prop_ro("act_panels", [](const ModelShape& s) { return s.act_panels(); })
      .def_prop_ro("vocab_panels", [](const ModelShape& s) { return s.vocab_panels(); });

  nb::class_<StepLimits>(m, "StepLimits", "What a machine is sized for.")
      .def(
          "__init__",
          [](StepLimits* self, uint32_t max_rows, uint32_t max_sequences, uint32_t max_position,
             uint32_t num_pages, uint32_t max_logit_rows, uint32_t max_partials) {
            new (self) StepLimits{max_rows,  max_sequences,  max_position,
                                  num_pages, max_logit_rows, max_partials};
          },
          nb::kw_only(), nb::arg("max_rows"), nb::arg("max_sequences"), nb::arg("max_position"),
          nb::arg("num_pages"), nb::arg("max_logit_rows"), nb::arg("max_partials"))
      .def_ro("max_rows", &StepLimits::max_rows)
      .def_ro("max_sequences", &StepLimits::max_sequences)
      .def_ro("max_position", &StepLimits::max_position)
      .def_ro("num_pages", &StepLimits::num_pages)
      .def_ro("max_logit_rows", &StepLimits::max_logit_rows);
}

void bind_step(nb::module_& m) {
  nb::class_<StepArrays>(m, "StepArrays", "The arrays of one step, as terrazzo.step.StepInput.")
      .def(
          "__init__",
          [](StepArrays* self, Array1<int32_t> token_ids, Array1<int32_t> seq_lens,
             Array1<int32_t> context_lens, Array1<int32_t> page_indptr, Array1<int32_t> page_ids,
             Array1<int32_t> logit_rows, Array1<float> temperature, Array1<int32_t> top_k,
             Array1<float> top_p, Array1<uint64_t> seed, Array1<int32_t> output_position,
             Array1<bool> want_logits) {
            new (self) StepArrays{token_ids, seq_lens,   context_lens,    page_indptr,
                                  page_ids,  logit_rows, temperature,     top_k,
                                  top_p,     seed,       output_position, want_logits};
          },
          nb::kw_only(), nb::arg("token_ids"), nb::arg("seq_lens"), nb::arg("context_lens"),
          nb::arg("page_indptr"), nb::arg("page_ids"), nb::arg("logit_rows"),
          nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("seed"),
          nb::arg("output_position"), nb::arg("want_logits"));
}

/// Tokens, log-probabilities, and the logits of the rows that asked for them.
using Outputs = nb::typed<nb::tuple, nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>,
                          nb::ndarray<nb::numpy, float, nb::ndim<1>>,
                          nb::ndarray<nb::numpy, float, nb::ndim<2>>>;

Outputs outputs_of(terrazzo::host::StepOutputs outputs, size_t vocab) {
  const size_t rows = outputs.tokens.size();
  const size_t wanted = outputs.logits.size() / vocab;
  return nb::make_tuple(to_numpy(std::move(outputs.tokens), {rows}),
                        to_numpy(std::move(outputs.logprobs), {rows}),
                        to_numpy(std::move(outputs.logits), {wanted, vocab}));
}

}  // namespace

void bind_host(nb::module_& m) {
  bind_sizes(m);
  bind_step(m);
  nb::enum_<terrazzo::Matrix>(m, "Matrix", "A layer's matrices, and the LM head.")
      .value("QKV", terrazzo::Matrix::kQkv)
      .value("O", terrazzo::Matrix::kO)
      .value("GATE_UP", terrazzo::Matrix::kGateUp)
      .value("DOWN", terrazzo::Matrix::kDown)
      .value("LM_HEAD", terrazzo::Matrix::kLmHead);
  nb::enum_<terrazzo::host::Lateness>(m, "Lateness", "When copies land under the adversary.")
      .value("RANDOM", terrazzo::host::Lateness::kRandom)
      .value("LATE", terrazzo::host::Lateness::kLate)
      .value("EAGER", terrazzo::host::Lateness::kEager);
  nb::exception<terrazzo::Error>(m, "Error", PyExc_ValueError);
  nb::exception<terrazzo::host::LaunchError>(m, "LaunchError", PyExc_RuntimeError);

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
          [](HostModel& self, const StepArrays& arrays) {
            terrazzo::host::StepOutputs outputs;
            {
              const nb::gil_scoped_release release;
              outputs = self.step(arrays.request());
            }
            return outputs_of(std::move(outputs), self.shape().vocab);
          },
          nb::arg("arrays"), "Runs a step; (tokens, logprobs, logits).")
      .def(
          "step_checked",
          [](HostModel& self, const StepArrays& arrays, uint64_t seed,
             terrazzo::host::Lateness lateness) {
            terrazzo::host::StepOutputs outputs;
            {
              const nb::gil_scoped_release release;
              outputs = self.step_checked(arrays.request(), {seed, lateness, {}});
            }
            return outputs_of(std::move(outputs), self.shape().vocab);
          },
          nb::arg("arrays"), nb::kw_only(), nb::arg("seed"), nb::arg("lateness"),
          "Runs a step under the adversary; (tokens, logprobs, logits).")
      .def(
          "verify",
          [](const HostModel& self, const StepArrays& arrays) {
            const nb::gil_scoped_release release;
            return self.verify(arrays.request());
          },
          nb::arg("arrays"), "Problems of the step's program; empty if it is sound.")
      .def_prop_ro("shape", &HostModel::shape, nb::rv_policy::reference_internal)
      .def_prop_ro("limits", &HostModel::limits, nb::rv_policy::reference_internal);
}
