"""First rows of codes as the ranks of a layout have them."""

from pathlib import Path

import torch
import torch.distributed as dist

from megatron_speech.model.code_rows import CodePoints, start_code_rows
from megatron_speech.model.config import ModelConfig
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig

PADDED = 1024


def shape(tied: bool) -> ModelConfig:
    return ModelConfig(
        num_layers=2,
        hidden_size=16,
        ffn_hidden_size=32,
        num_attention_heads=2,
        num_query_groups=2,
        untie_embeddings_and_output_weights=not tied,
    )


def tables(
    parallel: ParallelConfig, tied: bool, vocab: SpeechTextVocab, codes: CodePoints
) -> dict[str, torch.Tensor]:
    """This rank's part of the tables it has, by name, after the rows were set."""
    with session(parallel, seed=3) as layout:
        (chunk,) = build_model(shape(tied), parallel, BuildOptions(padded_vocab_size=PADDED))
        start_code_rows([chunk], codes, vocab, deviation=0.5, seed=3)
        found = {}
        if chunk.pre_process:
            found["embedding"] = chunk.embedding.word_embeddings.weight
        if chunk.post_process:
            one = tied and chunk.pre_process
            found["output"] = found["embedding"] if one else chunk.output_layer.weight
        return {
            f"{name}-{layout.tensor_parallel_rank}": table.detach().clone()
            for name, table in found.items()
        }


def main(rank: int, folder: Path, vocab: SpeechTextVocab, codes: CodePoints) -> None:
    """Save what each of four ranks has, two stages of two."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 4)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4)
    parallel = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    for tied in (False, True):
        torch.save(tables(parallel, tied, vocab, codes), folder / f"{tied}-{rank}.pt")
    dist.destroy_process_group()
