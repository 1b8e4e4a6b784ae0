"""`terrazzo batch` on a fake model: the format, errors of single lines, what an answer holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.cli.conftest import FakeModel
from unit.engine.fake_runner import reference_tokens
from unit.engine.fake_tokenizer import FakeTokenizer

from terrazzo.cli import main
from terrazzo.sampling import derived_seed

TOKENIZER = FakeTokenizer()
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}


def line(custom_id: str, url: str = COMPLETIONS, **body: Any) -> str:
    body = {"model": "fake", **body}
    entry = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(entry)


def run(folder: Path, *lines: str, code: int = 0, options: tuple[str, ...] = ()) -> list[Any]:
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    arguments = ["batch", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), *options]
    assert main(arguments) == code
    return [json.loads(text) for text in (folder / "out.jsonl").read_text().splitlines()]


def tokens_of(text: str, count: int = 12, **options: Any) -> list[int]:
    return reference_tokens(TOKENIZER.encode(text), count, **options)


@pytest.fixture
def one(fake_model: FakeModel, tmp_path: Path) -> Any:
    """Runs a single completion and returns its answer's body."""

    def answer(url: str = COMPLETIONS, **body: Any) -> Any:
        (entry,) = run(tmp_path, line("a", url, **body))
        assert entry["error"] is None
        assert entry["response"]["status_code"] == 200
        return entry["response"]["body"]

    return answer


def test_completion(one: Any) -> None:
    body = one(prompt="hello", **GREEDY)
    assert body["object"] == "text_completion"
    assert body["model"] == "fake"
    assert body["choices"] == [
        {
            "index": 0,
            "text": TOKENIZER.decode(tokens_of("hello")),
            "finish_reason": "length",
            "logprobs": None,
        }
    ]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}


def test_chat(one: Any) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = one(CHAT, messages=messages, max_completion_tokens=7, temperature=0, ignore_eos=True)
    text = TOKENIZER.decode(tokens_of(TOKENIZER.apply_chat_template(messages), 7))
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": text}


def test_a_completion_has_16_tokens_and_a_chat_the_context(one: Any, tmp_path: Path) -> None:
    body = one(prompt="hello", temperature=0, ignore_eos=True)
    assert body["usage"]["completion_tokens"] == 16
    (tmp_path / "out.jsonl").unlink()
    messages = [{"role": "user", "content": "x" * 1900}]
    body = one(CHAT, messages=messages, temperature=0, ignore_eos=True)
    assert body["usage"]["total_tokens"] == 2000


def test_prompts_of_all_kinds(fake_model: FakeModel, tmp_path: Path) -> None:
    ids = [TOKENIZER.encode(text) for text in ("ab", "cd")]
    prompts: list[Any] = ["ab", ["ab", "cd"], ids[0], ids]
    entries = run(
        tmp_path, *(line(str(i), prompt=prompt, **GREEDY) for i, prompt in enumerate(prompts))
    )
    texts = {
        entry["custom_id"]: [choice["text"] for choice in entry["response"]["body"]["choices"]]
        for entry in entries
    }
    first, second = (TOKENIZER.decode(tokens_of(text)) for text in ("ab", "cd"))
    assert texts == {"0": [first], "1": [first, second], "2": [first], "3": [first, second]}


def test_samples(one: Any) -> None:
    body = one(prompt=["ab", "cd"], n=3, seed=5, max_tokens=12, ignore_eos=True)
    seeds = [5, derived_seed(5, 1), derived_seed(5, 2)]
    expected = [
        TOKENIZER.decode(tokens_of(prompt, sampling=(1.0, 0, 1.0, seed)))
        for prompt in ("ab", "cd")
        for seed in seeds
    ]
    assert [choice["text"] for choice in body["choices"]] == expected
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert body["usage"]["prompt_tokens"] == 4


def test_stop_strings(one: Any) -> None:
    whole = TOKENIZER.decode(tokens_of("hello", 40))
    body = one(prompt="hello", stop=whole[9:12], temperature=0, max_tokens=40, ignore_eos=True)
    (choice,) = body["choices"]
    assert choice["text"] == whole[: whole.index(whole[9:12])]
    assert choice["finish_reason"] == "stop"


def test_logprobs(one: Any, tmp_path: Path) -> None:
    (choice,) = one(prompt="hello", logprobs=0, **GREEDY)["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == [TOKENIZER.decode([token]) for token in tokens_of("hello")]
    assert len(logprobs["token_logprobs"]) == len(logprobs["text_offset"]) == 12
    (tmp_path / "out.jsonl").unlink()
    messages = [{"role": "user", "content": "hi"}]
    (choice,) = one(CHAT, messages=messages, logprobs=True, **GREEDY)["choices"]
    content = choice["logprobs"]["content"]
    assert len(content) == 12
    assert all(entry["logprob"] <= 0 and entry["top_logprobs"] == [] for entry in content)
    assert bytes(content[0]["bytes"]).decode() == content[0]["token"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "expected a JSON object"),
        ("{}", "custom_id: expected a string"),
        (line("a", "/v1/embeddings"), "url: expected /v1/chat/completions or"),
        (json.dumps({"custom_id": "a", "method": "GET"}), "method: expected POST"),
        (
            json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": 3}),
            "body: expected an object",
        ),
        (
            json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": {}, "x": 1}),
            "unknown fields: x",
        ),
    ],
)
def test_lines_that_are_no_request(
    fake_model: FakeModel, tmp_path: Path, bad: str, message: str
) -> None:
    answers = run(tmp_path, bad, "", line("good", prompt="hello", **GREEDY))
    by_id = {entry["id"]: entry for entry in answers}
    error = by_id["batch_req_1"]
    assert error["response"] is None
    assert error["error"]["code"] == "invalid_line"
    assert error["error"]["message"].startswith("line 1: ")
    assert message in error["error"]["message"]
    assert by_id["batch_req_3"]["response"]["status_code"] == 200
    assert len(answers) == 2


