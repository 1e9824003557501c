import errno
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import pytest

from megatron_speech.io import files
from megatron_speech.io.checked_json import read_checked_json, write_checked_json


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "a.json"

    def interrupted() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        interrupted()
    assert list(target.parent.iterdir()) == []
    files.write_json(target, {"ü": 1})
    assert files.read_json(target) == {"ü": 1}


def test_what_a_killed_process_leaves_is_no_data(tmp_path):
    with files.atomic_path(tmp_path / "shard_000001.parquet") as temporary:
        temporary.write_text("half")
        assert list(tmp_path.glob("*.parquet")) == []
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["shard_000001.parquet"]


def test_a_failed_rewrite_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def interrupted() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"


def test_equal_process_numbers_of_two_containers_share_no_file(tmp_path, monkeypatch):
    """They may share the host's name too; clones of one machine even all that names it."""
    ours = files.temporary_beside(tmp_path / "a")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os, "readlink", lambda path: "pid:[another]")
        assert files.temporary_beside(tmp_path / "a") != ours
        theirs = files.this_process()
    assert files.this_process() != theirs
    files._random_part.cache_clear()
    assert files.temporary_beside(tmp_path / "a") != ours


def test_only_files_that_nobody_will_finish_are_abandoned(tmp_path):
    place, pid, began = files.this_process().split("-")
    ended = f"{place}-{pid}-{int(began) + 1}"
    elsewhere = f"0123456789abcdef-{pid}-{int(began) + 1}"
    for name, expected in (
        (files.temporary_beside(tmp_path / "a").name, False),
        (f".a.{ended}.01234567.part", True),
        (f".a.{elsewhere}.01234567.part", False),
        (".a.node7.1234.part", False),
        (".part", False),
    ):
        path = tmp_path / name
        assert not files.is_abandoned(path), "not there"
        path.touch()
        assert files.is_abandoned(path) == expected, name
        long_ago = time.time() - 25 * 3600
        os.utime(path, (long_ago, long_ago))
        assert files.is_abandoned(path), name


def test_fingerprints_see_boundaries_and_order(tmp_path):
    assert files.fingerprint_of("ab", "c") != files.fingerprint_of("a", "bc")
    (tmp_path / "x").write_text("1")
    (tmp_path / "y").write_text("2")
    one = files.fingerprint_of_files(tmp_path / "x", tmp_path / "y")
    assert one != files.fingerprint_of_files(tmp_path / "y", tmp_path / "x")
    assert one == files.fingerprint_of_files(tmp_path / "x", tmp_path / "y")


def two_folders(place):
    new, target = place / ".new", place / "target"
    for folder, text in ((new, "new"), (target, "old")):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a").write_text(text)
    return new, target


def without_exchange(one, other):
    return False


def test_what_is_no_number_is_null_in_what_is_written(tmp_path):
    nothing = {"wer": float("nan"), "most": [1.5, float("inf")], "least": {"x": -float("inf")}}
    expected = {"wer": None, "most": [1.5, None], "least": {"x": None}}
    files.write_json(tmp_path / "a.json", nothing)
    write_checked_json(tmp_path / "b.json", nothing)
    for name in "ab":
        text = (tmp_path / f"{name}.json").read_text()
        found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert {key: found[key] for key in expected} == expected
    assert read_checked_json(tmp_path / "b.json").content == expected
    assert files.json_text({"a": ["é", 1]}) == '{"a": ["é", 1]}'


def test_files_that_were_written_with_nan_are_read(tmp_path):
    content = {"wer": float("nan"), "most": float("inf")}
    body = json.dumps(dict(sorted(content.items())))
    mark = hashlib.sha256(body.encode()).hexdigest()
    (tmp_path / "a.json").write_text(json.dumps({**content, "checksum": mark}))
    found = read_checked_json(tmp_path / "a.json")
    assert found.has_checksum
    assert str(found.content) == str(content)


@pytest.mark.parametrize("exchange", [files._exchange, without_exchange])
def test_a_folder_is_synced_and_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
    new, target = two_folders(tmp_path)
    synced, sync, rename = [], os.fsync, os.rename

    def remember(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def check_synced(source):
        if source == new:
            parts = (new, new / "deep", new / "deep" / "a")
            assert {part.stat().st_ino for part in parts} <= set(synced)

    def check_then_rename(source, to):
        check_synced(source)
        rename(source, to)

    def check_then_exchange(one, other):
        check_synced(one)
        return exchange(one, other)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(os, "rename", check_then_rename)
    monkeypatch.setattr(files, "_exchange", check_then_exchange)
    files.replace_folder(new, target)
    assert (target / "deep" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert synced[-1] == tmp_path.stat().st_ino


def test_two_folders_swap_names_in_one_step(monkeypatch):
    """No rename takes part, so there is no instant without a folder of that name."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:  # NFS cannot; a tmpfs can
        new, target = two_folders(Path(place))
        assert files._exchange(new, target)
        assert [(path / "deep/a").read_text() for path in (new, target)] == ["old", "new"]
        monkeypatch.setattr(os, "rename", None)
        files.replace_folder(new, target)
        assert (target / "deep/a").read_text() == "old"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    new, target = two_folders(tmp_path)
    rename = os.rename

    def fail_at_new(source, to):
        if source == new:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, to)

    monkeypatch.setattr(files, "_exchange", without_exchange)
    monkeypatch.setattr(os, "rename", fail_at_new)
    with pytest.raises(OSError, match="Input/output"):
        files.replace_folder(new, target)
    assert (target / "deep/a").read_text() == "old"
    assert (new / "deep/a").read_text() == "new"
