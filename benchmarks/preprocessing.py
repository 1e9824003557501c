"""Text to .bin/.idx by tools/preprocess_data.py, against Megatron's loop: a document at a time.

python benchmarks/preprocessing.py [--megabytes 40] [--texts corpus.jsonl]

The loop encodes each text with the tokenizers library and hands it to IndexedDatasetBuilder; both
read the same JSON lines and write the same bytes. Times are processor seconds of one process. The
tokenizer is trained on the same texts: Python's own library, unless others are given.
"""

import argparse
import json
import os
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import processor_seconds, report, require_same_dataset, sized, write_one_by_one

from megatron_speech.datasets import text as text_documents
from megatron_speech.datasets.text import PreprocessConfig, preprocess
from megatron_speech.text.build_vocab import train_bpe
from megatron_speech.text.vocab import SpeechTextVocab

CHARACTERS_PER_DOCUMENT, VOCABULARY, ROUNDS = 4000, sized(16_000, 2_000), sized(3, 1)
TRAINED_ON = sized(1500, 200)  # documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=sized(40, 1))
    parser.add_argument("--texts", type=Path)
    flags = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        texts = write_corpus(corpus, flags.texts, flags.megabytes)
        figures: dict[str, Any] = {"megabytes": corpus.stat().st_size / 1e6}
        makers = {"byte_level_bpe": byte_level_bpe, "sentencepiece": sentencepiece_bpe}
        for name, make in makers.items():
            vocab = make(Path(folder) / name, texts[:TRAINED_ON])
            figures[name] = compare(Path(folder), corpus, vocab)
    report("preprocessing", "tokenizer and IndexedDatasetBuilder.add_document per text", figures)


def compare(folder: Path, corpus: Path, vocab: Path) -> dict[str, float]:
    """Tokens per processor second of both, after both wrote the same bytes."""
    ours, peer = folder / "ours", folder / "peer"
    config = PreprocessConfig(
        input=(str(corpus),), output_prefix=ours, tokenizer_model=vocab, append_eod=True
    )
    tokens = preprocess(config)[0].tokens
    words = SpeechTextVocab.from_pretrained(vocab)

    def write_peer() -> None:
        write_one_by_one(peer, encoded_documents(corpus, words), words)

    seconds = {"peer": [processor_seconds(write_peer)], "ours": [], "all": []}
    require_same_dataset(Path(f"{ours}_text_document"), peer)
    compare_characters = text_documents.can_be_fast
    for _ in range(ROUNDS):
        seconds["all"].append(processor_seconds(lambda: preprocess(config)))
        # the comparison of all characters happens once a run, however long the corpus is
        text_documents.can_be_fast = lambda tokenizer, folder: engine_there(folder)
        seconds["ours"].append(processor_seconds(lambda: preprocess(config)))
        text_documents.can_be_fast = compare_characters
    rates = {name: tokens / float(np.median(taken)) / 1e6 for name, taken in seconds.items()}
    return {
        "tokens": tokens,
        "ours_mtok_per_core_s": rates["ours"],
        "with_start_mtok_per_core_s": rates["all"],
        "peer_mtok_per_core_s": rates["peer"],
        "speedup": rates["ours"] / rates["peer"],
        "speedup_with_start": rates["all"] / rates["peer"],
    }


def engine_there(folder: Path) -> bool:
    return text_documents.fast_engine(folder) is not None


def encoded_documents(corpus: Path, vocab: SpeechTextVocab) -> Iterator[list[int]]:
    """What Megatron's tool does with each line, in one process."""
    encode, eod = vocab.text.encode, vocab.eod_id
    return ([*encode(text), eod] for text in given_texts(corpus))


def write_corpus(path: Path, given: Path | None, megabytes: float) -> list[str]:
    """Write JSON lines of about that size and return their texts."""
    texts, size = [], 0
    for text in given_texts(given) if given else library_texts():
        texts.append(text)
        size += len(text)
        if size > megabytes * 1e6:
            break
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def given_texts(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def library_texts() -> Iterator[str]:
    """Python's standard library, some thousand characters at a time."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for first in range(0, len(text), CHARACTERS_PER_DOCUMENT):
            if (part := text[first : first + CHARACTERS_PER_DOCUMENT]).strip():
                yield part


def byte_level_bpe(folder: Path, texts: list[str]) -> Path:
    train_bpe(texts, VOCABULARY, folder / "base")
    SpeechTextVocab.extend(folder / "base", 16_384).save_pretrained(folder / "vocab")
    return folder / "vocab"


def sentencepiece_bpe(folder: Path, texts: list[str]) -> Path:
    import sentencepiece

    folder.mkdir()
    model = folder / "pieces"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts[:400] for line in text.splitlines()),
        model_prefix=str(model),
        model_type="bpe",
        vocab_size=8000,
        byte_fallback=True,
        minloglevel=2,
    )
    SpeechTextVocab.extend(f"{model}.model", 16_384).save_pretrained(folder / "vocab")
    return folder / "vocab"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
