"""Rebuilds a tokenizer from GGUF metadata, which has the vocabulary but no `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer

from .errors import TokenizerError
from .fields import bool_or, optional_int, str_or

_PREFIX = "tokenizer.ggml."
_CONTROL = 3
_USER_DEFINED = 4
# How Llama 3 cuts text before merging: contractions, words with one leading sign, up to three
# digits, signs with the line ends after them, line ends, spaces before a word, other spaces.
_LLAMA3_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)


def tokenizer_from_gguf(metadata: Mapping[str, object]) -> Tokenizer:
    """A byte-level BPE tokenizer with the file's vocabulary, merges and special tokens."""
    model = str_or(metadata, f"{_PREFIX}model", "")
    if model != "gpt2":
        raise TokenizerError(
            f"[tokenizer] tokenizer.ggml.model {model!r} is not supported; expected 'gpt2' "
            "(byte-level BPE): put the model's tokenizer.json and safetensors into a folder instead"
        )
    pre_name = str_or(metadata, f"{_PREFIX}pre", "")
    if pre_name not in _PRE_TOKENIZERS:
        raise TokenizerError(
            f"[tokenizer] tokenizer.ggml.pre {pre_name!r} is not supported; "
            f"expected one of: {', '.join(sorted(_PRE_TOKENIZERS))}"
        )
    tokens = _strings(metadata, f"{_PREFIX}tokens")
    merges = [_merge(merge) for merge in _strings(metadata, f"{_PREFIX}merges")]
    is_llama3 = pre_name in _LLAMA3_NAMES
    vocab = {token: index for index, token in enumerate(tokens)}
    try:
        # Llama 3 takes a piece that is a token as it is, even where merges would not lead to it.
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=is_llama3))
    except Exception as error:  # tokenizers raises no narrower type
        raise TokenizerError(f"[tokenizer] merges and tokens do not agree: {error}") from error
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre_name]()
    tokenizer.decoder = decoders.ByteLevel()
    _add_marked_tokens(tokenizer, tokens, metadata.get(f"{_PREFIX}token_type"))
    _add_post_processor(tokenizer, tokens, metadata, adds_bos_by_default=is_llama3)
    return tokenizer


def _byte_level() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _llama3() -> PreTokenizer:
    split = pre_tokenizers.Split(Regex("|".join(_LLAMA3_PIECES)), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, to_bytes])


_LLAMA3_NAMES = frozenset({"llama-bpe", "llama3", "llama-v3"})
_PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _byte_level,
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "refact": _single_digits,
    **dict.fromkeys(_LLAMA3_NAMES, _llama3),
}


def _strings(metadata: Mapping[str, object], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise TokenizerError(f"[tokenizer] {key}: expected a list of strings, got {type(value)}")
    return value


def _merge(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right):
        raise TokenizerError(f"[tokenizer] expected a merge of two tokens, got {merge!r}")
    return left, right


def _add_marked_tokens(tokenizer: Tokenizer, tokens: list[str], kinds: object) -> None:
    """Control and user-defined tokens are found whole in the text, before anything cuts it."""
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise TokenizerError(
            f"[tokenizer] tokenizer.ggml.token_type: expected {len(tokens)} numbers, "
            f"got {len(kinds) if isinstance(kinds, list) else type(kinds)}"
        )
    marked = list(zip(tokens, kinds, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in marked if kind == _CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in marked if kind == _USER_DEFINED]
    )


def _add_post_processor(
    tokenizer: Tokenizer,
    tokens: list[str],
    metadata: Mapping[str, object],
    *,
    adds_bos_by_default: bool,
) -> None:
    template: list[str] = ["$A"]
    used: list[tuple[str, int]] = []
    for key, default, place in (("bos", adds_bos_by_default, 0), ("eos", False, len(template))):
        if not bool_or(metadata, f"{_PREFIX}add_{key}_token", default):
            continue
        index = optional_int(metadata, f"{_PREFIX}{key}_token_id")
        if index is None or not 0 <= index < len(tokens):
            raise TokenizerError(
                f"[tokenizer] tokenizer.ggml.{key}_token_id: expected a token, because it is "
                f"to be added, got {index}"
            )
        template.insert(len(template) if place else 0, tokens[index])
        used.append((tokens[index], index))
    if used:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=sorted(set(used))
        )
