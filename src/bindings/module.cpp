// The extension module terrazzo._core: names and types for Python, no logic.
#include <nanobind/nanobind.h>

#include "bindings/bind_host.hpp"
#include "machine/cuda/cuda.hpp"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  m.doc() = "The compiled core of Terrazzo.";
  m.def("cuda_built", &terrazzo::cuda_built, "Whether this build contains the CUDA machine.");
  bind_host(m);
}
