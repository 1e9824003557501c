"""Text corpora, lists of texts, dialogues, evaluation items and code shards."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_speech.chat.dialogues import (
    Dialogue,
    SpokenTurnsConfig,
    read_records,
    speakable_dialogue,
)
from megatron_speech.data.code_shards import (
    CodeRecord,
    CodeShardInfo,
    find_shards,
    read_code_shard,
    read_code_shards,
    write_code_shard,
)
from megatron_speech.data.manifest import read_texts
from megatron_speech.evaluation.items import read_chat_items, read_cloze, read_questions
from megatron_speech.io.rejected import Rejected
from megatron_speech.text.corpora import find_texts, read_pieces, split_inputs
from tests.fuzz.list_readers import (
    TEXTS,
    damage_lines,
    damage_parquet,
    expect_lines,
    expect_rows,
    make_lines,
)
from tests.fuzz.reader import Expected, Found, Reader

_CONFIG = SpokenTurnsConfig()


def _texts() -> list[dict[str, Any]]:
    return [
        {"id": f"d{n}", "text": text or "no", "n": [n, {"a": None}]} for n, text in enumerate(TEXTS)
    ]


def _dialogues() -> list[dict[str, Any]]:
    return [
        {
            "id": f"talk-{n}",
            "messages": [
                {"role": "user", "content": f"Who was there on day {word}?"},
                {"role": "assistant", "content": "Nobody. Only the\n- cat and\n- dog."},
            ]
            * (1 + n % 2),
        }
        for n, word in enumerate("one two three four".split())
    ]


def _cloze() -> list[dict[str, Any]]:
    return [
        {
            "id": f"c{n}",
            "task": "topic",
            "context": ["It rained.", "All day."],
            "right": "A",
            "wrong": "B",
        }
        for n in range(4)
    ]


def _questions() -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "question": "Who?", "answers": ["Ann", "ann"]} for n in range(4)]


def _chat_items() -> list[dict[str, Any]]:
    return [
        {
            "id": f"i{n}",
            "kind": "one",
            "turns": ["Who?"],
            "answers": ["Ann"],
            "wrong": [],
            "chance": 0.0,
        }
        for n in range(4)
    ]


def _make_table(values: Callable[[], list[dict[str, Any]]], folder: Path) -> None:
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "n"} for row in values()])
    pq.write_table(table, folder / "t.parquet", write_page_checksum=True, row_group_size=3)


def _read_corpus(name: str, folder: Path) -> Found:
    """By one task, and the same by three."""
    shares = [split_inputs(find_texts(folder / name), tasks) for tasks in (1, 3)]
    found, again = ([item for share in each for item in read_pieces(share)] for each in shares)
    assert found == again, "three tasks read other documents than one"
    return Found(
        [(item.id, item.text) for item in found if not isinstance(item, Rejected)],
        [item.id for item in found if isinstance(item, Rejected)],
    )


def _read_texts(name: str, folder: Path) -> Found:
    bad: list[Rejected] = []
    return Found(list(read_texts(folder / name, rejected=bad)), [item.id for item in bad])


def _read_dialogues(name: str, folder: Path) -> Found:
    """A dialogue that is cut before a turn counts as one item."""
    result = Found([])
    for record in read_records(split_inputs(find_texts(folder / name), 1)[0]):
        if isinstance(record, Rejected):
            result.set_aside.append(record.id)
            continue
        made = list(speakable_dialogue(*record, _CONFIG))
        whole = [item for item in made if isinstance(item, Dialogue)]
        assert made, "a dialogue came to nothing, uncounted"
        if whole:
            result.items.append((whole[0].id, whole[0].turns))
        else:
            result.set_aside.append(record[0])
    return result


def _read_items(read: Callable[[Path], list[Any]], folder: Path) -> Found:
    items = read(folder / "i.jsonl")
    for item in items:  # as those who use them take them
        for name, kind in type(item).__annotations__.items():
            value = getattr(item, name)
            expected = {str: str, float: (int, float)}.get(kind, tuple)
            assert isinstance(value, expected), f"{name} is {value!r}"[:200]
            if isinstance(value, tuple):
                assert all(isinstance(text, str) for text in value), f"{name} is {value!r}"[:200]
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    return Found([(item.id, item) for item in items])


def _make_shards(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    info = CodeShardInfo(frame_rate_hz=12.5, num_codes=64, tokenizer_fingerprint="tok-a")
    for shard in range(2):
        records = [
            CodeRecord(
                id=f"{shard}-{n}",
                codes=numbers.integers(0, 64, n),
                text=text if n % 2 else None,
                language="de",
                duration_s=n / 12.5,
                speaker=None,
            )
            for n, text in enumerate(TEXTS)
        ]
        write_code_shard(folder / f"{shard}.parquet", records, info)


def _expect_shards(sample: Path, damaged: Path) -> Expected:
    """The other shard is whole; a damaged one is refused by its columns, not by its rows."""
    return Expected(intact={k: v for k, v in _read_shards(sample).items if k.startswith("1")})


def _read_shards(folder: Path) -> Found:
    info, records = read_code_shards(folder)
    found = list(records)
    assert len(found) == sum(len(read_code_shard(path)[1]) for path in find_shards(folder))
    for record in found:
        assert record.codes.ndim == 1
        assert record.codes.dtype == np.int64
        assert record.codes.size == 0 or 0 <= record.codes.min() <= record.codes.max()
        assert isinstance(record.id, str), f"id {record.id!r}"
        assert isinstance(record.text, str | None), f"text {record.text!r}"
        assert isinstance(record.speaker, str | None), f"speaker {record.speaker!r}"
        assert isinstance(record.language, str | None), f"language {record.language!r}"
        assert isinstance(record.duration_s, float | int | None)
    assert info.num_codes > 0
    assert info.frame_rate_hz > 0
    return Found([(r.id, (r.codes.tolist(), r.text, r.language, r.duration_s)) for r in found])


def _lines(
    kind: str, values: Any, name: str, read: Callable[[Path], Found], spares: bool
) -> Reader:
    return Reader(
        f"{kind} {name}",
        partial(make_lines, name, values),
        partial(damage_lines, name),
        read,
        partial(expect_lines, name, read),
        spares_the_rest=spares,
    )


TEXT = [
    *(
        _lines(kind, values, name, partial(read, name), spares=True)
        for kind, values, read in (
            ("corpus", _texts, _read_corpus),
            ("text list", _texts, _read_texts),
            ("dialogues", _dialogues, _read_dialogues),
        )
        for name in ("t.jsonl", "t.jsonl.gz", "t.jsonl.zst")
    ),
    *(
        Reader(
            f"{kind} t.parquet",
            partial(_make_table, _texts),
            partial(damage_parquet, "t.parquet"),
            partial(read, "t.parquet"),
            partial(expect_rows, "t.parquet", read=partial(read, "t.parquet")),
        )
        for kind, read in (("corpus", _read_corpus), ("text list", _read_texts))
    ),
    *(
        _lines(kind, values, "i.jsonl", partial(_read_items, read), spares=False)
        for kind, values, read in (
            ("cloze", _cloze, read_cloze),
            ("questions", _questions, read_questions),
            ("chat items", _chat_items, read_chat_items),
        )
    ),
    Reader(
        "code shards",
        _make_shards,
        partial(damage_parquet, "0.parquet"),
        _read_shards,
        _expect_shards,
    ),
]
