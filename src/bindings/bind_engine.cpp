#include <string_view>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "engine/held_tokens.hpp"
#include "engine/page_keys.hpp"
#include "engine/page_lists.hpp"

namespace nb = nanobind;

namespace {

using terrazzo::bindings::Array1;
using terrazzo::bindings::Array2;
using Filled = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Keys = nb::typed<nb::list, nb::bytes>;

Keys page_keys(const Array1<int32_t>& tokens, const nb::bytes& parent) {
  nb::list keys;
  const auto* bytes = static_cast<const uint8_t*>(parent.data());
  for (const terrazzo::PageKey& key :
       terrazzo::page_keys(terrazzo::bindings::span_of(tokens), {bytes, parent.size()})) {
    keys.append(nb::bytes(key.data(), key.size()));
  }
  return keys;
}

void gather_pages(const Filled& page_ids, const Array1<int32_t>& indptr,
                  const Array2<int32_t>& table, const Array1<int64_t>& rows) {
  terrazzo::gather_pages({page_ids.data(), page_ids.size()}, terrazzo::bindings::span_of(indptr),
                         {table.data(), table.size()}, table.shape(1),
                         terrazzo::bindings::span_of(rows));
}

nb::ndarray<nb::numpy, double> held_tokens(const Array1<int32_t>& tokens,
                                           const Array1<int32_t>& most, uint32_t stride,
                                           size_t num_points, double unused) {
  return terrazzo::bindings::to_numpy(
      terrazzo::held_tokens(terrazzo::bindings::span_of(tokens), terrazzo::bindings::span_of(most),
                            stride, num_points, unused),
      {num_points});
}

}  // namespace

void bind_engine(nb::module_& m) {
  m.def(
      "page_keys", &page_keys, nb::arg("tokens"), nb::arg("parent"),
      "The key of each full page of tokens: 128 bits of BLAKE2b of its tokens, salted with the key "
      "before it, at first `parent`.");
  m.def("gather_pages", &gather_pages, nb::arg("page_ids"), nb::arg("indptr"), nb::arg("table"),
        nb::arg("rows"),
        "Fill page_ids[indptr[i]:indptr[i + 1]] with the first values of row rows[i] of the table, "
        "for every i.");
  m.def("held_tokens", &held_tokens, nb::arg("tokens"), nb::arg("most"), nb::arg("stride"),
        nb::arg("num_points"), nb::arg("unused"),
        "What sequences hold at moments `stride` tokens apart if each grows by `most` and then "
        "leaves: their tokens of now, of then, and `unused` ones each.");
}
