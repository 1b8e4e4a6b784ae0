"""Tokenizers: from a folder as `tokenizers` has it, from GGUF as transformers rebuilds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer
from unit.models.tokenizer_texts import TEXTS
from unit.models.write_gguf import byte_tokenizer_metadata

from terrazzo.models.chat_template import ChatTemplate
from terrazzo.models.errors import ChatTemplateError, ConfigError
from terrazzo.models.gguf_file import GgufFile
from terrazzo.models.tokenizer import Tokenizer, TokenizerError

MESSAGES = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "How are you?"},
]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return Tokenizer.from_gguf(GgufFile(smollm2_gguf).header.metadata)


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_equals_the_reader_of_transformers(
    smollm2: Tokenizer, reference: PreTrainedTokenizerBase, text: str
) -> None:
    ids = smollm2.encode(text)
    assert ids == reference(text)["input_ids"]
    assert smollm2.decode(ids, skip_special=False) == text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [19556, 905]),
        ("123", [33, 34, 35]),
        # A digit is cut off before anything else, so the spaces before it stay together. (The GGUF
        # reader of transformers does not know this rule and gives 216 216.)
        ("a  12", [81, 256, 33, 34]),
        ("Ⅷ ½", [173, 223, 117, 216, 16738]),
        ("<|im_start|>user\nhi<|im_end|>", [1, 4093, 198, 6004, 2]),
    ],
)
def test_smollm2_known_ids(smollm2: Tokenizer, text: str, ids: list[int]) -> None:
    assert smollm2.encode(text) == ids


@given(data=st.data())
def test_smollm2_gives_back_any_text(smollm2: Tokenizer, data: st.DataObject) -> None:
    # A few control characters and unassigned planes have no token in this vocabulary.
    text = data.draw(st.text(st.characters(exclude_categories=["Cc", "Cn", "Co", "Cs"])))
    ids = smollm2.encode(text)
    assert smollm2.decode(ids, skip_special=False) == text
    decoder = smollm2.stream_decoder(skip_special=False)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == text


def test_smollm2_special_tokens(smollm2: Tokenizer) -> None:
    assert (smollm2.bos_token_id, smollm2.eos_token_ids) == (1, (2,))
    assert smollm2.vocab_size == 49152
    assert smollm2.token_id("<|im_end|>") == 2
    assert smollm2.token_id("no such token") is None
    assert smollm2.decode([1, 19556, 2]) == "Hello"
    assert smollm2.decode([1, 19556, 2], skip_special=False) == "<|im_start|>Hello<|im_end|>"


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_smollm2_chat_equals_transformers(
    smollm2: Tokenizer, reference: PreTrainedTokenizerBase, add_generation_prompt: bool
) -> None:
    assert smollm2.has_chat_template
    for messages in (MESSAGES, [{"role": "system", "content": "Be brief."}, *MESSAGES]):
        assert smollm2.apply_chat_template(
            messages, add_generation_prompt
        ) == reference.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )


def trained_metadata(pre_name: str, split: pre_tokenizers.PreTokenizer) -> dict[str, object]:
    """GGUF metadata of a vocabulary that is learned here from the texts."""
    backend = Backend(BPE())
    backend.pre_tokenizer = split
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|bos|>", "<|eos|>"]
    trainer = BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


GPT2_SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False)
WORDS_OF_ANY_LENGTH = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


@pytest.mark.parametrize(
    ("pre_name", "split"), [("gpt-2", GPT2_SPLIT), ("llama-bpe", WORDS_OF_ANY_LENGTH)]
)
def test_other_kinds_equal_the_reader_of_transformers(
    pre_name: str, split: pre_tokenizers.PreTokenizer
) -> None:
    metadata = trained_metadata(pre_name, split)
    ours = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.add_bos_token": False})
    keys = {"pre_tokenizer_type": "pre", "tokens": "tokens", "merges": "merges"}
    keys |= {"token_type": "token_type", "tokenizer_type": "model"}
    reference, _ = convert_gguf_tokenizer(
        "llama", {name: metadata[f"tokenizer.ggml.{key}"] for name, key in keys.items()}
    )
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == reference.encode(text).ids, text
        assert ours.decode(ids, skip_special=False) == text


@pytest.mark.parametrize(("pre_name", "expected"), [("llama-bpe", ["the"]), ("gpt-2", ["th", "e"])])
def test_llama3_takes_a_whole_token_before_it_merges(pre_name: str, expected: list[str]) -> None:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]  # no merge gives "the"
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.add_bos_token": False,
    }
    assert [tokens[i] for i in Tokenizer.from_gguf(metadata).encode("the")] == expected


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"add_bos_token": True}, [257, 256]),
        ({"add_bos_token": False}, [256]),
        ({"add_bos_token": None}, [256]),
        ({"add_bos_token": None, "pre": "llama-bpe"}, [257, 256]),
        ({"add_bos_token": True, "add_eos_token": True}, [257, 256, 258]),
    ],
)
def test_flags_add_tokens(changes: dict[str, object], ids: list[int]) -> None:
    prefixed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    tokenizer = Tokenizer.from_gguf({**byte_tokenizer_metadata(300), **prefixed})
    assert tokenizer.encode("th") == ids
    assert tokenizer.encode("th", add_special_tokens=False) == [256]


def test_user_defined_tokens_are_found_whole_and_kept() -> None:
    metadata = byte_tokenizer_metadata(300)
    kinds = metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, list)
    kinds[259] = 4
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.encode("<|unused_0|>", add_special_tokens=False) == [259]
    assert tokenizer.decode([259, 260]) == "<|unused_0|>"


def test_end_of_turn_tokens_end_a_text() -> None:
    metadata = byte_tokenizer_metadata(300)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    tokens[270] = "<|eot_id|>"
    metadata["tokenizer.ggml.eom_token_id"] = 271
    assert Tokenizer.from_gguf(metadata).eos_token_ids == (258, 271, 270)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model 'llama' is not supported"),
        ({"pre": "deepseek-llm"}, "tokenizer.ggml.pre 'deepseek-llm' is not supported; expected"),
        ({"pre": None}, "tokenizer.ggml.pre '' is not supported"),
        ({"tokens": None}, "tokenizer.ggml.tokens: expected a list of strings"),
        ({"merges": ["th"]}, "expected a merge of two tokens, got 'th'"),
        ({"merges": ["t zzz"]}, "merges and tokens do not agree"),
        ({"token_type": [1]}, "expected 300 numbers, got 1"),
        ({"bos_token_id": 300}, "bos_token_id: expected a token, because it is to be added"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(changes: dict[str, object], message: str) -> None:
    prefixed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf({**byte_tokenizer_metadata(300), **prefixed})


def test_a_key_of_the_wrong_kind_is_named() -> None:
    metadata = {**byte_tokenizer_metadata(300), "tokenizer.ggml.add_bos_token": "yes"}
    with pytest.raises(ConfigError, match="add_bos_token: expected true or false"):
        Tokenizer.from_gguf(metadata)


@pytest.fixture
def folder(small_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_llama, tmp_path / "model"))


def test_folder_has_special_tokens_and_a_chat_template(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (256, (257,))
    assert tokenizer.vocab_size == 258
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hé"}])
    assert text == "<|bos|>[user] hé\n[assistant] "
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids[0] == 256
    assert tokenizer.decode(ids) == "[user] hé\n[assistant] "


def test_saved_truncation_and_padding_do_not_cut_prompts(folder: Path) -> None:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer.from_folder(folder).encode("123456")) == 6
    assert len(Tokenizer.from_folder(folder).encode("1")) == 1


def test_template_in_its_own_file_comes_first(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")
    text = Tokenizer.from_folder(folder).apply_chat_template([{"role": "user", "content": "x"}])
    assert text == "x<|eos|>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d")],
)
def test_of_several_templates_the_default_is_taken(
    folder: Path, template: object, expected: str
) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.apply_chat_template([{"role": "user"}]) == expected


def test_special_tokens_may_be_objects(folder: Path) -> None:
    config = {"bos_token": {"content": "<|bos|>", "lstrip": False}, "eos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (256, ())


def test_damaged_folders_are_named(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": 3}')
    with pytest.raises(TokenizerError, match="expected chat_template to be a string, got int"):
        Tokenizer.from_folder(folder)
    (folder / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.from_folder(folder)
    assert not tokenizer.has_chat_template
    with pytest.raises(ChatTemplateError, match="this model has none"):
        tokenizer.apply_chat_template(MESSAGES)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"cannot read .*tokenizer\.json"):
        Tokenizer.from_folder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_folder(folder)


def test_byte_fallback_streams_to_the_same_text() -> None:
    # The decoder of sentencepiece vocabularies: one replacement character a byte until all came.
    vocab = {"<unk>": 0, "▁a": 1, "b": 2, "▁": 3}
    vocab |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    backend = Backend(BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = Tokenizer(backend, chat_template=ChatTemplate("", {}))
    ids = [1, *(4 + byte for byte in "é🙂€".encode()), 1, 2, 3, 1]
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) == tokenizer.decode(ids) == "aé🙂€ ab  a"
    assert pieces[:3] == ["a", "", "é"]
