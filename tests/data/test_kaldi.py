"""Kaldi's folders as they lie: nothing in them is run."""

from megatron_speech.data.recording import Recording
from megatron_speech.data.recordings import find_recordings
from megatron_speech.io.rejected import count_reasons
from tests.data.test_corpus_layouts import kaldi, write_sound


def test_kaldi_folders_run_nothing(tmp_path):
    audio = write_sound(tmp_path / "call.wav", 4.0)
    touched = tmp_path / "touched"
    folder = kaldi(
        tmp_path / "data/train",
        wav_scp=f"c1 {audio}\nc2 touch {touched} |\nc3 ../../call.wav\nc4 sound.ark:17\n",
        segments="c1-a c1 0.5 1.5\nc1-b c1 2 -1\nc2-a c2 0 1\nc3-a c3 3 2\n"
        "c5-a c5 0 1\nc4-a c4 0 1\nc6-a\n",
        text="c1-a hello there\nc1-b good  bye\nc9 nobody\n",
        utt2spk="c1-a anna\nc1-b bert\n",
        utt2lang="c1-a en\n",
    )
    found = find_recordings([folder])
    assert list(found.listed) == [
        Recording(
            id="c1-a",
            path=str(audio),
            text="hello there",
            speaker="anna",
            language="en",
            duration_s=1.0,
            start_s=0.5,
            length_s=1.0,
        ),
        Recording(id="c1-b", path=str(audio), text="good  bye", speaker="bert", start_s=2.0),
    ]
    assert {item.id: item.reason for item in found.rejected} == {
        "c2-a": "shell_pipe",
        "c3-a": "bad_duration",
        "c4-a": "kaldi_archive",
        "c5-a": "no_audio",
        "c6-a": "no_audio",
        "c9": "no_audio",
    }
    assert not touched.exists()
    above = find_recordings([tmp_path / "data"])
    assert [r.id for r in above.listed] == ["train/c1-a", "train/c1-b"]
    whole = kaldi(tmp_path / "whole", wav_scp="c3 ../call.wav\n", text="c3 all of it\n")
    assert [(r.id, r.text, r.length_s) for r in find_recordings([whole]).listed] == [
        ("c3", "all of it", None)
    ]


def test_a_kaldi_folder_is_known_by_what_is_read_of_it(tmp_path):
    audio = write_sound(tmp_path / "c.wav", 1.0)
    folder = kaldi(tmp_path / "k", wav_scp=f"c {audio}\n", text="c all of it\n")
    before = find_recordings([folder]).fingerprint
    (folder / "spk2utt").write_text("anna c\n")
    assert find_recordings([folder]).fingerprint == before
    (folder / "text").write_text("c other words\n")
    changed = find_recordings([folder]).fingerprint
    (folder / "utt2spk").write_text("c anna\n")
    assert len({before, changed, find_recordings([folder]).fingerprint}) == 3


def test_a_bad_line_of_kaldi_segments_is_set_aside_once(tmp_path):
    audio = write_sound(tmp_path / "c.wav", 3)
    lines = "c-a c 0 1\nc-a c 1 2\n"
    folder = kaldi(tmp_path / "k", wav_scp=f"c {audio}\n", segments=lines, text="c-a hi\n")
    found = find_recordings([folder])
    assert [r.id for r in found.listed] == ["c-a"]
    assert count_reasons(found.rejected) == {"duplicate_id": 1}
