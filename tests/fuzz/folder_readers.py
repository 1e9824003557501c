"""Folders of models, vocabularies, checkpoints and datasets, and the JSON files of jobs."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from megatron_speech.data.indexed import IndexedWriter, open_indexed, open_tokens
from megatron_speech.data.soundness import sound_dataset
from megatron_speech.datasets.adopt import AdoptConfig, adopt
from megatron_speech.errors import MegatronSpeechError
from megatron_speech.interleaving.plan_folder import request_paths
from megatron_speech.io.rejected import Rejected, read_rejected, write_rejected
from megatron_speech.model.hf_config import (
    model_from_config,
    open_weights,
    read_config,
    read_generation_ids,
)
from megatron_speech.model.safetensors_folder import SafetensorsFolder
from megatron_speech.speech_tokenizer.weights import read_tensors, write_tensors
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.checkpoint import latest_iteration, read_notes
from tests.fuzz.mutations import damaged, damaged_json
from tests.fuzz.reader import Found, Reader
from tests.interleaving.samples import make_vocab
from tests.model.released_folder import write_released


def damage_folder(rng: random.Random, folder: Path) -> None:
    """One file or two: bytes, or the structure of JSON."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(files)
        content = path.read_bytes()
        action = rng.choice(("bytes", "structure", "structure", "header"))
        if action == "structure" and path.suffix == ".json":
            try:
                changed = damaged_json(rng, json.loads(content))
            except (ValueError, RecursionError):
                continue
            path.write_bytes(changed.encode("utf-8", "surrogatepass"))
        elif action != "bytes" and path.suffix == ".safetensors":
            path.write_bytes(_with_odd_header(rng, content))
        else:
            path.write_bytes(damaged(rng, content, rng.choice(files).read_bytes()))


