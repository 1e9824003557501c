"""Small corpora, vocabularies and a look-up engine that several tests use."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.text.build_vocab import VocabConfig, build_vocab
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.text_to_token.engines import Generation

NUM_CODES = 64
INFO = CodeShardInfo(frame_rate_hz=12.5, num_codes=NUM_CODES, tokenizer_fingerprint="tok-a")
WORDS = (
    "the a small red dog cat garden river saw ate ran under over near house tree because Mira "
    "Tom then and they she he morning lost found key bread little old"
).split()


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))).capitalize() + "."


def story(rng: random.Random) -> str:
    return " ".join(sentence(rng) for _ in range(rng.randint(1, 6)))


def write_corpus(path: Path, documents: int = 60, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    texts = [story(rng) for _ in range(documents)]
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = [f"doc-{number}" for number in range(documents)]
    pq.write_table(pa.table({"id": ids, "text": texts}), path, row_group_size=16)
    return texts


def make_vocab(folder: Path, size: int = 400) -> SpeechTextVocab:
    write_corpus(folder / "corpus.parquet", 200)
    config = VocabConfig(
        input=(str(folder / "corpus.parquet"),),
        train_bpe=size,
        num_codes=NUM_CODES,
        output=folder / "vocab",
    )
    return build_vocab(config)


def write_codes(path: Path, count: int = 12, info: CodeShardInfo = INFO) -> list[CodeRecord]:
    rng, numbers = random.Random(1), np.random.default_rng(1)
    records = [
        CodeRecord(
            id=f"story{number // 3}/{number % 3:03d}",
            codes=numbers.integers(0, info.num_codes, 5 + number),
            text=sentence(rng),
            duration_s=1.0,
        )
        for number in range(count)
    ]
    write_code_shard(path, records, info)
    return records


class LookUpEngine:
    """Three codes per word, a function of its letters; words named `bad` fail."""

    fingerprint = "look-up"
    num_codes = NUM_CODES
    speech_tokenizer: str | None = None

    def generate(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        most_codes: Callable[[str], int],
        advance: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        return [Generation(look_up(text), "bad" not in text, 0) for text in texts]


def look_up(text: str) -> np.ndarray:
    codes = [sum(word.encode()) * (i + 1) % NUM_CODES for word in text.split() for i in range(3)]
    return np.array(codes, dtype=np.int64)
