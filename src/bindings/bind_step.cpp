#include <nanobind/stl/string.h>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "machine/machine_error.hpp"
#include "machine/packed_model.hpp"

namespace nb = nanobind;

namespace {

using terrazzo::ModelShape;
using terrazzo::StepLimits;
using terrazzo::bindings::Array1;
using terrazzo::bindings::StepArrays;

void bind_sizes(nb::module_& m) {
  nb::class_<ModelShape>(m, "ModelShape", "Sizes of a model on `world` GPUs.")
      .def(
          "__init__",
          [](ModelShape* self, uint32_t num_layers, uint32_t hidden, uint32_t intermediate,
             uint32_t num_heads, uint32_t num_kv_heads, uint32_t head_dim, uint32_t vocab,
             float norm_eps, uint32_t world, uint32_t split_tokens, bool o_sharded) {
            new (self)
                ModelShape{num_layers, hidden,   intermediate, num_heads,    num_kv_heads, head_dim,
                           vocab,      norm_eps, world,        split_tokens, o_sharded};
            terrazzo::validate(*self);
          },
          nb::kw_only(), nb::arg("num_layers"), nb::arg("hidden"), nb::arg("intermediate"),
          nb::arg("num_heads"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("vocab"),
          nb::arg("norm_eps"), nb::arg("world"), nb::arg("split_tokens"),
          nb::arg("o_sharded") = false)
      .def_ro("world", &ModelShape::world)
      .def_ro("o_sharded", &ModelShape::o_sharded)
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
      .def_ro("max_logit_rows", &StepLimits::max_logit_rows)
      .def_ro("max_partials", &StepLimits::max_partials);
}

void bind_arrays(nb::module_& m) {
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

void bind_order(nb::module_& m) {
  nb::class_<terrazzo::WeavePlan>(m, "StepOrder", "The order of a step's queue.")
      .def(
          "__init__",
          [](terrazzo::WeavePlan* self, const std::string& text) {
            new (self) terrazzo::WeavePlan(terrazzo::weave_plan_of(text));
          },
          nb::arg("text") = "plain")
      .def_prop_ro("text", &terrazzo::to_text,
                   "\"plain\", or split block and curves of a woven order.");
}

}  // namespace

void bind_step(nb::module_& m) {
  bind_sizes(m);
  bind_arrays(m);
  bind_order(m);
  nb::enum_<terrazzo::Matrix>(m, "Matrix", "A layer's matrices, and the LM head.")
      .value("QKV", terrazzo::Matrix::kQkv)
      .value("O", terrazzo::Matrix::kO)
      .value("GATE_UP", terrazzo::Matrix::kGateUp)
      .value("DOWN", terrazzo::Matrix::kDown)
      .value("LM_HEAD", terrazzo::Matrix::kLmHead);
  nb::exception<terrazzo::Error>(m, "Error", PyExc_ValueError);
  nb::exception<terrazzo::MachineError>(m, "LaunchError", PyExc_RuntimeError);
  m.def("weight_bytes", &terrazzo::weight_bytes, nb::arg("shape"), nb::arg("max_position"),
        "Bytes of a model's weights and tables on one GPU.");
  m.def(
      "heap_bytes",
      [](const ModelShape& shape, const StepLimits& limits) {
        return terrazzo::heap_layout(shape, limits).total_bytes;
      },
      nb::arg("shape"), nb::arg("limits"),
      "Bytes of everything else that one GPU holds: KV pages, activations, counters.");
  m.def(
      "instruction_counts",
      [](const ModelShape& shape, const StepLimits& limits, const StepArrays& arrays,
         uint32_t num_sms) {
        const auto counts = terrazzo::count_instructions(
            terrazzo::lower(arrays.request(), shape, limits, {num_sms}), 0);
        nb::typed<nb::dict, nb::str, nb::int_> out;
        for (uint32_t i = 0; i < terrazzo::kNumOpcodes; ++i) {
          out[terrazzo::kOpcodeNames[i]] = counts[i];
        }
        return out;
      },
      nb::arg("shape"), nb::arg("limits"), nb::arg("arrays"), nb::arg("num_sms"),
      "Instructions of each kind in the first GPU's program of a step, the body's once a layer.");
}
