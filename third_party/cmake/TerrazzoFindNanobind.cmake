# Finds nanobind where pip put it, unless the caller's CMAKE_PREFIX_PATH already leads to one.
include_guard(GLOBAL)

set(_nanobind_minimum 3.1)
find_package(nanobind ${_nanobind_minimum} CONFIG QUIET)
if(NOT nanobind_FOUND)
  execute_process(COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir
    OUTPUT_VARIABLE _nanobind_dir OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET RESULT_VARIABLE _nanobind_result)
  if(NOT _nanobind_result EQUAL 0)
    message(FATAL_ERROR "terrazzo: ${Python_EXECUTABLE} has no nanobind. Install it with "
      "'${Python_EXECUTABLE} -m pip install --group build' or set TERRAZZO_BUILD_PYTHON=OFF.")
  endif()
  set(nanobind_ROOT "${_nanobind_dir}")
  find_package(nanobind ${_nanobind_minimum} CONFIG REQUIRED)
endif()
