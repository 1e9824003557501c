"""A tiny random base model in GLM-4's layout, to rehearse what starts from GLM-4-9B-Base.

    python examples/storyworld/base_model.py --corpus runs/world/corpus/train.parquet \\
        --output runs/base_hf
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.data.manifest import read_texts
    from megatron_speech.text.build_vocab import train_bpe

TEXT_IDS = 1024
END_OF_TEXT_ID = 0  # train_bpe numbers it so


@dataclass(frozen=True, kw_only=True)
class BaseModelConfig:
    """Where the text comes from and where the model goes."""

    corpus: Path
    """Text corpus for the tokenizer: parquet or JSON lines."""
    output: Path
    """Hugging Face folder to write."""


def main(argv: Sequence[str] | None = None) -> Path:
    """Write tokenizer, config and random weights; returns the folder."""
    config = cli.parse(BaseModelConfig, argv, __doc__)
    import torch
    from transformers import GlmConfig, GlmForCausalLM

    train_bpe([text for _, text in read_texts(config.corpus)], TEXT_IDS, config.output)
    torch.manual_seed(0)
    shape = GlmConfig(
        vocab_size=TEXT_IDS,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        attention_bias=True,
        initializer_range=0.06,
        eos_token_id=END_OF_TEXT_ID,
        pad_token_id=END_OF_TEXT_ID,
        bos_token_id=None,
    )
    GlmForCausalLM(shape).save_pretrained(config.output)
    print(f"{config.output}: {TEXT_IDS:,} text ids, random weights")
    return config.output


if __name__ == "__main__":
    cli.run(main, starts_over=True)
