// The parts of the extension module.
#pragma once

#include <nanobind/nanobind.h>

void bind_step(nanobind::module_& m);  // what all machines take and give
void bind_host(nanobind::module_& m);
void bind_cuda(nanobind::module_& m);
void bind_simulate(nanobind::module_& m);
void bind_traffic(nanobind::module_& m);
void bind_engine(nanobind::module_& m);  // what is too slow in NumPy of a step's preparation
