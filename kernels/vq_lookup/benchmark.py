"""The look-up against what others do, after checking every index against fp64.

python kernels/vq_lookup/benchmark.py
python kernels/vq_lookup/benchmark.py --tiles   # time other tile shapes on this GPU

On a GPU at 1M bf16 vectors, 16,384 codes, width 1,280: with a bf16 codebook, with an fp32 one (what
bulk tokenization with --dtype bfloat16 passes), a quarter of the vectors in fp32 with an fp32
codebook (what training passes), and vectors and codes around a common offset, as hidden states lie.
Without a GPU at a size a CPU can do, in fp32. Peers: chunked addmm + argmin in the vectors' dtype,
the codebook rounded to it (best of several chunks), and chunked fp32 torch.cdist + argmin; against
look-up and codebook statistics together, the released tokenizer's addmm + argmin with one-hot
statistics. The exact route by matrix products (`route="products"`) is checked and timed as a peer
too: the faster one should be the default.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common import one_hot_sums, peak_extra_mib, report, sized, time_pair
from megatron_speech.kernels.codebook_update import codebook_sums
from megatron_speech.kernels.vq_lookup import nearest_codes

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
VECTORS, CODES, WIDTH = (
    (1_000_000, 16_384, 1_280) if GPU else (sized(4_096, 512), sized(2_048, 256), 256)
)


class Case(NamedTuple):
    """Operands of one result: its name's ending, their dtypes, how many vectors, what all share."""

    ending: str
    dtype: torch.dtype
    codebook_dtype: torch.dtype
    vectors: int = VECTORS
    offset: float = 0.0


