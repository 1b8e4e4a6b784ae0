"""How many KV pages are chosen for a memory, and the limits that go with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.engine.random_checkpoint import small_config

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.capacity import (
    GIB,
    LEAST_PAGES_KEPT,
    Capacity,
    kv_page_bytes,
    memory_budget,
    model_shape,
)

CONFIG = small_config()
CAPACITY = Capacity(
    config=CONFIG,
    max_batch_tokens=256,
    max_sequences=16,
    max_model_len=4096,
    max_logit_rows=16,
    split_tokens=128,
)
SHAPE = model_shape(CONFIG, 1, CAPACITY.split_tokens)


@pytest.mark.parametrize("num_pages", [1, 2, 63, 64, 1000])
def test_pages_fill_the_memory(num_pages: int) -> None:
    """Exactly: a byte less has room for a page less."""
    needed = CAPACITY.device_bytes(SHAPE, num_pages)
    page = kv_page_bytes(CONFIG)
    assert CAPACITY.pages_that_fit(SHAPE, needed) == num_pages
    assert CAPACITY.pages_that_fit(SHAPE, needed + page // 2) == num_pages
    if num_pages > 1:
        assert CAPACITY.pages_that_fit(SHAPE, needed - 1) == num_pages - 1


def test_a_model_that_does_not_fit() -> None:
    needed = CAPACITY.device_bytes(SHAPE, 1)
    with pytest.raises(ValueError, match=r"the model takes .* GiB .* may use 0\.0 GiB"):
        CAPACITY.pages_that_fit(SHAPE, needed - 1)
    with pytest.raises(ValueError, match="may use 0"):
        CAPACITY.pages_that_fit(SHAPE, -5)


def test_what_would_fit_instead() -> None:
    """More GPUs, where the model's KV heads allow it, or fewer pages."""
    heads = CONFIG.num_kv_heads
    assert heads % 2 == 0
    two = model_shape(CONFIG, 2, CAPACITY.split_tokens)
    half = CAPACITY.device_bytes(two, 1)
    with pytest.raises(ValueError, match=r"on gpus=2 with as much memory each it would fit$"):
        CAPACITY.pages_that_fit(SHAPE, half)
    with pytest.raises(ValueError, match=r"lower max_batch_tokens and max_sequences$"):
        CAPACITY.pages_that_fit(SHAPE, 1000)
    room = CAPACITY.device_bytes(SHAPE, 7)
    CAPACITY.check_pages(SHAPE, 7, room)
    with pytest.raises(ValueError, match=r"the model and 8 KV pages take .* at most 7 pages fit"):
        CAPACITY.check_pages(SHAPE, 8, room)


WHOLE = model_shape(CONFIG, 2, CAPACITY.split_tokens)
SHARDED = model_shape(CONFIG, 2, CAPACITY.split_tokens, o_sharded=True)


