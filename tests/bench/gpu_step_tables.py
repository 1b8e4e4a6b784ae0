"""Tables of whole steps on the GPU."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gpu_tables import Info, Verdict, markdown, median

SINGLE_SHARE = 0.75  # of the bandwidth, for one sequence
LIMIT_256_MS = 14.5


def vllm(info: Info) -> str:
    return f"{info['vllm_ms']:.2f}" if info["vllm_ms"] is not None else ""


def prefill_step(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    rows, verdicts = [], []
    for info in infos:
        ours, products = median(info["ours_ms"]), median(info["products_ms"])
        rows.append(
            (
                info["step"],
                f"{ours:.1f}",
                f"{info['flops'] / ours * 1e-9:.0f}",
                f"{products:.1f}",
                f"{info['flops'] / products * 1e-9:.0f}",
                f"{products / ours:.2f}",
                vllm(info),
            )
        )
        verdicts.append(
            Verdict(
                f"8B step, {info['rows']} prompt tokens",
                "0.85 of cuBLAS's rate on its products",
                f"{products / ours:.2f}",
                products / ours >= 0.85,
            )
        )
    header = (
        "step | ms | TFLOP/s of products | cuBLAS, products alone, ms | TFLOP/s | ratio "
        "| vLLM, another card, ms"
    )
    return markdown(header, rows), verdicts


def decode_step(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    rows, verdicts = [], []
    for info in sorted(infos, key=lambda i: i["sequences"]):
        ours, graph = median(info["ours_ms"]), median(info["graph_ms"])
        kv = 1e3 * info["kv_bytes"] / (info["kv_share"] * info["hbm"])
        moved = 1e3 * (info["weight_bytes"] + info["kv_bytes"]) / info["hbm"]
        rows.append(
            (
                info["step"],
                f"{ours:.2f}",
                f"{graph:.2f}" + ("" if info["compiled"] else " (not compiled)"),
                f"{kv:.2f}",
                f"{graph + kv:.2f}",
                f"{(graph + kv) / ours:.2f}",
                f"{moved:.2f}",
                f"{moved / ours:.2f}",
                vllm(info),
            )
        )
        if info["sequences"] == 1:
            verdicts.append(
                Verdict(
                    "8B step, 1 sequence at 512",
                    f"{SINGLE_SHARE} of the bytes' time",
                    f"{moved / ours:.2f}",
                    moved / ours >= SINGLE_SHARE,
                )
            )
            continue
        verdicts.append(
            Verdict(
                f"8B step, {info['step']}",
                "faster than graph and KV bytes" + ("" if info["compiled"] else " (not compiled)"),
                f"{ours:.2f} ms against {graph + kv:.2f}",
                ours < graph + kv,
            )
        )
        if info["sequences"] == 256:
            verdicts.append(
                Verdict(
                    f"8B step, {info['step']}",
                    f"{LIMIT_256_MS} ms",
                    f"{ours:.2f} ms",
                    ours <= LIMIT_256_MS,
                )
            )
    header = (
        "sequences | ms | CUDA graph of torch, ms | KV bytes, ms | both | both / ours "
        "| bytes alone, ms | bytes / ours | vLLM, another card, ms"
    )
    lines = markdown(header, rows)
    reasons = {info["not_compiled_because"] for info in infos if not info["compiled"]}
    for reason in sorted(reasons):
        lines += [f"Not compiled: torch's element-wise parts ran one by one ({reason}).", ""]
    return lines, verdicts


def alone(infos: Sequence[Info]) -> list[str]:
    """Kinds as rows, steps as columns."""
    steps = [info for info in infos if info["alone_ms"]]
    if not steps:
        return []
    kinds = list(dict.fromkeys(kind for info in steps for kind in info["alone_ms"]))
    rows = [
        [
            kind,
            *(
                f"{info['alone_ms'][kind]:.3f}" if kind in info["alone_ms"] else ""
                for info in steps
            ),
        ]
        for kind in kinds
    ]
    sums = [sum(info["alone_ms"].values()) for info in steps]
    rows.append(["sum", *(f"{value:.2f}" for value in sums)])
    rows.append(["whole step", *(f"{median(info['ours_ms']):.2f}" for info in steps)])
    header = " | ".join(["ms, alone and without waits", *(info["step"] for info in steps)])
    return markdown(header, rows)


def host_time(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    info = infos[-1]
    ours, worst = median(info["submit_ms"]), max(info["submit_ms"])
    text = f"{info['step']}: median {ours:.3f} ms, worst {worst:.3f} ms."
    verdict = Verdict(
        "host: prepare and launch 2048 sequences", "1 ms", f"{ours:.3f} ms", ours < 1.0
    )
    return [text, ""], [verdict]
