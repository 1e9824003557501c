"""A folder as transformers saves a Whisper: small, of random weights, with a tokenizer like its."""

import re
from pathlib import Path

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from megatron_speech.io.files import write_json

LANGUAGES = ("en", "fr", "zh")
_SAID = re.compile(r"Ġ?[a-w]+")
"""Tokens that generation chooses from: texts are words without x, y and z."""


def save_small_whisper(folder: Path, multilingual: bool = True, **changes) -> Path:
    """Write it; the same weights every time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    specials = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in LANGUAGES)]
    specials += ["<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" the cat sat on the mat", " a dog ran"] * 4, trainer)
    tokenizer.add_special_tokens(specials)  # last: what follows them is a time to transformers
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "WhisperTokenizer", "eos_token": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", names)
    ids = {name: tokenizer.token_to_id(name) for name in specials}
    ends = {"eos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"]}
    ends |= {
        "bos_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }
    shape = {
        "d_model": 32,
        "encoder_layers": 4,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 40,
        "num_mel_bins": 80,
        "max_target_positions": 40,
        "vocab_size": tokenizer.get_vocab_size() + 3,  # more rows than tokens, as in Whisper
    }
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**shape | ends | changes, init_std=0.3))
    model.generation_config = GenerationConfig(
        **ends,
        max_length=40,
        is_multilingual=multilingual,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        suppress_tokens=[
            number
            for name, number in sorted(tokenizer.get_vocab().items())
            if not _SAID.fullmatch(name) and name != "<|endoftext|>"
        ],
        begin_suppress_tokens=[tokenizer.token_to_id("Ġ"), ids["<|endoftext|>"]],
        **(
            {
                "lang_to_id": {f"<|{name}|>": ids[f"<|{name}|>"] for name in LANGUAGES},
                "task_to_id": {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")},
            }
            if multilingual
            else {}
        ),
    )
    model.save_pretrained(folder)
    return folder
