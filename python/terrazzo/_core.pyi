"""The compiled core of Terrazzo."""



def cuda_built() -> bool:
    """Whether this build contains the CUDA machine."""
