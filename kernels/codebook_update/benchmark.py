"""Codebook statistics against a one-hot product, after checking that both agree.

python kernels/codebook_update/benchmark.py
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common import one_hot_sums, peak_extra_mib, report, sized, time_pair
from megatron_speech.kernels.codebook_update import codebook_sums

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
VECTORS, CODES, WIDTH = (
    (1_000_000, 16_384, 1_280) if GPU else (sized(4_096, 512), sized(2_048, 256), 256)
)
DTYPE = torch.bfloat16 if GPU else torch.float32
ROWS = 8_192 if GPU else 1_024


def main() -> None:
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.empty(VECTORS, WIDTH, dtype=DTYPE, device=DEVICE).normal_(generator=generator)
    # A long tail, as in training: some codes get hundreds of times more vectors than others.
    uniform = torch.rand(VECTORS, generator=generator, device=DEVICE)
    indices = (uniform**3 * CODES).long().clamp(max=CODES - 1)

    found, expected = codebook_sums(x, indices, CODES), one_hot_sums(x, indices, ROWS, CODES)
    again = codebook_sums(x, indices, CODES)
    error = (found.sums - expected[1]).norm() / expected[1].norm()
    if not torch.equal(found.counts, expected[0]) or error > 1e-5:
        raise SystemExit(f"sums differ from the one-hot product by {error:.1e}: no times are shown")
    if not torch.equal(found.sums, again.sums):
        raise SystemExit("two runs gave different bits: no times are shown")
    figures = time_pair(
        lambda: codebook_sums(x, indices, CODES), lambda: one_hot_sums(x, indices, ROWS, CODES)
    )
    figures |= {"vectors": VECTORS, "codes": CODES, "width": WIDTH, "dtype": str(DTYPE)}
    figures["gb_per_s"] = x.nbytes / figures["ours_s"] / 1e9
    if GPU:
        outputs = (found.sums.nbytes + found.counts.nbytes) / 2**20
        extra = peak_extra_mib(lambda: codebook_sums(x, indices, CODES))
        figures["peak_extra_mib"] = extra - outputs
    report(f"codebook_update_{DEVICE}", "one-hot product, fp32", figures)


if __name__ == "__main__":
    main()
