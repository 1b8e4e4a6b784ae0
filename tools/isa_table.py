"""What the code does not say about each instruction in one place: the source of docs/isa.md.

`tools/generate_isa_doc` adds encodings, operands, buffers and counters from the headers.
"""

from __future__ import annotations

from isa_entry import Edge, InstructionDoc, Place

THIS_GPU = "this GPU"
OWNER = "owner of the row block"
ATTENTION_GPU = "owner of the row block; this GPU where O is sharded"
COMPACT_OWNER = "owner of the compact block"
ALL_GPUS = "all GPUs"

# Meanings of operands that have no comment at their declaration.
OPERANDS = {
    "row": "of the step",
    "row_block": "128-row block of the step's rows",
    "rows": "valid rows, from the first",
    "first_panel": "first 64-column panel",
    "panels": "64-column panels, 1 to 4",
    "split_begin": "first split",
    "num_splits": "splits, from the first",
    "partial_slot": "first slot of the scratch",
}

_ROW_BLOCK = "the row block"
_ALL_PANELS = "valid rows of the row block, all panels"
_TILE_PANELS = "valid rows of the row block, the tile's panels"
_SUMS = "the same rows and panels; copies are whole groups of 4 rows"
_GEMM_STREAM = (
    "plain: 3 slots a k tile (tokens, then two weight slots), starting at a multiple of 3, or 2 "
    "where the tile has at most 2 panels; "
    "with `kSmallTokens`: a token slot, then the weight slots that it serves"
)
_BY_ONE = "by 1; the owner, or this GPU where O is sharded"
_ASCENDING_K = "K ascends in one accumulator, in every tile shape."

