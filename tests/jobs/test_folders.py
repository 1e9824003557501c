"""Folders are whole or not there, whoever was killed while they were made or removed."""

import os
import shutil

import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.io.files import temporary_beside, this_process
from megatron_speech.jobs.folders import atomic_folder, remove_abandoned, remove_folder, same_job


def of_a_dead_process(path):
    place, pid, began = this_process().split("-")
    return path.with_name(f".{path.name}.{place}-{pid}-{int(began) + 1}.01234567.part")


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()

    def interrupted() -> None:
        with atomic_folder(tmp_path / "x") as staging:
            (staging / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["old"]
    with atomic_folder(tmp_path / "x") as staging:
        (staging / "new").touch()
        assert (tmp_path / "x" / "old").exists()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_leaves_its_name_before_its_first_file_goes(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "marker").touch()
    rmtree = shutil.rmtree

    def check_then_remove(path, *arguments, **options):
        assert not (tmp_path / "x").exists()
        rmtree(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", check_then_remove)
    remove_folder(tmp_path / "x")
    remove_folder(tmp_path / "x")  # gone already
    assert os.listdir(tmp_path) == []


def test_a_job_with_a_setting_without_bound_is_the_same_job_again(tmp_path):
    job = {"most": float("inf"), "names": ("a", "b")}
    same_job(tmp_path / "new.json", job)
    (tmp_path / "old.json").write_text('{"most": Infinity, "names": ["a", "b"]}')
    for path in (tmp_path / "new.json", tmp_path / "old.json"):
        same_job(path, job)
        with pytest.raises(ConfigError, match=r"other settings \(most\)"):
            same_job(path, job | {"most": -float("inf")})
    assert "Infinity" not in (tmp_path / "new.json").read_text().replace('"Infinity"', "")


def test_what_the_dead_left_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / "x[1]"
    dead, file, living = of_a_dead_process(target), tmp_path / "y", temporary_beside(target)
    (dead / "deep").mkdir(parents=True)
    living.mkdir()
    of_a_dead_process(file).touch()
    other = of_a_dead_process(tmp_path / "x1")
    other.mkdir()
    remove_abandoned(target)
    remove_abandoned(file)
    assert set(tmp_path.iterdir()) == {living, other}
