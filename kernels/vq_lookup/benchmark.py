"""Chunked look-up against torch.cdist + argmin over the whole codebook.

python kernels/vq_lookup/benchmark.py
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common import report, time_pair
from megatron_speech.kernels.vq_lookup import vq_lookup


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vectors, codes, width = (1 << 20, 16_384, 1_280) if device == "cuda" else (8_192, 4_096, 256)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(vectors, width, device=device, generator=generator)
    codebook = torch.randn(codes, width, device=device, generator=generator)
    rows = 8_192

    def peer() -> torch.Tensor:
        return torch.cat([torch.cdist(part, codebook).argmin(dim=1) for part in x.split(rows)])

    chosen, expected = vq_lookup(x, codebook).indices, peer()
    exact = [
        (x[:, None].double() - codebook[indices][:, None].double()).square().sum(-1)
        for indices in (chosen, expected)
    ]
    if (exact[0] > exact[1] * (1 + 1e-6)).any():
        raise SystemExit("the look-up chose farther codes than its peer: no times are shown")
    figures = time_pair(lambda: vq_lookup(x, codebook), peer)
    figures |= {"vectors": vectors, "codes": codes, "width": width}
    report(f"vq_lookup_{device}", "torch.cdist + argmin, fp32", figures)


if __name__ == "__main__":
    main()