INSTRUCTIONS: dict[str, InstructionDoc] = {
    "step_end": InstructionDoc(
        segment="epilogue",
        unit="GPU; the last of its queue",
        operands="",
        computes="Computes nothing. When all work of its GPU is complete, storer 0 adds 1 to the "
        "end counter of every GPU. A kernel ends when its end counter has reached the number of "
        "GPUs.",
        stream="one slot and one stage, both empty: they carry the loader's wait to the storer",
        waits=(
            Edge("kX", "all row blocks, of the last layer", "all work on the residual is done"),
            Edge("kSampled", "all compact blocks, if there are any", "all tokens are written"),
        ),
    ),
    "embed": InstructionDoc(
        segment="prologue",
        unit="row block x up to 4 hidden panels; on every GPU",
        operands="embed",
        flags=("kBriefRun",),
        computes="The embeddings of the rows' tokens, and the sum of squares of each row and "
        "panel. A negative token in the row table names a logit row of the step before.",
        stream="one slot a panel: the rows' 128-byte pieces in row order, not swizzled",
        signals=(Edge("kX", _ROW_BLOCK, "by the tile's panels; this GPU"),),
        reads=(Place("kSampled", THIS_GPU, "the rows that the row table names"),),
        writes=(
            Place("kX", THIS_GPU, _TILE_PANELS),
            Place("kSumSqX", THIS_GPU, _SUMS),
        ),
        constants="embedding, row table",
        notes=("Reads of `sampled` need no wait: the step before wrote it.",),
    ),
    "qkv_rope_append": InstructionDoc(
        segment="body",
        unit="row block x up to 4 panels of this GPU's Q, K and V columns",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="`rstd * (x Wqkv)`, rotary embedding of Q and K. Q goes to the layout that "
        "attention reads, K and V to the page and row of each token's position.",
        stream=_GEMM_STREAM + "; last, slots with the rows' sums of squares",
        waits=(Edge("kX", "the row block, of the layer before", "x is complete"),),
        signals=(
            Edge("kKv", "each KV head in the tile, the row block", "by its panels; this GPU"),
        ),
        reads=(
            Place("kX", THIS_GPU, _ALL_PANELS),
            Place("kSumSqX", THIS_GPU, _SUMS),
        ),
        writes=(
            Place("kQDecode", THIS_GPU, "rows of sequences with one row in the step"),
            Place("kQPrefill", THIS_GPU, "all other rows"),
            Place("kKvPool", THIS_GPU, "one 128-byte row a token and panel"),
        ),
        constants="weights, rotary table, row table",
        notes=(
            _ASCENDING_K,
            "Rows leave one by one (128 bytes), swizzled for the row where they land.",
        ),
    ),
    "attend_prefill": InstructionDoc(
        segment="body",
        unit="run of a sequence's rows in a row block x query head",
        operands="attend_prefill",
        computes="Causal attention of up to 128 consecutive tokens of a sequence over its pages.",
        stream="one slot a head panel of the queries, then the pages in ascending order: one "
        "slot (head dimension 64) or two (128) each",
        waits=(
            Edge(
                "kKv",
                "the KV head, from the sequence's first row block of this step to this one",
                "queries, keys and values of this step are written",
            ),
        ),
        signals=(Edge("kAttn", _ROW_BLOCK, _BY_ONE),),
        reads=(
            Place("kQPrefill", THIS_GPU, "the rows, the head's panels"),
            Place("kKvPool", THIS_GPU, "all tokens up to the last row's position"),
        ),
        writes=(Place("kAttention", ATTENTION_GPU, "the rows, the head's panels"),),
        constants="page table, a tile of zeros",
        notes=(
            "One online-softmax update a page of 64 tokens; splits of `split_tokens` tokens are "
            "folded in ascending order, as `attend_merge` does.",
        ),
    ),
    "attend_decode": InstructionDoc(
        segment="body",
        unit="group of up to 16 neighbouring rows of one 64-row half x KV head (with `kPartial`: "
        "one row, some splits)",
        operands="attend_decode",
        flags=("kPartial",),
        computes="Attention of one query token a row, all query heads of the KV head's group.",
        stream="for each pair of rows, one a consumer: their queries (a slot each), then their "
        "pages in turn, in ascending order",
        waits=(Edge("kKv", "the KV head, the row block", "queries, keys and values are written"),),
        signals=(
            Edge("kAttn", _ROW_BLOCK, "without `kPartial`: " + _BY_ONE),
            Edge("kMerge", "of the row and KV head", "with `kPartial`: " + _BY_ONE),
        ),
        reads=(
            Place("kQDecode", THIS_GPU, "the rows, the KV head"),
            Place("kKvPool", THIS_GPU, "the tokens of the splits that it covers"),
        ),
        writes=(
            Place("kAttention", ATTENTION_GPU, "without `kPartial`: the rows, the group's heads"),
            Place("kSplits", ATTENTION_GPU, "with `kPartial`: one slot a split"),
        ),
        constants="row table, page table, a tile of zeros",
        notes=("The bits of a query equal those of `attend_prefill`.",),
    ),
    "attend_merge": InstructionDoc(
        segment="body",
        unit="split row x KV head, at the owner; with O sharded on each GPU for its KV heads",
        operands="attend_merge",
        flags=("kBriefRun",),
        computes="Folds the partial results of a row, in ascending order of the splits, and "
        "normalises.",
        stream="for each 8 query heads one slot a split",
        waits=(Edge("kMerge", "of the row and KV head", "all splits are written"),),
        signals=(Edge("kAttn", _ROW_BLOCK, "by 1; this GPU"),),
        reads=(Place("kSplits", THIS_GPU, "`num_splits` slots"),),
        writes=(Place("kAttention", THIS_GPU, "the row, the group's heads"),),
    ),
    "o_proj_residual": InstructionDoc(
        segment="body",
        unit="own row block x up to 4 hidden panels; with O replicated only",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="`x1 = x + a Wo` with the whole Wo, and sums of squares of the rounded rows.",
        stream=_GEMM_STREAM + "; last, one slot a panel of the residual",
        waits=(
            Edge("kAttn", _ROW_BLOCK, "attention of all heads has arrived"),
            Edge("kX", "the row block, of the layer before", "the residual is complete"),
        ),
        signals=(Edge("kX1", _ROW_BLOCK, "by the tile's panels; all GPUs"),),
        reads=(
            Place("kAttention", THIS_GPU, "valid rows of the owned row block, all panels"),
            Place("kX", THIS_GPU, _TILE_PANELS),
        ),
        writes=(
            Place("kX1", ALL_GPUS, _TILE_PANELS),
            Place("kSumSqX1", ALL_GPUS, _SUMS),
        ),
        constants="weights",
        notes=(_ASCENDING_K,),
    ),
    "gate_up_silu": InstructionDoc(
        segment="body",
        unit="row block x 2 or 4 panels of gate and up columns",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="`silu(rstd * x1 Wg) * (rstd * x1 Wu)`: the columns of gate and up alternate in "
        "runs of 8, so both are in one tile.",
        stream=_GEMM_STREAM + "; last, slots with the rows' sums of squares",
        waits=(Edge("kX1", _ROW_BLOCK, "x1 is complete"),),
        signals=(Edge("kAct", _ROW_BLOCK, "by the tile's panels; this GPU"),),
        reads=(
            Place("kX1", THIS_GPU, _ALL_PANELS),
            Place("kSumSqX1", THIS_GPU, _SUMS),
        ),
        writes=(Place("kAct", THIS_GPU, "valid rows, half as many panels as the tile has"),),
        constants="weights",
        notes=(_ASCENDING_K,),
    ),
    "down_residual": InstructionDoc(
        segment="body",
        unit="row block x up to 4 hidden panels; with one GPU only",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="`x = x1 + act Wdown`, and sums of squares of the rounded rows.",
        stream=_GEMM_STREAM + "; last, one slot a panel of the residual",
        waits=(
            Edge("kAct", _ROW_BLOCK, "all columns of the MLP are there"),
            Edge("kX1", _ROW_BLOCK, "the residual is complete"),
        ),
        signals=(Edge("kX", _ROW_BLOCK, "by the tile's panels; this GPU"),),
        reads=(
            Place("kAct", THIS_GPU, _ALL_PANELS),
            Place("kX1", THIS_GPU, _TILE_PANELS),
        ),
        writes=(
            Place("kX", THIS_GPU, _TILE_PANELS),
            Place("kSumSqX", THIS_GPU, _SUMS),
        ),
        constants="weights",
        notes=(_ASCENDING_K,),
    ),
    "down_partial": InstructionDoc(
        segment="body",
        unit="row block x up to 4 hidden panels; with several GPUs only",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="This GPU's share of `act Wdown`: the sum over its columns of the MLP, rounded "
        "to bf16.",
        stream=_GEMM_STREAM,
        waits=(Edge("kAct", _ROW_BLOCK, "this GPU's columns of the MLP are there"),),
        signals=(Edge("kPart", _ROW_BLOCK, "by the tile's panels; the owner"),),
        reads=(Place("kAct", THIS_GPU, _ALL_PANELS),),
        writes=(Place("kPartials", OWNER, "this rank's slot: " + _TILE_PANELS),),
        constants="weights",
        notes=(
            _ASCENDING_K,
            "Each GPU starts a wave at another row block, so that not all send to one owner.",
        ),
    ),
    "reduce_residual": InstructionDoc(
        segment="body",
        unit="own row block x up to 4 hidden panels; with several GPUs only",
        operands="reduce",
        computes="`x = x1 + partial of rank 0 + partial of rank 1 + ...` in fp32 and in this "
        "order, and sums of squares of the rounded rows.",
        stream="for each panel: the residual, then one slot a rank",
        waits=(
            Edge("kPart", _ROW_BLOCK, "all ranks' sums have arrived"),
            Edge("kX1", _ROW_BLOCK, "the residual is complete"),
        ),
        signals=(Edge("kX", _ROW_BLOCK, "by the tile's panels; all GPUs"),),
        reads=(
            Place("kPartials", THIS_GPU, "all ranks' slots: " + _TILE_PANELS),
            Place("kX1", THIS_GPU, _TILE_PANELS),
        ),
        writes=(
            Place("kX", ALL_GPUS, _TILE_PANELS),
            Place("kSumSqX", ALL_GPUS, _SUMS),
        ),
    ),
    "o_partial": InstructionDoc(
        segment="body",
        unit="row block x up to 4 hidden panels; with O sharded only",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="This GPU's share of `a Wo`: the sum over its heads, rounded to bf16.",
        stream=_GEMM_STREAM,
        waits=(Edge("kAttn", _ROW_BLOCK, "attention of this GPU's heads is there"),),
        signals=(Edge("kPartO", _ROW_BLOCK, "by the tile's panels; the owner"),),
        reads=(Place("kAttention", THIS_GPU, _ALL_PANELS),),
        writes=(Place("kPartials", OWNER, "this rank's slot: " + _TILE_PANELS),),
        constants="weights",
        notes=(
            _ASCENDING_K,
            "As `down_partial`, and into the same buffer: `gate_up_silu` of all ranks waits for "
            "the sums of this block before `down_partial` overwrites its terms.",
        ),
    ),
    "reduce_o": InstructionDoc(
        segment="body",
        unit="own row block x up to 4 hidden panels; with O sharded only",
        operands="reduce",
        computes="`x1 = x + partial of rank 0 + partial of rank 1 + ...` in fp32 and in this "
        "order, and sums of squares of the rounded rows.",
        stream="for each panel: the residual, then one slot a rank",
        waits=(
            Edge("kPartO", _ROW_BLOCK, "all ranks' sums have arrived"),
            Edge("kX", "the row block, of the layer before", "the residual is complete"),
        ),
        signals=(Edge("kX1", _ROW_BLOCK, "by the tile's panels; all GPUs"),),
        reads=(
            Place("kPartials", THIS_GPU, "all ranks' slots: " + _TILE_PANELS),
            Place("kX", THIS_GPU, _TILE_PANELS),
        ),
        writes=(
            Place("kX1", ALL_GPUS, _TILE_PANELS),
            Place("kSumSqX1", ALL_GPUS, _SUMS),
        ),
    ),
    "gather_norm": InstructionDoc(
        segment="epilogue",
        unit="compact block (128 rows that need logits) x up to 4 hidden panels; on every GPU",
        operands="gather",
        flags=("kBriefRun",),
        computes="Those rows side by side, each times its `rstd` and the final norm's weight.",
        stream="one slot a panel: the rows' 128-byte pieces; their sums of squares are read where "
        "they lie",
        waits=(
            Edge(
                "kX",
                "from the row block of its first row to that of its last, of the last layer",
                "the rows are complete",
            ),
        ),
        signals=(Edge("kXg", "the compact block", "by the tile's panels; this GPU"),),
        reads=(
            Place("kX", THIS_GPU, "the rows, the tile's panels"),
            Place("kSumSqX", THIS_GPU, "the rows, all panels; whole groups of 4 rows"),
        ),
        writes=(Place("kCompact", THIS_GPU, "valid rows of the compact block, the tile's panels"),),
        constants="final norm, logit row table",
        notes=("The final norm is applied here, so a tied embedding stays as it is.",),
    ),
    "lm_head": InstructionDoc(
        segment="epilogue",
        unit="compact block x a 256-column tile of this GPU's vocabulary",
        operands="gemm",
        flags=("kSmallTokens",),
        computes="Logits of a tile, and of each row the best token (key, id, logit) with the "
        "tile's largest logit and sum of exponentials.",
        stream=_GEMM_STREAM,
        waits=(Edge("kXg", "the compact block", "the rows are gathered"),),
        signals=(Edge("kCand", "the compact block", "by the tile's panels; its owner"),),
        reads=(Place("kCompact", THIS_GPU, "valid rows of the compact block, all panels"),),
        writes=(
            Place("kCandidates", COMPACT_OWNER, "valid rows, this GPU, this tile"),
            Place("kLogits", COMPACT_OWNER, "rows with a logits slot, the tile's panels"),
        ),
        constants="weights, logit row table",
        notes=(
            _ASCENDING_K,
            "The key of a row with a temperature is `logit / temperature` plus noise that depends "
            "on the seed, the output position and the token id only.",
        ),
    ),
    "sample": InstructionDoc(
        segment="epilogue",
        unit="run of up to 8 rows of an own compact block",
        operands="sample",
        computes="The token of each row and its log-probability: from the candidates, or from the "
        "logits where top-k or top-p cut them.",
        stream="the rows' candidates, then pass by pass the logits of rows with top-k or top-p",
        waits=(
            Edge("kCand", "the compact block", "candidates and logits of all GPUs have arrived"),
            Edge(
                "kX",
                "row blocks whose `embed` reads these rows' old tokens, of the last layer",
                "every GPU has read what is overwritten; only where there are such",
            ),
        ),
        signals=(
            Edge(
                "kSampled",
                "the compact block",
                "together by 16, however many rows the block has; all GPUs",
            ),
        ),
        reads=(
            Place("kCandidates", THIS_GPU, "the rows, all GPUs' tiles"),
            Place("kLogits", THIS_GPU, "rows that sample with top-k or top-p"),
        ),
        writes=(Place("kSampled", ALL_GPUS, "the rows"),),
        constants="logit row table",
        notes=(
            "Candidates are folded by GPU and tile in ascending order; ties go to the lowest id. "
            "Weights of top-p are added as integers, so their order does not matter.",
        ),
    ),
}
