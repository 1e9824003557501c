"""One rank of test_quantizer_ranks: 50 steps on this rank's half of each batch."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.fsq import FiniteScalarQuantizer
from megatron_speech.speech_tokenizer.projected import ProjectedVectorQuantizer
from megatron_speech.speech_tokenizer.quantizer import VectorQuantizer

STEPS = 50
STARTS = ("random", "k-means", "projected", "fsq")
_KINDS = {"fsq": FiniteScalarQuantizer, "projected": ProjectedVectorQuantizer}


def run(rank: int, world_size: int, start: str) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """State of the quantizer after 50 steps, and which codes each step restarted."""
    config = SpeechTokenizerConfig(
        d_model=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        quantizer="fsq" if start == "fsq" else "vq",
        fsq_levels=(4, 4, 3),
        quantize_vocab_size=48,
        quantize_code_dim=5 if start == "projected" else None,
        quantize_restart_interval=5,
        quantize_restart_threshold=0.97 if start == "random" else 0.5,  # counts start at 1
    )
    torch.manual_seed(0)
    quantizer = _KINDS.get(start, VectorQuantizer)(config)
    generator = torch.Generator().manual_seed(7)

    def half(batch: torch.Tensor) -> torch.Tensor:
        return batch.chunk(world_size)[rank]

    vectors = torch.randn(240, 16, generator=generator)
    if start != "random":
        own = torch.arange(240).view(8, 30)[rank::world_size].flatten()  # as over eight steps
        if start == "projected":
            quantizer.choose_directions(vectors[own], torch.diag(torch.arange(16.0)))
        quantizer.initialise(vectors[own], seed=1, rounds=5, positions=own)
    restarted = []
    for step in range(1, STEPS + 1):
        hidden = torch.randn(8, 12, 16, generator=generator)
        valid = torch.rand(8, 12, generator=generator) > 0.2
        quantizer(half(hidden), half(valid))
        count = int(quantizer.update(step).get("codes restarted", 0))
        codes = (quantizer.ema_count == 1).nonzero().flatten().tolist() if count else []
        assert len(codes) == count
        restarted.append(codes)
    return quantizer.state_dict(), restarted


if __name__ == "__main__":
    folder, own_rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=own_rank, world_size=size
    )
    results = {start: run(own_rank, size, start) for start in STARTS}
    torch.save(results, folder / f"rank{own_rank}.pt")
    dist.destroy_process_group()
