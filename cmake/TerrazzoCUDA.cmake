# Decides whether the CUDA machine is built.
# In: TERRAZZO_CUDA, TERRAZZO_CUDA_SOURCES   Out: TERRAZZO_CUDA_ENABLED
include_guard(GLOBAL)
set(TERRAZZO_CUDA_ENABLED FALSE)

if(TERRAZZO_CUDA_SOURCES)
  include(TerrazzoFindCUDA)
elseif(TERRAZZO_CUDA MATCHES "^(auto|off)$")
  message(STATUS "terrazzo: this version has no CUDA machine; building the host machine only")
else()
  message(FATAL_ERROR "terrazzo.cuda=${TERRAZZO_CUDA}, but this version has no CUDA machine. "
    "Build with terrazzo.cuda=auto or off: the host machine runs on any CPU.")
endif()
