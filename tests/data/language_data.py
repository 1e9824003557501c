"""A small vocabulary and indexed datasets for tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.io.files import write_json
from megatron_speech.text.vocab import SpeechTextVocab

NUM_CODES = 16


def make_vocab(folder: Path, extra: Sequence[str] = ()) -> SpeechTextVocab:
    """Bytes, `<|endoftext|>`, `extra` tokens, specials and 16 codes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", *extra, *alphabet]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.add_special_tokens(["<|endoftext|>", *extra])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    base = folder / "base"
    base.mkdir(parents=True)
    tokenizer.save(str(base / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    SpeechTextVocab.extend(base, NUM_CODES).save_pretrained(folder / "vocab")
    return SpeechTextVocab.from_pretrained(folder / "vocab")


def random_documents(vocab: SpeechTextVocab, count: int, seed: int) -> list[np.ndarray]:
    """Documents of text, a speech segment, and the end mark; about 12 to 50 tokens."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        text = generator.integers(1, 200, generator.integers(5, 25))
        codes = generator.integers(0, NUM_CODES, generator.integers(4, 22))
        parts = [text, vocab.speech_segment(codes), [vocab.eod_id]]
        documents.append(np.concatenate(parts).astype(np.int64))
    return documents


def write_dataset(
    prefix: Path,
    vocab: SpeechTextVocab,
    documents: list[np.ndarray],
    loss_rule: str = "all",
    packing: str = "cut",
    tokenizer_fingerprint: str | None = "codes-a",
) -> str:
    """Write an indexed dataset with any loss rule and packing; returns the prefix."""
    with IndexedWriter(prefix, vocab) as writer:
        writer.add_documents(documents)
    write_json(
        f"{prefix}.json",
        {
            "loss_rule": loss_rule,
            "packing": packing,
            "vocab_fingerprint": vocab.fingerprint,
            "tokenizer_fingerprint": tokenizer_fingerprint,
        },
    )
    return str(prefix)
