"""Tables of the GPU's benchmarks: figures of a run's results, as rows of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Info = Mapping[str, Any]  # the extra_info of one benchmark


class Verdict(NamedTuple):
    """One line of the summary."""

    what: str
    must: str
    measured: str
    met: bool


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the median."""
    return (max(values) - min(values)) / median(values)


def markdown(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; `header` has the names between bars."""
    columns = header.count("|") + 1
    return [
        f"| {header} |",
        "|" + "---|" * columns,
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


class Product(NamedTuple):
    """One kind of GEMM instruction at one number of rows."""

    model: str
    kind: str
    rows: int
    n: int
    k: int
    ours: float  # TFLOP/s, of some layers in one launch
    cublas: float
    ours_alone: float  # of one layer
    cublas_alone: float
    tiles: int
    sms: int
    large: bool
    spread: float

    @property
    def ratio(self) -> float:
        return self.ours / self.cublas

    @property
    def ratio_alone(self) -> float:
        return self.ours_alone / self.cublas_alone

    @property
    def held(self) -> float:
        """What `least_ratio` is for: waves of few tiles run into each other in several layers."""
        return self.ratio if self.large else self.ratio_alone

    @property
    def tile_cols(self) -> int:
        """Columns of a tile of 128 rows."""
        return round(self.n * -(-self.rows // 128) / self.tiles)

    @property
    def waves(self) -> int:
        return -(-self.tiles // self.sms)

    @property
    def fill(self) -> float:
        """Tiles over SMs times waves."""
        return self.tiles / (self.sms * self.waves)

    @property
    def least_ratio(self) -> float:
        return 0.85 if self.large else 0.90 * self.fill


def products_of(infos: Sequence[Info]) -> list[Product]:
    found = []
    for info in infos:
        for figure in info["figures"]:
            flops = 2e-9 * info["rows"] * figure["n"] * figure["k"]
            found.append(
                Product(
                    info["model"],
                    figure["kind"],
                    info["rows"],
                    figure["n"],
                    figure["k"],
                    flops / median(figure["ours_ms"]),
                    flops / median(figure["cublas_ms"]),
                    flops / median(figure["ours_alone_ms"]),
                    flops / median(figure["cublas_alone_ms"]),
                    figure["tiles"],
                    figure["sms"],
                    figure["large"],
                    spread(figure["ours_ms"]),
                )
            )
    return sorted(found, key=lambda p: (p.model, p.kind, p.rows))


def gemm(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    products = products_of(infos)
    rows = [
        (
            p.model,
            p.kind,
            f"{p.n}, {p.k}",
            f"{p.rows}",
            f"{p.ours:.0f}",
            f"{p.cublas:.0f}",
            f"{p.ratio:.2f}",
            f"{p.ours_alone:.0f}",
            f"{p.cublas_alone:.0f}",
            f"{p.ratio_alone:.2f}",
            f"{p.tiles} of 128 x {p.tile_cols} in {p.waves}",
            f"{p.fill:.2f}",
            f"{p.least_ratio:.2f}",
            f"{100 * p.spread:.0f}%",
        )
        for p in products
    ]
    header = (
        "shapes of | instruction | N, K | rows | TFLOP/s | cuBLAS | ratio | alone | cuBLAS | ratio "
        "| tiles in waves "
        "| tiles / (SMs x waves) | least ratio | spread"
    )
    verdicts = []
    large = [p.ratio for p in products if p.large]
    if large:
        mean = statistics.geometric_mean(large)
        verdicts.append(
            Verdict(
                "GEMM, 528 tiles of 128 x 256 or more",
                "0.97 of cuBLAS (geometric mean), none under 0.85",
                f"{mean:.3f}, least {min(large):.2f}",
                mean >= 0.97 and min(large) >= 0.85,
            )
        )
    small = [p for p in products if not p.large]
    if small:
        good = sum(p.held >= p.least_ratio for p in small)
        mean = statistics.geometric_mean(p.held for p in small)
        verdicts.append(
            Verdict(
                "GEMM, fewer tiles",
                "0.90 of cuBLAS times tiles / (SMs x waves)",
                f"{good} of {len(small)} shapes; raw ratio {mean:.3f} (geometric mean)",
                good == len(small),
            )
        )
    return markdown(header, rows), verdicts


def few_tokens(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    rows, shares = [], []
    for info in sorted(infos, key=lambda info: info["rows"]):
        for figure in info["figures"]:
            rate = figure["bytes"] / median(figure["ours_ms"]) * 1e-6
            shares.append(rate * 1e9 / info["hbm"])
            rows.append(
                (
                    figure["kind"],
                    f"{info['rows']}",
                    f"{figure['bytes'] * 1e-9:.2f}",
                    f"{rate:.0f}",
                    f"{info['hbm'] * 1e-9:.0f}",
                    f"{shares[-1]:.2f}",
                )
            )
    header = "instruction | tokens | weights, GB | GB/s | HBM, GB/s | share"
    verdict = Verdict(
        "GEMM, 1 to 64 tokens, 8B shapes",
        "0.85 of HBM read bandwidth",
        f"{min(shares):.2f} to {max(shares):.2f}",
        min(shares) >= 0.85,
    )
    return markdown(header, rows), [verdict]


def decode_attention(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    rows, even_shares, ragged = [], [], []
    for info in sorted(infos, key=lambda i: (i["heads"], i["sequences"], i["context"])):
        rates = {
            name: info["bytes"] / median(info[f"{name}_ms"]) * 1e3 for name in ("even", "ragged")
        }
        even_shares.append(rates["even"] / info["hbm"])
        ragged.append(rates["ragged"] / rates["even"])
        rows.append(
            (
                info["heads"],
                f"{info['sequences']} x {info['context']}",
                f"{info['bytes'] * 1e-9:.2f}",
                f"{median(info['even_ms']):.3f}",
                f"{rates['even'] * 1e-9:.0f}",
                f"{even_shares[-1]:.2f}",
                f"{rates['ragged'] * 1e-9:.0f}",
                f"{ragged[-1]:.2f}",
            )
        )
    header = "heads | sequences x context | KV, GB | ms | GB/s | of HBM | ragged, GB/s | of even"
    verdicts = [
        Verdict(
            "decode attention, even lengths",
            "0.90 of HBM read bandwidth",
            f"{min(even_shares):.2f} to {max(even_shares):.2f}",
            min(even_shares) >= 0.90,
        ),
        Verdict(
            "decode attention, ragged lengths",
            "0.97 of even lengths (aim)",
            f"{min(ragged):.2f} to {max(ragged):.2f}",
            min(ragged) >= 0.97,
        ),
    ]
    return markdown(header, rows), verdicts


def prefill_attention(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    rows, ratios = [], []
    for info in sorted(infos, key=lambda i: (i["heads"], i["length"])):
        theirs = {name: median(times) for name, times in info["torch_ms"].items()}
        best = min(theirs, key=lambda name: theirs[name])
        ours = median(info["ours_ms"])
        ratios.append(theirs[best] / ours)
        others = ", ".join(
            f"{name} {info['flops'] / ms * 1e-9:.0f}"
            for name, ms in sorted(theirs.items())
            if name != best
        )
        rows.append(
            (
                info["heads"],
                f"{info['batch']} x {info['length']}",
                f"{info['flops'] / ours * 1e-9:.0f}",
                f"{info['flops'] / theirs[best] * 1e-9:.0f} ({best})",
                f"{ratios[-1]:.2f}",
                others,
            )
        )
    header = "heads | prompts | TFLOP/s | fastest in torch | ratio | others in torch"
    verdict = Verdict(
        "prefill attention, causal",
        "0.85 of torch's fastest",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
        min(ratios) >= 0.85,
    )
    return markdown(header, rows), [verdict]


def empty(infos: Sequence[Info]) -> tuple[list[str], list[Verdict]]:
    info = infos[-1]
    extra_us = 1e3 * (median(info["many_ms"]) - median(info["few_ms"]))
    each_us = extra_us / (info["many"] - info["few"]) * info["sms"]
    lines = [
        f"{info['few']} and {info['many']} instructions on {info['sms']} SMs: "
        f"{median(info['few_ms']):.3f} and {median(info['many_ms']):.3f} ms; the difference is "
        f"**{each_us:.3f} us an instruction an SM**.",
        "",
    ]
    verdict = Verdict(
        "interpreter, an empty instruction", "0.5 us an SM", f"{each_us:.3f} us", each_us <= 0.5
    )
    return lines, [verdict]
