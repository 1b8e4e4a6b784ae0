// The extension module terrazzo._core: names and types for Python, no logic.
#include "bindings/bind.hpp"

NB_MODULE(_core, m) {
  m.doc() = "The compiled core of Terrazzo.";
  bind_step(m);
  bind_host(m);
  bind_cuda(m);
  bind_simulate(m);
  bind_traffic(m);
  bind_engine(m);
}