CASES = (
    [
        Case("", torch.bfloat16, torch.bfloat16),
        Case("_fp32_codebook", torch.bfloat16, torch.float32),
        Case("_fp32", torch.float32, torch.float32, VECTORS // 4),
        Case("_offset", torch.bfloat16, torch.bfloat16, offset=4.0),
    ]
    if GPU
    else [Case("", torch.float32, torch.float32)]
)
CHUNKS = [1 << power for power in range(10, 18)] if GPU else [512, 2_048]
ROWS = 8_192 if GPU else 1_024  # of peers whose distances are fp32


def addmm(x: Tensor, codebook: Tensor, bias: Tensor, rows: int) -> Tensor:
    """Scores in the vectors' dtype, as they come out of the product; argmin over a chunk."""
    transposed = codebook.to(x.dtype).t()
    chunks = [torch.addmm(bias, part, transposed, alpha=-2).argmin(1) for part in x.split(rows)]
    return torch.cat(chunks)


def cdist(x: Tensor, codebook: Tensor) -> Tensor:
    codes = codebook.float()
    return torch.cat([torch.cdist(part.float(), codes).argmin(dim=1) for part in x.split(ROWS)])


def wrong_rows(x: Tensor, codebook: Tensor, indices: Tensor) -> tuple[int, int]:
    """Rows whose code is not fp64's nearest: by more than fp32 rounding, and by less (ties)."""
    wrong = ties = 0
    codes = codebook.double()
    half = codes.square().sum(dim=1) / 2
    for part, found in zip(x.split(ROWS), indices.split(ROWS), strict=True):
        scores = part.double() @ codes.t() - half
        best, nearest = scores.max(dim=1)
        gap = 2 * (best - scores.gather(1, found[:, None]).flatten())
        distance = part.double().square().sum(dim=1) - 2 * best
        far = gap > distance * 2.0**-24
        wrong, ties = wrong + int(far.sum()), ties + int(((found != nearest) & ~far).sum())
    return wrong, ties


def search_share(x: Tensor, codebook: Tensor) -> dict[str, float]:
    """Share of vectors compared exactly, and of those for which every group was computed again."""
    from megatron_speech.kernels.vq_lookup.triton_impl import search

    found = search(x, codebook)
    return {"share_redone": found.contested / len(x), "share_scanned": found.scanned / len(x)}


def compare(figures: dict, name: str, ours: Callable, peer: Callable) -> None:
    pair = time_pair(ours, peer)
    figures |= {"ours_s": pair["ours_s"]} if "ours_s" not in figures else {}
    figures |= {f"ours_for_{name}_s": pair["ours_s"]}
    figures |= {f"{name}_s": pair["peer_s"], f"{name}_over_ours": pair["speedup"]}
    figures |= {f"{name}_over_ours_range": pair["speedup_range"]}


def sweep(x: Tensor, codebook: Tensor) -> None:
    """Time the whole look-up under tile shapes around those of `choose_tiles`."""
    from megatron_speech.kernels.vq_lookup import triton_impl

    table = triton_impl.choose_tiles
    for m, n, d, warps, stages in (
        (128, 256, 64, 8, 4),
        (128, 256, 64, 8, 3),
        (128, 256, 128, 8, 2),
        (256, 128, 64, 8, 4),
        (128, 128, 64, 4, 3),
        (128, 128, 128, 8, 3),
        (64, 256, 64, 4, 4),
    ):
        tiles = triton_impl.Tiles(m, n, d, warps, stages, True)
        triton_impl.choose_tiles = lambda *_, chosen=tiles: chosen
        seconds = time_pair(lambda: nearest_codes(x, codebook), lambda: None, 3)["ours_s"]
        rate = 2 * len(x) * CODES * WIDTH / seconds / 1e12
        print(f"{m:>4} x {n:>3} x {d:>3}, {warps} warps, {stages} stages: {rate:.0f} TFLOP/s")
    triton_impl.choose_tiles = table


def main() -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    for case in CASES:

        def draw(rows: int, dtype: torch.dtype, mean: float = case.offset) -> Tensor:
            drawn = torch.empty(rows, WIDTH, dtype=dtype, device=DEVICE)
            return drawn.normal_(mean, generator=generator)

        x, codebook = draw(case.vectors, case.dtype), draw(CODES, case.codebook_dtype)
        if GPU and "--tiles" in sys.argv:
            return sweep(x, codebook)
        measure(f"vq_lookup_{DEVICE}{case.ending}", x, codebook)


def measure(name: str, x: Tensor, codebook: Tensor) -> None:
    """Check every index, time all peers, write the result.

    Raises:
        SystemExit: a code is not the nearest.
    """
    bias = codebook.float().square().sum(dim=1).to(x.dtype)
    wrong, ties = wrong_rows(x, codebook, nearest_codes(x, codebook))
    by_products = partial(nearest_codes, x, codebook, route="products")
    wrong += wrong_rows(x, codebook, by_products())[0]
    if wrong:
        raise SystemExit(f"{wrong} of {len(x)} codes are not the nearest: no times are shown")
    timed = {rows: time_pair(lambda r=rows: addmm(x, codebook, bias, r), lambda: None, 1)["ours_s"]
             for rows in CHUNKS}  # fmt: skip
    rows = min(timed, key=timed.__getitem__)
    figures = {"vectors": len(x), "codes": CODES, "width": WIDTH, "dtype": str(x.dtype)}
    figures |= {"codebook_dtype": str(codebook.dtype)}
    figures |= {"wrong": wrong, "ties": ties}
    addmm_wrong = wrong_rows(x, codebook, addmm(x, codebook, bias, rows))[0]
    figures |= {"addmm_wrong_share": addmm_wrong / len(x), "addmm_chunk": rows}
    if GPU:
        figures |= search_share(x, codebook)
        outputs = len(x) * 8 / 2**20
        figures["peak_extra_mib"] = peak_extra_mib(lambda: nearest_codes(x, codebook)) - outputs
    ours = partial(nearest_codes, x, codebook)
    compare(figures, "addmm", ours, lambda: addmm(x, codebook, bias, rows))
    compare(figures, "products", ours, by_products)
    compare(figures, "cdist", ours, lambda: cdist(x, codebook))
    compare(
        figures,
        "addmm_one_hot",
        lambda: codebook_sums(x, nearest_codes(x, codebook), CODES),
        lambda: one_hot_sums(x, addmm(x, codebook, bias, rows), ROWS, CODES),
    )
    figures["tflops"] = 2 * len(x) * CODES * WIDTH / figures["ours_s"] / 1e12
    report(name, "addmm alone, with one-hot statistics; cdist", figures)


if __name__ == "__main__":
    main()
