# The CUDA machine's .cu and .cpp files, relative to this folder. Empty: it is not built yet,
# and no_cuda.cpp stands in for it.
set(TERRAZZO_CUDA_SOURCES)
