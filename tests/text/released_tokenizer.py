"""Small tokenizers in the files of the released GLM-4 models."""

import base64
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from megatron_speech.text.tiktoken_model import _SPLIT
from tests.interleaving.samples import story

NAMED = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
    "<|begin_of_transcription|>",
    "<|end_of_transcription|>",
)
"""Added tokens of GLM-4, in their order behind the ranks; the last four are GLM-4-Voice's."""


def lines(count: int, seed: int) -> list[str]:
    """Stories, numbers, layout, several scripts, and letters from anywhere."""
    rng = random.Random(seed)
    words = "Straße 東京都 привет सारा สวัสดี 한국어 שלום I'M we'll O'CLOCK x² ½ ٣٤٥ ſ 'ſ".split()
    words += ["e\u0301", "\U0001f469\u200d\U0001f467"]
    gaps = (" ", "  ", "\t", "\n", "\r\n", "\n\n   ", "\u00a0", "\u3000", "...", "--", "")
    made = []
    for _ in range(count):
        parts = [story(rng)] if rng.random() < 0.3 else []
        for _ in range(rng.randrange(1, 12)):
            parts.append(rng.choice((rng.choice(words), str(rng.randrange(10**6)))))
            parts.append(rng.choice(gaps) * rng.randrange(1, 4))
        if rng.random() < 0.2:
            parts.append("".join(chr(rng.choice((rng.randrange(0xD800), 0x1F600))) for _ in "1234"))
        made.append("".join(parts))
    return made


def train_ranks(texts: Iterable[str], size: int) -> list[bytes]:
    """Byte strings in the order of their ranks: bytes, then what byte-pair encoding joins."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, limit_alphabet=256
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    joined = [bytes(byte_of[letter] for letter in left + right) for left, right in merges]
    return [*(bytes([byte]) for byte in range(256)), *dict.fromkeys(joined)]


def fill_ranks(trained: list[bytes], count: int = 151_329) -> list[bytes]:
    """As many ranks as the released tokenizer has, the rest of bytes that no text holds."""
    fill = (bytes([0xFE, *number.to_bytes(3, "big")]) for number in range(count))
    return [*trained, *itertools.islice(fill, count - len(trained))]


def write_tokenizer(
    folder: Path, ranks: Sequence[bytes], named: Sequence[str] = NAMED[:14], codes: int = 0
) -> None:
    """tokenizer.model and tokenizer_config.json; codes begin 1,024 ids behind the last rank, as
    GLM-4-Voice's do, with ids between that no token has a name for."""
    folder.mkdir(parents=True, exist_ok=True)
    body = b"".join(b"%s %d\n" % (base64.b64encode(t), rank) for rank, t in enumerate(ranks))
    (folder / "tokenizer.model").write_bytes(body)
    added = {len(ranks) + place: name for place, name in enumerate(named)}
    added |= {len(ranks) + 1024 + code: f"<|audio_{code}|>" for code in range(codes)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "added_tokens_decoder": {
            str(number): {"content": name, **flags, "special": True}
            for number, name in added.items()
        },
        "additional_special_tokens": list(named),
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "model_max_length": 1_000_000,
        "tokenizer_class": "ChatGLM4Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
