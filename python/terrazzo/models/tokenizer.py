"""Text to tokens and back, with the model's special tokens and chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend

from .chat_template import ChatTemplate
from .errors import ChatTemplateError, TokenizerError
from .fields import optional_int, str_or
from .gguf_config import gguf_eos_token_ids
from .gguf_tokenizer import tokenizer_from_gguf
from .json_file import read_json_object
from .stream_decoder import StreamDecoder

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerError"]

_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(
        self,
        backend: Backend,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: Iterable[int] = (),
        chat_template: ChatTemplate | None = None,
    ) -> None:
        # A saved tokenizer may cut or pad what it encodes; prompts must arrive whole.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._chat_template = chat_template
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(dict.fromkeys(eos_token_ids))

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """From `tokenizer.json` and the files beside it."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(
                f"[tokenizer] {path} is missing; download it with the model, or convert the "
                "model's own tokenizer to this format"
            )
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises no narrower type
            raise TokenizerError(f"[tokenizer] cannot read {path}: {error}") from error
        config_path = folder / "tokenizer_config.json"
        config = read_json_object(config_path) if config_path.is_file() else {}
        special = _special_tokens(config)
        eos = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
        source = _template_source(folder, config)
        return cls(
            backend,
            bos_token_id=backend.token_to_id(special["bos_token"])
            if "bos_token" in special
            else None,
            eos_token_ids=() if eos is None else (eos,),
            chat_template=None if source is None else ChatTemplate(source, special),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """From the metadata of a GGUF file."""
        backend = tokenizer_from_gguf(metadata)
        special: dict[str, str] = {}
        for name, key in zip(_TOKEN_NAMES, ("bos", "eos", "unknown", "padding"), strict=True):
            index = optional_int(metadata, f"tokenizer.ggml.{key}_token_id")
            token = None if index is None else backend.id_to_token(index)
            if token is not None:
                special[name] = token
        source = str_or(metadata, "tokenizer.chat_template", "")
        return cls(
            backend,
            bos_token_id=optional_int(metadata, "tokenizer.ggml.bos_token_id"),
            eos_token_ids=gguf_eos_token_ids(metadata),
            chat_template=ChatTemplate(source, special) if source else None,
        )

    @property
    def vocab_size(self) -> int:
        """Tokens with a spelling; the model's embedding may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` can be used."""
        return self._chat_template is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids; special tokens that are spelled out in the text are found either way."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of tokens; bytes that are no UTF-8 become the replacement character."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def stream_decoder(self, skip_special: bool = True) -> StreamDecoder:
        """A decoder for one sequence of tokens that arrive one at a time."""
        return StreamDecoder(lambda ids: self.decode(ids, skip_special))

    def token_id(self, token: str) -> int | None:
        """The id of a token by its spelling in the vocabulary."""
        return self._backend.token_to_id(token)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt for a chat; encode it with `add_special_tokens=False`."""
        if self._chat_template is None:
            raise ChatTemplateError(
                "[chat_template] this model has none: it was not made for chat; "
                "give it a plain prompt"
            )
        return self._chat_template.render(
            messages, add_generation_prompt=add_generation_prompt, variables=variables
        )


def _special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """Spellings by name; a token is a string or an object with its content."""
    special: dict[str, str] = {}
    for name in _TOKEN_NAMES:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            special[name] = value
    return special


def _template_source(folder: Path, config: Mapping[str, object]) -> str | None:
    """The template in its own file, else in the configuration (of several, the `default`)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise TokenizerError(
            f"[tokenizer] {folder / 'tokenizer_config.json'}: expected chat_template to be a "
            f"string, got {type(value).__name__}"
        )
    return value