def test_a_sharded_o_takes_less() -> None:
    o_bytes = 2 * CONFIG.num_layers * CONFIG.num_heads * CONFIG.head_dim * 192  # padded hidden
    part_bytes = 4 * 8 * (CONFIG.head_dim + 4)  # of a KV head's padded group
    parts = (
        CAPACITY.limits(9, WHOLE).max_partials - CAPACITY.limits(9, SHARDED).max_partials
    ) * part_bytes
    saved = CAPACITY.device_bytes(WHOLE, 9) - CAPACITY.device_bytes(SHARDED, 9)
    # Buffers are rounded up, and merges have counters.
    assert saved == pytest.approx(o_bytes // 2 + parts, abs=4096)


def test_auto_shards_o_where_memory_is_short() -> None:
    # Given pages: only if they do not fit.
    needed = CAPACITY.device_bytes(WHOLE, 70)
    assert not CAPACITY.shards_o(2, needed, 70)
    assert CAPACITY.shards_o(2, needed - 1, 70)
    assert CAPACITY.shards_o(2, 0, None)
    # The longest sequence is 64 pages.
    page = kv_page_bytes(CONFIG, 2)
    saved = CAPACITY.device_bytes(WHOLE, 1) - CAPACITY.device_bytes(SHARDED, 1)
    assert saved // page < 64 // 4, "a quarter of so many pages is more than O takes"
    assert CAPACITY.shards_o(2, CAPACITY.device_bytes(WHOLE, 63), None)
    assert not CAPACITY.shards_o(2, CAPACITY.device_bytes(WHOLE, 64), None)


def test_auto_shards_o_where_it_takes_many_pages() -> None:
    short = replace(CAPACITY, max_model_len=64)
    for num_pages in (1, 2, 3, 5, 8, 13, 40):
        budget = short.device_bytes(WHOLE, num_pages)
        most = short.pages_that_fit(SHARDED, budget)
        assert most >= num_pages
        assert short.shards_o(2, budget, None) == (num_pages < LEAST_PAGES_KEPT * most)
    assert short.shards_o(2, short.device_bytes(WHOLE, 1), None)
    assert not short.shards_o(2, short.device_bytes(WHOLE, 40), None)


def test_what_a_sharded_o_would_fit() -> None:
    room = CAPACITY.device_bytes(WHOLE, 1) - 1
    with pytest.raises(ValueError, match=r"; with o_proj='sharded' it would fit$"):
        CAPACITY.pages_that_fit(WHOLE, room)


@pytest.mark.parametrize("gpus", [1, 2])
def test_pages_are_shared_by_gpus(gpus: int) -> None:
    """Each has its KV heads' part of every page."""
    shape = model_shape(CONFIG, gpus, CAPACITY.split_tokens)
    assert gpus * kv_page_bytes(CONFIG, gpus) == kv_page_bytes(CONFIG)
    needed = CAPACITY.device_bytes(shape, 100)
    assert CAPACITY.pages_that_fit(shape, needed) == 100
    assert CAPACITY.pages_that_fit(shape, needed - 1) == 99


def test_weights_and_pages_are_counted() -> None:
    """The bytes of a model are at least those of its tensors, and a page more is a page more."""
    weights = 2 * (
        2 * CONFIG.vocab_size * CONFIG.hidden_size
        + CONFIG.num_layers * 3 * CONFIG.hidden_size * CONFIG.intermediate_size
        + CONFIG.num_layers * 2 * CONFIG.hidden_size * CONFIG.num_heads * CONFIG.head_dim
    )
    one = CAPACITY.device_bytes(SHAPE, 1)
    assert one > weights
    grown = CAPACITY.device_bytes(SHAPE, 101) - one
    assert 100 * kv_page_bytes(CONFIG) <= grown


def test_parts_of_attention_are_bounded_by_the_pool() -> None:
    # 16 sequences; 2 pages hold one span of 128 tokens, the longest sequence has 32 spans.
    assert CAPACITY.limits(2, SHAPE).max_partials == (1 + 16) * CONFIG.num_kv_heads
    assert CAPACITY.limits(10**6, SHAPE).max_partials == 16 * 32 * CONFIG.num_kv_heads


def test_a_gpu_merges_its_own_heads_where_o_is_sharded() -> None:
    """Otherwise one GPU may own all rows of a step, and gets the parts of all heads."""
    assert CAPACITY.limits(2, WHOLE).max_partials == (1 + 16) * CONFIG.num_kv_heads
    assert CAPACITY.limits(2, SHARDED).max_partials == (1 + 16) * CONFIG.num_kv_heads // 2


def test_budget() -> None:
    assert memory_budget(70 * GIB, 80 * GIB, 0.9) == 70 * GIB - int(80 * GIB * (1.0 - 0.9))
    assert memory_budget(5, 80, 1.0) == 5
    assert memory_budget(5, 80, 0.5) == -35
    for utilization in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="gpu_memory_utilization"):
            memory_budget(5, 80, utilization)
