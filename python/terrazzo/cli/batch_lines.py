"""Lines of an OpenAI batch file: what they ask for, or what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..models.errors import ModelError
from ..sampling import MAX_TOP_K, SamplingParams, derived_seed, sample_params

if TYPE_CHECKING:
    from ..llm import LLM

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

_MAX_SAMPLES = 128
_DEFAULT_COMPLETION_TOKENS = 16  # as the API says; a chat answer is as long as the context allows

# Fields that may be there without a meaning here.
_IGNORED = frozenset(("model", "user", "metadata", "store", "service_tier"))
# Fields that may be there with a value that changes nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False, None),
    "stream_options": (None,),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "top_logprobs": (0, None),
    "response_format": ({"type": "text"}, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "echo": (False, None),
    "suffix": ("", None),
}
_SAMPLING = frozenset(
    ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n", "logprobs", "ignore_eos")
)
_KNOWN = {
    CHAT: _IGNORED
    | _SAMPLING
    | set(_NEUTRAL) - {"echo", "suffix"}
    | {"messages", "max_completion_tokens"},
    COMPLETIONS: _IGNORED
    | _SAMPLING
    | {"prompt", "best_of"}
    | set(_NEUTRAL) - {"top_logprobs", "response_format", "tools", "tool_choice"},
}


class LineError(Exception):
    """A line that cannot be served; `is_request` tells a bad request from what is no request."""

    def __init__(self, message: str, *, is_request: bool, param: str | None = None) -> None:
        super().__init__(message)
        self.is_request = is_request
        self.param = param


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line: prompts as token ids, and parameters of each of the samples of each prompt."""

    url: str
    model: str
    prompts: list[list[int]]
    samples: list[SamplingParams]
    wants_logprobs: bool

    @property
    def is_chat(self) -> bool:
        return self.url == CHAT

    @property
    def choices(self) -> list[tuple[list[int], SamplingParams]]:
        """Prompt and parameters by index of the choice."""
        return [(prompt, params) for prompt in self.prompts for params in self.samples]


def custom_id_of(line: bytes) -> tuple[Any, str | None]:
    """The line's JSON and its `custom_id`; raises LineError for what is no JSON object."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise LineError(f"no JSON: {error}", is_request=False) from error
    if not isinstance(entry, dict):
        raise LineError("expected a JSON object", is_request=False)
    custom_id = entry.get("custom_id")
    return entry, custom_id if isinstance(custom_id, str) else None


def parse_request(entry: Mapping[str, Any], number: int, llm: LLM, seed: int) -> BatchRequest:
    """The request of line `number`; LineError says what is wrong with it.

    A request without a seed gets one from `seed` and its line number, so that it is the same after
    an interruption.
    """
    _require(isinstance(entry.get("custom_id"), str), "custom_id: expected a string")
    _require(entry.get("method") == "POST", "method: expected POST")
    url, body = entry.get("url"), entry.get("body")
    _require(isinstance(url, str) and url in _KNOWN, f"url: expected {CHAT} or {COMPLETIONS}")
    _require(isinstance(body, dict), "body: expected an object")
    unknown = sorted(set(entry) - {"custom_id", "method", "url", "body"})
    _require(not unknown, f"unknown fields: {', '.join(unknown)}")
    assert isinstance(url, str)
    assert isinstance(body, dict)
    _check_fields(body, url)
    try:
        params = _sampling(body, url)
        if params.seed is None:
            params = replace(params, seed=derived_seed(seed, number))
        return BatchRequest(
            url,
            str(body.get("model", "")),
            _chat_prompt(body, llm) if url == CHAT else _prompts(body, llm),
            sample_params(params, _count(body, "n")),
            params.logprobs,
        )
    except (ValueError, TypeError, ModelError) as error:
        raise LineError(str(error), is_request=True) from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LineError(message, is_request=False)


def _check_fields(body: Mapping[str, Any], url: str) -> None:
    for name, value in body.items():
        if name not in _KNOWN[url]:
            raise LineError(f"unknown field {name!r}", is_request=True, param=name)
        if name in _NEUTRAL and value not in _NEUTRAL[name]:
            message = f"{name} = {value!r} is not supported"
            raise LineError(message, is_request=True, param=name)
    best_of = body.get("best_of")
    if best_of is not None and best_of != body.get("n", 1):
        message = f"best_of = {best_of!r} is not supported: expected n"
        raise LineError(message, is_request=True, param="best_of")


def _count(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SAMPLES:
        raise LineError(
            f"{name} = {value!r}: expected an integer in [1, {_MAX_SAMPLES}]",
            is_request=True,
            param=name,
        )
    return value


def _sampling(body: Mapping[str, Any], url: str) -> SamplingParams:
    given = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    given.pop("n", None)
    if url == CHAT:
        longest = body.get("max_completion_tokens")
        if longest is not None:
            given["max_tokens"] = longest
        given.setdefault("max_tokens", MAX_TOP_K)
    else:
        given.setdefault("max_tokens", _DEFAULT_COMPLETION_TOKENS)
        # Here a number of alternatives to each token.
        alternatives = given.pop("logprobs", None)
        if alternatives not in (None, 0):
            raise ValueError(f"logprobs = {alternatives!r}: expected 0, no alternatives")
        given["logprobs"] = alternatives is not None
    given.setdefault("temperature", 1.0)
    stop = given.get("stop", [])
    if not isinstance(stop, str | list):
        raise ValueError(f"stop = {stop!r}: expected a text or a list of texts")
    given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return SamplingParams(**given)


def _chat_prompt(body: Mapping[str, Any], llm: LLM) -> list[list[int]]:
    messages = body.get("messages")
    is_list = isinstance(messages, list) and messages
    if not is_list or not all(isinstance(message, dict) for message in messages or ()):
        raise ValueError("messages: expected a list of objects, at least one")
    assert isinstance(messages, list)
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise ValueError("messages: expected a role in each")
        if not isinstance(message.get("content"), str):
            raise ValueError("messages: expected a text as content of each")
    return [llm.chat_prompt(messages)]


def _prompts(body: Mapping[str, Any], llm: LLM) -> list[list[int]]:
    prompt = body.get("prompt")
    encode: Callable[[str], list[int]] = llm.tokenizer.encode
    if isinstance(prompt, str):
        return [encode(prompt)]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(part, str) for part in prompt):
            return [encode(part) for part in prompt]
        if all(isinstance(part, int) for part in prompt):
            return [prompt]
        if all(isinstance(part, Sequence) and not isinstance(part, str) for part in prompt):
            return [list(part) for part in prompt]
    raise ValueError("prompt: expected a text, a list of texts, token ids or a list of such")
