"""Terrazzo: a whole Llama forward pass as one program of tile instructions.

Names are loaded on first use, so `import terrazzo` stays cheap: no extension, no NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .engine import Engine
    from .llm import LLM
    from .runner import ModelRunner
    from .sampling import SamplingParams

    __version__: str

__all__ = ["LLM", "Engine", "ModelRunner", "SamplingParams", "__version__", "include_dir"]

_MODULE_OF = {
    "Engine": ".engine",
    "LLM": ".llm",
    "ModelRunner": ".runner",
    "SamplingParams": ".sampling",
}


def include_dir() -> Path:
    """The folder to put on a C++ compiler's include path: it holds `terrazzo/version.hpp`.

    Raises FileNotFoundError where the package was put on the path without being installed.
    """
    from pathlib import Path

    # An editable install has two folders: the sources, and what CMake installed beside them.
    for folder in __path__:
        include = Path(folder) / "include"
        if (include / "terrazzo" / "version.hpp").is_file():
            return include
    raise FileNotFoundError(
        f"[include_dir] expected include/terrazzo/version.hpp in one of {list(__path__)}; "
        "install the package with pip"
    )


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("terrazzo")
    elif name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
