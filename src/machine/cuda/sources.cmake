# The CUDA machine's .cu and .cpp files, relative to this folder. Empty: this version has none,
# and no_cuda.cpp stands in for it.
set(TERRAZZO_CUDA_SOURCES)
