# Enables the CUDA language where nvcc is found: on the system, or in NVIDIA's pip wheels.
# In: TERRAZZO_CUDA, TERRAZZO_CUDA_ARCHITECTURES, Python_EXECUTABLE   Out: TERRAZZO_CUDA_ENABLED
include_guard(GLOBAL)
set(TERRAZZO_CUDA_ENABLED FALSE)
set(_cuda_minimum 13.0)

string(TOLOWER "${TERRAZZO_CUDA}" _mode)
if(NOT _mode MATCHES "^(auto|on|off|pip)$")
  message(FATAL_ERROR "terrazzo.cuda=${TERRAZZO_CUDA}: expected auto, on, off or pip")
endif()
if(_mode STREQUAL "off")
  return()
endif()

# The wheels are no complete toolkit: nvcc looks for the rest through bin/.. and (up to 13.2) in
# lib64/, and there is no unversioned libcudart.so. A folder of links supplies both; its bin/ is a
# real folder, else bin/.. would lead back into the wheel.
function(_terrazzo_link_pip_toolkit root view)
  file(REMOVE_RECURSE "${view}")
  file(MAKE_DIRECTORY "${view}/bin" "${view}/lib")
  foreach(_dir include nvvm)
    file(CREATE_LINK "${root}/${_dir}" "${view}/${_dir}" SYMBOLIC)
  endforeach()
  file(GLOB _tools LIST_DIRECTORIES true "${root}/bin/*")
  foreach(_tool IN LISTS _tools)
    cmake_path(GET _tool FILENAME _file)
    file(CREATE_LINK "${_tool}" "${view}/bin/${_file}" SYMBOLIC)
  endforeach()
  file(GLOB _libs "${root}/lib/*")
  foreach(_lib IN LISTS _libs)
    cmake_path(GET _lib FILENAME _file)
    string(REGEX REPLACE "\\.so\\.[0-9.]+$" ".so" _unversioned "${_file}")
    foreach(_link "${_file}" "${_unversioned}")
      file(CREATE_LINK "${_lib}" "${view}/lib/${_link}" SYMBOLIC)
    endforeach()
  endforeach()
  file(CREATE_LINK lib "${view}/lib64" SYMBOLIC)
endfunction()

# What the user names wins: CMAKE_CUDA_COMPILER, then CUDACXX, then nvcc on the system (not for
# pip, which asks for the wheels), then the wheels.
if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
  if(NOT _mode STREQUAL "pip")
    find_program(TERRAZZO_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  endif()
  if(NOT TERRAZZO_NVCC AND Python_EXECUTABLE)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/find_pip_cuda.py"
      OUTPUT_VARIABLE _root OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    if(_root)
      set(_view "${CMAKE_BINARY_DIR}/cuda-from-pip")
      _terrazzo_link_pip_toolkit("${_root}" "${_view}")
      set(TERRAZZO_NVCC "${_view}/bin/nvcc" CACHE FILEPATH "nvcc" FORCE)
      set(CUDAToolkit_ROOT "${_view}" CACHE PATH "Root of the CUDA toolkit")
    endif()
  endif()
  if(TERRAZZO_NVCC)
    set(CMAKE_CUDA_COMPILER "${TERRAZZO_NVCC}" CACHE FILEPATH "CUDA compiler" FORCE)
  endif()
endif()

# Before enable_language: it would otherwise fill in a default of its own.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "${TERRAZZO_CUDA_ARCHITECTURES}")
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT (_mode STREQUAL "pip" AND "$ENV{CUDACXX}" STREQUAL ""))
  include(CheckLanguage)
  check_language(CUDA)
endif()
if(CMAKE_CUDA_COMPILER)
  # A compiler that is there but broken is an error in every mode: auto means "no nvcc".
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL _cuda_minimum)
    set(TERRAZZO_CUDA_ENABLED TRUE)
    message(STATUS
      "terrazzo: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(_mode STREQUAL "auto")
    message(WARNING "terrazzo: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than "
      "${_cuda_minimum}, building the host machine only. -C terrazzo.cuda=pip takes a newer one "
      "from NVIDIA's wheels.")
  else()
    message(FATAL_ERROR "terrazzo.cuda=${TERRAZZO_CUDA}: expected nvcc ${_cuda_minimum} or later, "
      "found ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
elseif(_mode STREQUAL "auto")
  message(STATUS "terrazzo: no nvcc found, building the host machine only")
else()
  message(FATAL_ERROR "terrazzo.cuda=${TERRAZZO_CUDA}, but no nvcc was found. Put nvcc on PATH, "
    "set CUDACXX, or build with -C terrazzo.cuda=pip.")
endif()
