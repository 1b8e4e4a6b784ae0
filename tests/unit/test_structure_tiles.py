"""Every verb of the tiles has a test on the GPU that compares it with its host twin."""

from __future__ import annotations

import re

import pytest
from unit.structure_files import ROOT, files, without_comments_and_strings

_FUNCTION = re.compile(r"^(?:inline|void|__device__ __forceinline__)\b[^\n;=(]*\b(\w+)\(", re.M)


def _code(*folders: str, suffixes: tuple[str, ...] = (".hpp",)) -> str:
    return "\n".join(
        without_comments_and_strings(path.read_text())
        for path in files(*folders, suffixes=suffixes)
    )


def _functions(folder: str) -> set[str]:
    return set(_FUNCTION.findall(_code(folder)))


def _calls(code: str) -> set[str]:
    return set(re.findall(r"\b(\w+)(?:<[^<>;]*>)?\(", code))


# Functions of both machines that instructions call.
VERBS = sorted(
    _functions("include/terrazzo/tile/host")
    & _functions("include/terrazzo/tile/sm90")
    & _calls(_code("include/terrazzo/instructions"))
)
# Kernels around verbs; those of attention take pages as the instructions do.
KERNELS = _code("tests/gpu", suffixes=(".cuh",))
PAGES = (ROOT / "include/terrazzo/instructions/attention_pages.hpp").read_text()
TWINS = "\n".join(path.read_text() for path in files("tests/gpu", suffixes=(".cpp",)))


def test_verbs_are_found() -> None:
    assert len(VERBS) > 30


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_called_by_a_test_kernel(verb: str) -> None:
    assert verb in _calls(KERNELS) | _calls(without_comments_and_strings(PAGES))


# What exists for the GPU's sake: on the host machine nothing, or the same as another verb.
WITHOUT_TWIN = {
    "fold_back": "twin_attention folds into the total",
    "load_partial": "splits in memory must have the bits of those in registers",
    "rescale": "nothing on the host machine",
    "save": "twin_attention folds into the total",
    "store_partial": "splits in memory must have the bits of those in registers",
    "store_plain_columns": "compared with the logits themselves",
    "store_rows": "compared with the rounded results",
    "take_maxima": "softmax in two steps",
    "take_probabilities": "softmax in two steps",
}


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_called_by_a_twin(verb: str) -> None:
    assert (verb in _calls(TWINS)) != (verb in WITHOUT_TWIN)
