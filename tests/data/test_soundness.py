"""Whatever reads a dataset refuses one whose files do not fit each other or were changed."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from megatron_speech.data.config import DataConfig
from megatron_speech.data.dataset import build_datasets
from megatron_speech.data.indexed import IndexedWriter, open_tokens
from megatron_speech.data.indexed_files import COMPANIONS
from megatron_speech.datasets.inspect import InspectConfig, inspect
from megatron_speech.datasets.merge import merge
from megatron_speech.datasets.verify import verify
from megatron_speech.errors import DataError
from tests.data.language_data import make_vocab

SUFFIXES = (".bin", ".idx", ".json", *COMPANIONS)
LENGTHS = [9, 14, 14, 7, 20, 11]
COUNT = len(LENGTHS)
LENGTHS_AT = 34
POINTERS_AT = LENGTHS_AT + 4 * COUNT
DOCUMENTS_AT = POINTERS_AT + 8 * COUNT


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("vocab"))


def write(prefix: Path, vocab, seed: int = 0, lengths: list[int] = LENGTHS) -> Path:
    """Documents with the length of `lengths`, each a text, some codes and an end mark."""
    random = np.random.default_rng(seed)
    documents = []
    for length in lengths:
        speech = vocab.speech_segment(random.integers(0, vocab.num_codes, 2))
        text = random.integers(1, 200, length - len(speech) - 1)
        documents.append(np.concatenate([text, speech, [vocab.eod_id]]))
    with IndexedWriter(prefix, vocab) as writer:
        writer.add_documents(documents, [f"{seed}-{n}" for n in range(len(documents))])
    writer.write_facts("interleaved", "codes-a", {"append_eod": True})
    return prefix


@pytest.fixture
def sound(vocab, tmp_path):
    return write(tmp_path / "x", vocab)


@pytest.fixture
def other(vocab, tmp_path):
    """Of the same sizes, so that no length tells it apart."""
    return write(tmp_path / "other", vocab, 1)


def edit(path: Path, place: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + len(data)] = data
    path.write_bytes(content)


def in_index(place: int, layout: str, *values: int):
    return lambda prefix: edit(Path(f"{prefix}.idx"), place, struct.pack(layout, *values))


def in_json(change):
    def apply(prefix: Path) -> None:
        path = Path(f"{prefix}.json")
        path.write_bytes(change(path.read_bytes()))

    return apply


def without(key: str):
    def change(data: bytes) -> bytes:
        content = json.loads(data)
        del content[key]
        return json.dumps(content).encode()

    return in_json(change)


DAMAGED = {
    "negative length": (in_index(LENGTHS_AT, "<ii", -9, 32), "document 0 has -9 tokens"),
    "empty document": (in_index(LENGTHS_AT, "<ii", 0, 23), "document 0 has 0 tokens"),
    "lengths that overlap": (in_index(LENGTHS_AT, "<ii", 14, 9), "document 1 begins at byte"),
    "pointers of zero": (in_index(POINTERS_AT + 8, "<3q", 0, 0, 0), "document 1 begins at byte"),
    "pointers beyond": (in_index(DOCUMENTS_AT - 8, "<q", 1 << 40), "document 5 begins at byte"),
    "documents back": (in_index(DOCUMENTS_AT + 8, "<2q", 3, 1), "document indices do not lead"),
    "documents short": (in_index(DOCUMENTS_AT + 8 * COUNT, "<q", 5), "do not lead from 0 to 6"),
    "another type": (in_index(17, "<B", 7), "type code 7"),
    "a letter of a key": (
        in_json(lambda data: data.replace(b"tokenizer_fingerprint", b"tokenizer_fingerprhnt")),
        "its checksum differs",
    ),
    "an added key": (in_json(lambda data: data.replace(b"{", b'{"x": 1,', 1)), "checksum differs"),
    "another value": (
        in_json(lambda data: data.replace(b'"packing": "cut"', b'"packing": "whole"')),
        "its checksum differs",
    ),
    "no checksum": (without("checksum"), "lost its checksum"),
    "no JSON": (in_json(lambda data: data[:100]), "is damaged: no JSON"),
    "no UTF-8": (in_json(lambda data: data.replace(b"cut", b"c\xfft")), "is damaged: no JSON"),
    "a list": (in_json(lambda data: b"[1, 2]"), "list instead of values by name"),
    "deep JSON": (in_json(lambda data: b"[" * 200_000), "is damaged: no JSON"),
}


def readers(vocab, folder: Path):
    """Everything that reads a dataset, as functions that raise what is wrong with it."""

    def train(prefix: Path) -> None:
        config = DataConfig(data_path=(str(prefix),), data_cache_path=folder, seq_length=16)
        build_datasets(config, vocab, (4, 0), seed=0)

    def check(prefix: Path) -> None:
        if problems := verify(prefix, vocab).problems:
            raise DataError("; ".join(problems))

    def show(prefix: Path) -> None:
        inspect(prefix, InspectConfig(vocab=folder / "vocab"))

    vocab.save_pretrained(folder / "vocab")
    return {
        "trainer": train,
        "verify": check,
        "inspect": show,
        "merge": lambda prefix: merge([prefix], folder / "merged", vocab),
    }


@pytest.mark.parametrize("damage", DAMAGED)
def test_every_reader_refuses_it_for_the_same_reason(damage, vocab, sound, tmp_path, capsys):
    for read in readers(vocab, tmp_path).values():
        read(sound)
    assert "no checksum" not in capsys.readouterr().err
    change, message = DAMAGED[damage]
    change(sound)
    for read in readers(vocab, tmp_path).values():
        with pytest.raises(DataError, match=message):
            read(sound)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_files_of_another_dataset_of_the_same_size_are_told_apart(suffix, vocab, sound, tmp_path):
    shutil.copy(
        write(tmp_path / "y", vocab, 1, LENGTHS[::-1]).with_suffix(suffix), f"{sound}{suffix}"
    )
    for read in readers(vocab, tmp_path).values():
        with pytest.raises(DataError, match="was written for other"):
            read(sound)


def hidden(prefix: Path) -> None:
    """One bit of a token, in a place that no sample of the file covers."""
    path = Path(f"{prefix}.bin")
    edit(path, path.stat().st_size * 3 // 8 & ~1, b"\x05")


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_merge_does_not_give_changed_tokens_a_new_checksum(order, vocab, tmp_path):
    for seed, name in enumerate("ab"):
        write(tmp_path / name, vocab, seed, [200] * 2000)
    hidden(tmp_path / "b")
    with pytest.raises(DataError, match=r"b\.bin is not the file that was written"):
        merge([tmp_path / name for name in order], tmp_path / "m", vocab)
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize("suffix", COMPANIONS[:1])
def test_merge_does_not_take_the_sources_of_another_dataset(suffix, vocab, sound, other, tmp_path):
    shutil.copy(f"{other}{suffix}", f"{sound}{suffix}")
    with pytest.raises(DataError, match="parquet is not the file that was written"):
        merge([sound], tmp_path / "m", vocab)
    Path(f"{sound}{suffix}").unlink()
    with pytest.raises(DataError, match="parquet is missing"):
        merge([sound], tmp_path / "m", vocab)


def older(prefix: Path) -> Path:
    """As versions wrote it whose .json had no checksum of itself."""
    for key in ("checksum", "contents_fingerprint"):
        without(key)(prefix)
    return prefix


def test_datasets_of_older_versions_are_read_with_one_line(vocab, sound, tmp_path, capsys):
    older(sound)
    for read in readers(vocab, tmp_path).values():
        read(sound)
        assert capsys.readouterr().err.count(f"the .json of {sound} has no checksum") == 1
    assert not verify(tmp_path / "merged", vocab).problems
    without("tokenizer_fingerprint")(sound)
    with pytest.raises(DataError, match="lacks tokenizer_fingerprint"):
        merge([sound], tmp_path / "merged", vocab)


def test_merge_counts_the_tokens_of_older_datasets_itself(vocab, sound, tmp_path):
    older(sound)
    path = Path(f"{sound}.json")
    facts = json.loads(path.read_text())
    moved = {"text_tokens": facts["text_tokens"] - 1, "speech_tokens": facts["speech_tokens"] + 1}
    path.write_text(json.dumps(facts | moved))
    assert merge([sound], tmp_path / "m", vocab).speech_tokens == facts["speech_tokens"]


def test_ids_beyond_the_vocabulary_stop_a_run_and_a_merge(vocab, sound, tmp_path):
    without("checksums")(older(sound))  # what nothing vouches for
    index, _ = open_tokens(sound)
    place = int(index.starts[3]) * index.dtype.itemsize
    edit(Path(f"{sound}.bin"), place, struct.pack("<H", vocab.padded_size))
    config = DataConfig(data_path=(str(sound),), data_cache_path=tmp_path, seq_length=16)
    windows = build_datasets(config, vocab, (8, 0), seed=0).train
    with pytest.raises(DataError, match=f"the vocabulary has 0..{vocab.padded_size - 1}"):
        list(map(windows.__getitem__, range(len(windows))))
    with pytest.raises(DataError, match="do not fit a vocabulary"):
        merge([sound], tmp_path / "m", vocab)


@pytest.mark.parametrize("damage", ["array", "record", "cut short"])
def test_a_changed_cache_of_windows_is_built_again(damage, vocab, sound, tmp_path, capsys):
    def tokens():
        config = DataConfig(data_path=(str(sound),), data_cache_path=tmp_path, seq_length=16)
        windows = build_datasets(config, vocab, (4, 0), seed=0).train
        return [windows[number]["tokens"].tolist() for number in range(4)]

    expected = tokens()
    assert tokens() == expected
    assert "built again" not in capsys.readouterr().err
    [path] = tmp_path.glob("*-0.json" if damage == "record" else "*-0-documents.npy")
    data = path.read_bytes()
    if damage == "cut short":
        path.write_bytes(data[:-3])
    elif damage == "record":
        path.write_bytes(data[:40])
    else:
        path.write_bytes(data[:-4] + data[-8:-4])  # one document twice, another never
    assert tokens() == expected
    assert "built again" in capsys.readouterr().err
