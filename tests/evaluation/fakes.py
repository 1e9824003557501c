"""A small vocabulary, a small random Llama, a speech tokenizer that reads codes by a table."""

from pathlib import Path

import numpy as np

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.text.build_vocab import train_bpe
from megatron_speech.text.vocab import SpeechTextVocab
from tests.text_to_token.tiny_model import save_llama

NUM_CODES = 16
FINGERPRINT = "f" * 16
SENTENCES = [
    "Anna took the boat out.",
    "The sky grew dark.",
    "She turned back home.",
    "He baked a cake.",
    "Where does Anna live?",
]


class TableTranscriber:
    """Reads exactly the codes of SENTENCES, as bare words; anything else is gibberish."""

    num_codes, frame_rate_hz = NUM_CODES, 12.5

    def __init__(self, fingerprint: str = FINGERPRINT):
        self.fingerprint = fingerprint

    def encode(self, audio, sample_rate_hz=16_000):
        raise AssertionError("evaluation reads codes: it must not ask to hear audio")

    def decode_text(self, codes, languages=None):
        table = {tuple(sentence_codes(s)): s for s in SENTENCES}
        bare = [table.get(tuple(array), "zzz" if len(array) else "") for array in codes]
        return [text.lower().strip(".?") for text in bare]


def sentence_codes(sentence: str) -> np.ndarray:
    return np.array([ord(letter) % NUM_CODES for letter in sentence], dtype=np.int64)


def make_vocab(folder: Path) -> Path:
    """A byte-level BPE with codes behind it; returns the extended vocabulary's folder."""
    train_bpe(SENTENCES * 4, 300, folder)
    vocab = SpeechTextVocab.extend(folder, NUM_CODES, padding_multiple=64)
    vocab.save_pretrained(folder / "extended")
    return folder / "extended"


def make_model(folder: Path, vocab_folder: Path) -> Path:
    """An exported model folder: random weights, large enough to be far from uniform."""
    vocab = SpeechTextVocab.from_pretrained(vocab_folder)
    return save_llama(folder, vocab, max_position_embeddings=256)


def write_speech(path: Path, sentences, num_codes: int = NUM_CODES, fingerprint=FINGERPRINT):
    records = [
        CodeRecord(id=f"u{n}", codes=sentence_codes(s), text=s) for n, s in enumerate(sentences)
    ]
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=num_codes, tokenizer_fingerprint=fingerprint)
    write_code_shard(path, records, info)
