"""Print the root of the CUDA toolkit in NVIDIA's pip wheels, or nothing."""

import sys
from pathlib import Path


def find_root() -> Path | None:
    """The newest `nvidia/cu*` folder on the import path that holds nvcc."""
    for entry in sys.path:
        for root in sorted(Path(entry or ".").glob("nvidia/cu[0-9]*"), reverse=True):
            if (root / "bin" / "nvcc").is_file():
                return root.resolve()
    return None


if __name__ == "__main__":
    found = find_root()
    if found is not None:
        sys.stdout.write(found.as_posix())
