// How arrays and results pass between Python and the machines.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "lower/weave.hpp"
#include "machine/step_outputs.hpp"

namespace terrazzo::bindings {

namespace nb = nanobind;

template <class T>
using Array1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<const T> span_of(const Array1<T>& array) {
  return {array.data(), array.size()};
}

inline const bf16* as_bf16(const uint16_t* bits) { return reinterpret_cast<const bf16*>(bits); }

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

/// The order that was given, or the one layer by layer.
inline WeavePlan order_or_plain(const WeavePlan* order) {
  return order != nullptr ? *order : WeavePlan{};
}

/// Tokens, log-probabilities, and the logits of the rows that asked for them.
using Outputs = nb::typed<nb::tuple, nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>,
                          nb::ndarray<nb::numpy, float, nb::ndim<1>>,
                          nb::ndarray<nb::numpy, float, nb::ndim<2>>>;

inline Outputs outputs_of(StepOutputs outputs, size_t vocab) {
  const size_t rows = outputs.tokens.size();
  const size_t wanted = outputs.logits.size() / vocab;
  return nb::make_tuple(to_numpy(std::move(outputs.tokens), {rows}),
                        to_numpy(std::move(outputs.logprobs), {rows}),
                        to_numpy(std::move(outputs.logits), {wanted, vocab}));
}

}  // namespace terrazzo::bindings
