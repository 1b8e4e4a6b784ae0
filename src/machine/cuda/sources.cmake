# The CUDA machine's files, relative to this folder: what needs nvcc, and host code that needs the
# CUDA runtime's headers. A new file is one line here. Each kernel has a .cu file of its own, so
# that kernels compile side by side and a compiler cache keeps those that have not changed.
set(TERRAZZO_CUDA_KERNELS
  megakernel_128.cu
  megakernel_128_ranks.cu
  megakernel_64.cu
  megakernel_64_ranks.cu
  pack_kernel.cu
)
set(TERRAZZO_CUDA_SOURCES
  ${TERRAZZO_CUDA_KERNELS}
  cuda_built.cpp
  cuda_machine.cpp
  cuda_model.cpp
  device_info.cpp
  device_ranks.cpp
  devices.cpp
  random_fill.cpp
  step_results.cpp
  step_slot.cpp
  weight_store.cpp
)
