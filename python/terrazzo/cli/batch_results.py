"""Lines of a batch's output file, in OpenAI's format."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .batch_lines import BatchRequest, LineError

if TYPE_CHECKING:
    from ..engine import RequestOutput
    from ..llm import ChatTokenizer


def id_of(number: int) -> str:
    """The id of the answer to an input line, counted from 1."""
    return f"batch_req_{number}"


def answer_line(
    number: int,
    custom_id: str,
    request: BatchRequest,
    outputs: Sequence[RequestOutput],
    tokenizer: ChatTokenizer,
) -> dict[str, Any]:
    """The line of a request that was served; `outputs` in order of its choices."""
    num_samples = len(request.samples)
    prompts = outputs[::num_samples]
    num_prompt = sum(output.num_prompt_tokens for output in prompts)
    num_output = sum(output.num_output_tokens for output in outputs)
    body = {
        "id": f"{'chatcmpl' if request.is_chat else 'cmpl'}-{number}",
        "object": "chat.completion" if request.is_chat else "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [
            _choice(index, output, request, tokenizer) for index, output in enumerate(outputs)
        ],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
        },
    }
    return _line(number, custom_id, _response(200, number, body), None)


def error_line(number: int, custom_id: str | None, error: LineError) -> dict[str, Any]:
    """The line of one that was not."""
    message = f"line {number}: {error}"
    if not error.is_request:
        return _line(number, custom_id, None, {"code": "invalid_line", "message": message})
    details = {
        "message": message,
        "type": "invalid_request_error",
        "param": error.param,
        "code": None,
    }
    return _line(number, custom_id, _response(400, number, {"error": details}), None)


def _line(
    number: int, custom_id: str | None, response: dict[str, Any] | None, error: object
) -> dict[str, Any]:
    return {"id": id_of(number), "custom_id": custom_id, "response": response, "error": error}


def _response(status: int, number: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": f"req_{number}", "body": body}


def _choice(
    index: int, output: RequestOutput, request: BatchRequest, tokenizer: ChatTokenizer
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": output.finish_reason}
    if request.is_chat:
        choice["message"] = {"role": "assistant", "content": output.text}
    else:
        choice["text"] = output.text
    choice["logprobs"] = None
    if request.wants_logprobs:
        tokens = [tokenizer.decode([token]) for token in output.token_ids]
        logprobs = list(output.logprobs or ())
        choice["logprobs"] = (
            _chat_logprobs(tokens, logprobs)
            if request.is_chat
            else _completion_logprobs(tokens, logprobs)
        )
    return choice


def _chat_logprobs(tokens: list[str], logprobs: list[float]) -> dict[str, Any]:
    content = [
        {
            "token": token,
            "logprob": logprob,
            "bytes": list(token.encode("utf-8", "replace")),
            "top_logprobs": [],
        }
        for token, logprob in zip(tokens, logprobs, strict=True)
    ]
    return {"content": content}


def _completion_logprobs(tokens: list[str], logprobs: list[float]) -> dict[str, Any]:
    offsets, offset = [], 0
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "top_logprobs": None,
        "text_offset": offsets,
    }