@pytest.mark.parametrize(
    ("url", "body", "message", "param"),
    [
        (COMPLETIONS, {"prompt": "a", "colour": 1}, "unknown field 'colour'", "colour"),
        (CHAT, {"prompt": "a"}, "unknown field 'prompt'", "prompt"),
        (COMPLETIONS, {"prompt": "a", "stream": True}, "stream = True is not supported", "stream"),
        (COMPLETIONS, {"prompt": "a", "echo": True}, "echo = True is not supported", "echo"),
        (CHAT, {"messages": [], "top_logprobs": 5}, "top_logprobs = 5", "top_logprobs"),
        (COMPLETIONS, {"prompt": "a", "best_of": 3}, "best_of = 3", "best_of"),
        (COMPLETIONS, {"prompt": "a", "n": 0}, "n = 0: expected an integer", "n"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 2}, "logprobs = 2: expected 0", None),
        (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, "temperature = 'hot'", None),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens = 0", None),
        (COMPLETIONS, {"prompt": "a", "stop": 3}, "stop = 3: expected a text or a list", None),
        (COMPLETIONS, {"prompt": "a", "stop": [3]}, "stop = ", None),
        (COMPLETIONS, {}, "prompt: expected a text", None),
        (COMPLETIONS, {"prompt": ""}, "empty prompt", None),
        (COMPLETIONS, {"prompt": ["a", ""]}, "empty prompt", None),
        (COMPLETIONS, {"prompt": [99999]}, "token id 99999", None),
        (COMPLETIONS, {"prompt": "x" * 2000}, "the prompt has 2000 tokens", None),
        (CHAT, {"messages": []}, "messages: expected a list of objects", None),
        (CHAT, {"messages": [{"role": "user"}]}, "expected a text as content", None),
        (CHAT, {"messages": [{"content": "a"}]}, "expected a role", None),
    ],
)
def test_requests_that_cannot_be_served(
    fake_model: FakeModel, tmp_path: Path, url: str, body: Any, message: str, param: str | None
) -> None:
    answers = run(tmp_path, line("bad", url, **body), line("good", prompt="hello", **GREEDY))
    by_id = {entry["custom_id"]: entry for entry in answers}
    response = by_id["bad"]["response"]
    assert response["status_code"] == 400
    assert message in response["body"]["error"]["message"]
    assert response["body"]["error"]["param"] == param
    (choice,) = by_id["good"]["response"]["body"]["choices"]
    assert choice["text"] == TOKENIZER.decode(tokens_of("hello"))


def test_a_custom_id_twice(fake_model: FakeModel, tmp_path: Path) -> None:
    answers = run(tmp_path, *[line("a", prompt="hello", **GREEDY)] * 2)
    errors = {entry["id"]: entry["error"] for entry in answers}
    assert errors["batch_req_1"] is None
    assert "custom_id is not unique" in errors["batch_req_2"]["message"]


def test_fields_that_mean_nothing_here(one: Any) -> None:
    one(prompt="hello", user="me", stream=False, presence_penalty=0, logit_bias={}, **GREEDY)


def test_seeds_come_from_the_line(fake_model: FakeModel, tmp_path: Path) -> None:
    lines = [line(str(i), prompt="hello", max_tokens=12, ignore_eos=True) for i in range(2)]
    answers = run(tmp_path, *lines, options=("--seed=3",))
    texts = {entry["id"]: entry["response"]["body"]["choices"][0]["text"] for entry in answers}
    for number in (1, 2):
        tokens = tokens_of("hello", sampling=(1.0, 0, 1.0, derived_seed(3, number)))
        assert texts[f"batch_req_{number}"] == TOKENIZER.decode(tokens)


def test_a_finished_batch_opens_no_model(fake_model: FakeModel, tmp_path: Path) -> None:
    first = run(tmp_path, line("a", prompt="hello", **GREEDY))
    opened = len(fake_model.options)
    assert run(tmp_path, line("a", prompt="hello", **GREEDY)) == first
    assert len(fake_model.options) == opened == 1


def test_an_output_of_another_input(
    fake_model: FakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, line("a", prompt="hello", **GREEDY))
    for lines in (["b"], ["b", "c"]):
        run(tmp_path, *(line(i, prompt="hello", **GREEDY) for i in lines), code=2)
        assert "belongs to another input" in capsys.readouterr().err


def test_answers_do_not_replace_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(line("a", prompt="hello"))
    assert main(["batch", str(path), "-o", str(path)]) == 2
    assert "cannot go into the file of the requests" in capsys.readouterr().err
    assert path.read_text() == line("a", prompt="hello")


def test_progress_and_metrics(
    fake_model: FakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.prom"
    lines = [line(str(i), prompt="hello", **GREEDY) for i in range(5)]
    run(tmp_path, *lines, options=(f"--metrics={path}", "--progress"))
    assert "output tokens/s" in capsys.readouterr().err
    assert "terrazzo_finished_total 5\n" in path.read_text()
    assert [found.name for found in tmp_path.glob("*.tmp")] == []
