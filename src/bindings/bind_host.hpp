// Bindings of the host machine.
#pragma once

#include <nanobind/nanobind.h>

void bind_host(nanobind::module_& m);