def _with_odd_header(rng: random.Random, content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    try:
        header = damaged_json(rng, json.loads(content[8 : 8 + size]))
    except (ValueError, RecursionError):
        return content[: size // 2]
    written = header.encode("utf-8", "surrogatepass")
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def _make_vocab(folder: Path) -> None:
    made = folder / "made"
    make_vocab(made)
    for path in (made / "vocab").iterdir():
        path.rename(folder / path.name)
    for path in made.iterdir():
        path.unlink() if path.is_file() else path.rmdir()
    made.rmdir()


def _read_vocab(folder: Path) -> Found:
    vocab = SpeechTextVocab.from_pretrained(folder)
    ids = vocab.text.encode("the small red dog ran home")
    assert vocab.text.decode(ids)
    assert all(0 <= i < vocab.padded_size for i in ids), f"{ids} of {vocab.padded_size}"
    assert vocab.size <= vocab.padded_size
    ends = vocab.speech_segment([0, vocab.num_codes - 1])
    assert len(set(ends.tolist())) == len(ends)
    vocab.text.offsets("the dog")
    return Found([("vocabulary", (vocab.fingerprint, vocab.eod_id, vocab.embedding_rows))])


def _make_base(folder: Path) -> None:
    from transformers import LlamaConfig

    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
    }
    LlamaConfig(**sizes, num_attention_heads=2, eos_token_id=0).save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 0], "temperature": 0.5}')
    tensors = {f"layer.{n}": torch.randn(4, 8) for n in range(4)}
    shard_of = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(tensors)}
    for file in set(shard_of.values()):
        save_file({n: t for n, t in tensors.items() if shard_of[n] == file}, folder / file)
    index = {"metadata": {"total_size": 512}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_base(folder: Path) -> Found:
    config = read_config(folder)
    read_generation_ids(folder, config)
    weights = SafetensorsFolder(folder)
    weights.dtype()
    items = [(name, tuple(weights.read(name).shape)) for name in weights.entries]
    assert all(weights.entries[name].shape == shape for name, shape in items)
    return Found(items)


def _make_released(folder: Path) -> None:
    write_released(folder, ranks=[*(bytes([byte]) for byte in range(256)), b"th", b"the"])


def _read_released(folder: Path) -> Found:
    config = read_config(folder)
    model = model_from_config(config, folder)
    weights = open_weights(folder, model, config.vocab_size)
    weights.dtype()
    items = [(name, tuple(weights.read(name).shape)) for name in weights.entries]
    vocab = SpeechTextVocab.as_it_is(folder)
    ids = vocab.text.encode("the small dog")
    assert vocab.text.decode(ids) == "the small dog"
    assert max(ids) < vocab.text.size <= vocab.size
    return Found([*items, ("vocabulary", vocab.text.size)])


def _make_weights(folder: Path) -> None:
    tensors = {f"part.{n}": torch.randn(6, 5) for n in range(4)}
    write_tensors(folder, tensors, max_bytes=300)


def _read_weights(folder: Path) -> Found:
    return Found([(n, t.tolist()) for n, t in read_tensors(folder).items()])


def _make_run(folder: Path) -> None:
    (folder / "iter_0000007").mkdir()
    (folder / "iter_0000007" / "loop.json").write_text('{"done": 7, "skipped": [1, 2]}')
    (folder / "iter_0000009").mkdir()
    (folder / "latest_checkpointed_iteration.txt").write_text("7\n")


def _read_run(folder: Path) -> Found:
    step = latest_iteration(folder)
    assert step is None or isinstance(step, int)
    notes = read_notes(folder / "iter_0000007")
    assert isinstance(notes, dict)
    return Found([(str(step), notes)])


def _make_job(folder: Path) -> None:
    (folder / "plan.json").write_text(json.dumps({"request_shards": ["a.parquet", "b.parquet"]}))
    (folder / "requests").mkdir()
    for name in "ab":
        (folder / "requests" / f"{name}.parquet").touch()
    items = [Rejected(f"id {n}\u2028", "empty", "was é") for n in range(3)]
    write_rejected(folder / "rejected.jsonl", items)


def _read_job(folder: Path) -> Found:
    paths = request_paths(folder)
    assert all(isinstance(path, Path) for path in paths)
    return Found([(item.id, item) for item in read_rejected(folder / "rejected.jsonl")])


def _make_dataset(folder: Path) -> None:
    vocab_folder = folder / "made"
    vocab_folder.mkdir()
    _make_vocab(vocab_folder)
    vocab = SpeechTextVocab.from_pretrained(vocab_folder)
    for path in vocab_folder.iterdir():
        path.unlink()
    vocab_folder.rmdir()
    numbers = np.random.default_rng(0)
    with IndexedWriter(folder / "set", vocab) as writer:
        writer.add_documents([numbers.integers(0, vocab.size, n + 1) for n in range(8)])
    writer.write_facts("text", None)


def _read_dataset(folder: Path) -> Found:
    prefix = folder / "set"
    facts, _ = sound_dataset(prefix)
    index, tokens = open_tokens(prefix)
    items = []
    for number, (start, length) in enumerate(zip(index.starts, index.lengths, strict=True)):
        document = tokens[start : start + length].tolist()
        assert len(document) == length > 0, f"document {number} has {len(document)} of {length}"
        items.append((str(number), document))
    assert sum(index.lengths) == len(tokens), "documents do not cover the tokens"
    core = [document.tolist() for document in open_indexed(prefix)]
    assert core == [document for _, document in items], "Megatron's reader finds other documents"
    assert isinstance(facts.documents, int)
    return Found(items)


_INDEX_FIELDS = (9, 17, 18, 26)
"""Where in an .idx version, type, and numbers of sequences and documents lie; 34: their lengths."""


def _make_foreign(folder: Path) -> None:
    """A dataset as Megatron's own tool leaves it, and the vocabulary that made it."""
    vocab = make_vocab(folder)
    with IndexedWriter(folder / "set", vocab) as writer:
        for number in range(8):
            writer.add_documents([np.array([*vocab.text.encode(f"say {number}"), vocab.eod_id])])
    writer.write_facts("text", None)
    (folder / "set.json").unlink()


def _damage_foreign(rng: random.Random, folder: Path) -> None:
    """Ends cut off, any bytes, numbers of the index, and ids that no vocabulary has."""
    index, tokens = folder / "set.idx", folder / "set.bin"
    path = rng.choice((index, tokens))
    content = bytearray(path.read_bytes())
    action = rng.choice(("bytes", "number", "number", "cut", "gone"))
    if action == "gone" and rng.random() < 0.2:
        path.unlink()
    elif action == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif action == "number":
        place = rng.randrange(34, len(content) - 4, 4) if path == index else 0
        place = rng.choice((0, place, place, *_INDEX_FIELDS)) if path == index else place
        place = place or 2 * rng.randrange(len(content) // 2 - 2) * (path == tokens)
        value = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), rng.randrange(2**16)))
        content[place : place + 4] = value.to_bytes(4, "little", signed=True)
        path.write_bytes(content)
    else:
        path.write_bytes(damaged(rng, bytes(content), tokens.read_bytes()))


def _adopt(folder: Path) -> Found:
    """What is adopted can be read, by us and by core, and has ids of the text tokenizer alone."""
    vocab_folder, prefix = folder / "vocab", folder / "set"
    config = AdoptConfig(input=(prefix,), tokenizer_model=vocab_folder)
    try:
        [adopted] = adopt(config)
    except MegatronSpeechError:
        assert not (folder / "set.json").exists(), "it was refused, but its .json is there"
        raise
    try:
        found = _read_dataset(folder)
    finally:
        (folder / "set.json").unlink()  # the next reading is of files without it
    vocab = SpeechTextVocab.from_pretrained(vocab_folder)
    ids = {token for _, document in found.items for token in document}
    assert ids <= set(range(vocab.size - len(vocab.added))), f"ids {min(ids)}..{max(ids)}"
    assert adopted.facts.documents == len(found.items)
    return found


def _reader(name: str, make: Callable[[Path], None], read: Callable[[Path], Found]) -> Reader:
    return Reader(name, make, damage_folder, read)


FOLDERS = [
    _reader("vocabulary", _make_vocab, _read_vocab),
    _reader("base model", _make_base, _read_base),
    _reader("released GLM-4", _make_released, _read_released),
    _reader("speech tokenizer weights", _make_weights, _read_weights),
    _reader("run folder", _make_run, _read_run),
    _reader("job folder", _make_job, _read_job),
    _reader("indexed dataset", _make_dataset, _read_dataset),
    Reader("adopted dataset", _make_foreign, _damage_foreign, _adopt),
]
