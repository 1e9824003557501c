"""The evaluation tool from its flags to its file."""

import json
import shutil
from dataclasses import replace

import pytest

from megatron_speech.errors import ConfigError, DataError
from megatron_speech.evaluation.context import Figure, Result
from megatron_speech.evaluation.run import print_table
from megatron_speech.speech_tokenizer import tokenizer as speech_tokenizer_room
from megatron_speech.text.vocab import SpeechTextVocab
from tests.evaluation.fakes import SENTENCES, TableTranscriber, make_model, make_vocab, write_speech
from tools import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    make_model(folder / "model", make_vocab(folder))
    write_speech(folder / "codes" / "shard.parquet", SENTENCES)
    item = {"id": "a", "task": "topic", "context": SENTENCES[:2], "right": SENTENCES[2]}
    (folder / "cloze.jsonl").write_text(json.dumps(item | {"wrong": SENTENCES[3]}) + "\n")
    question = {"id": "q", "question": SENTENCES[4], "answers": ["Tarn"]}
    (folder / "qa.jsonl").write_text(json.dumps(question) + "\n")
    return folder


def arguments(folder, *more):
    given = {"model": "model", "cloze": "cloze.jsonl", "speech": "codes", "output": "out.json"}
    return [part for k, v in given.items() for part in (f"--{k}", str(folder / v))] + list(more)


def with_tokenizer(monkeypatch, fingerprint):
    class Loaded:
        @staticmethod
        def from_pretrained(path, device):
            return TableTranscriber(fingerprint)

    monkeypatch.setattr(speech_tokenizer_room, "SpeechTokenizer", Loaded, raising=False)


def test_all_tasks(folder, monkeypatch, capsys):
    with_tokenizer(monkeypatch, "f" * 16)
    more = ["--qa", str(folder / "qa.jsonl"), "--speech-tokenizer", str(folder)]
    results = evaluate.main(arguments(folder, *more))
    assert results == json.loads((folder / "out.json").read_text())
    assert set(results["cloze"]["topic"]) == {"t2t", "s2t", "s2s", "t2s"}
    assert set(results["qa"]["world"]) == {"t2t", "s2t", "s2s"}
    figure = results["cascade"]["topic"]["s2t"]
    assert (figure["n"], figure["rule"]) == (1, "total")
    assert set(figure["rules"]) == {"total", "per_token", "pmi"}
    assert "cloze topic" in capsys.readouterr().out


def test_every_share_in_the_table_has_its_standard_error(capsys):
    """In a terminal of 80 columns."""
    rules = {"total": Figure(accuracy=0.5, n=1871), "per_token": Figure(accuracy=0.75, n=1871),
             "pmi": Figure(accuracy=0.25, n=1871)}  # fmt: skip
    result = Result(task="cascade", part="topic", direction="s2t", headline=rules["pmi"],
                    rule="pmi", rules=rules)  # fmt: skip
    print_table([result], "runs/model")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "cascade" in line]
    assert line.split() == [
        "cascade", "topic", "s2t", "0.250±0.010", "1871", "0.500±0.012", "0.750±0.010",
        "0.250±0.010*",
    ]  # fmt: skip


def test_without_a_tokenizer_only_cloze_runs(folder):
    results = evaluate.main(arguments(folder, "--directions", "s2t", "t2t"))
    assert set(results["cloze"]["topic"]) == {"t2t", "s2t"}
    assert "cascade" not in results


def test_a_base_model_does_the_items_as_text(folder, tmp_path):
    """Without speech there need be no codes in the model, nor a vocabulary of ours."""
    shutil.copytree(folder / "model", tmp_path / "base")
    (tmp_path / "base" / "speech_text_vocab.json").unlink()
    flags = ["--cloze", str(folder / "cloze.jsonl"), "--output", str(tmp_path / "out.json")]
    flags += ["--model", str(tmp_path / "base"), "--directions", "t2t"]
    results = evaluate.main(flags)
    assert results["cloze"] == evaluate.main(arguments(folder, "--directions", "t2t"))["cloze"]
    assert results["tokenizer_fingerprint"] is None


def test_spoken_directions_need_speech(folder, tmp_path):
    flags = ["--cloze", str(folder / "cloze.jsonl"), "--output", str(tmp_path / "out.json")]
    with pytest.raises(ConfigError, match="directions s2t, s2s, t2s need codes"):
        evaluate.main([*flags, "--model", str(folder / "model")])
    flags += ["--model", str(folder / "model"), "--directions", "t2t", "--tasks", "cascade"]
    with pytest.raises(ConfigError, match="give --speech"):
        evaluate.main(flags)


def test_another_speech_tokenizer_is_refused(folder, monkeypatch):
    with_tokenizer(monkeypatch, "0" * 16)
    with pytest.raises(DataError, match="tokenize the sentences again"):
        evaluate.main(arguments(folder, "--speech-tokenizer", str(folder)))


def test_a_model_of_another_speech_tokenizer_is_refused(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    vocab = SpeechTextVocab.from_pretrained(tmp_path / "model")
    for name, refused in (("f" * 16, False), ("0" * 16, True)):
        replace(vocab, speech_tokenizer=name).save_pretrained(tmp_path / "model")
        flags = [*arguments(folder), "--model", str(tmp_path / "model"), "--directions", "t2t"]
        if refused:
            with pytest.raises(DataError, match=f"the model was .*{'0' * 16}"):
                evaluate.main(flags)
        else:
            evaluate.main(flags)


@pytest.mark.parametrize(
    ("task", "message"), [("chess", "no evaluation task 'chess'"), ("qa", "give --qa")]
)
def test_tasks_that_cannot_run(folder, task, message):
    with pytest.raises(ConfigError, match=message):
        evaluate.main(arguments(folder, "--tasks", task))


@pytest.mark.parametrize(
    ("dropped", "more", "message"),
    [("--cloze", [], "nothing to evaluate"), ("", ["--limit", "0"], "--limit is 0")],
)
def test_settings_that_cannot_work(folder, dropped, more, message, capsys):
    flags = arguments(folder, *more)
    if dropped:
        at = flags.index(dropped)
        del flags[at : at + 2]
    with pytest.raises((ConfigError, SystemExit)) as refusal:
        evaluate.main(flags)
    assert message in capsys.readouterr().err + str(refusal.value)


def test_unknown_flag(folder, capsys):
    with pytest.raises(SystemExit) as exit_info:
        evaluate.main(arguments(folder, "--direction", "s2t"))
    assert exit_info.value.code == 2
    assert "--directions" in capsys.readouterr().err


def test_a_benchmark_by_name(folder, tmp_path, capsys):
    """Without --speech or items of one's own; figures, what is in print and what was compared."""
    header = "InputStoryid," + ",".join(f"InputSentence{n}" for n in range(1, 5))
    header += ",RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding"
    row = ",".join(["a", *SENTENCES[:4], *SENTENCES[2:4], "1"])
    (tmp_path / "test.csv").write_text(f"{header}\n{row}\n")
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": SENTENCES[0]}) + "\n")
    flags = ["--model", str(folder / "model"), "--output", str(tmp_path / "out.json")]
    flags += ["--benchmark", "storycloze", "--benchmark-path", str(tmp_path / "test.csv")]
    results = evaluate.main([*flags, "--contamination-against", str(tmp_path / "train.jsonl")])
    assert results == json.loads((tmp_path / "out.json").read_text())
    assert set(results["storycloze"]["all"]) == {"t2t"}
    report = results["benchmarks"]["storycloze"]
    assert report["contamination"]["seen"] == 1
    assert set(report["not_evaluated"]) == {"s2t", "s2s", "t2s"}
    out = capsys.readouterr().out
    assert "storycloze all" in out
    assert "SIMS Qwen 7.6B" in out  # the row in print of this direction
    assert "72.5 " in out
    assert "76.3" not in out  # of a direction that was not evaluated
    assert "1 of 1 items with text occur in 1 training documents" in out


def test_word_errors_of_the_model_itself(folder, monkeypatch, tmp_path, capsys):
    with_tokenizer(monkeypatch, "f" * 16)
    flags = ["--model", str(folder / "model"), "--output", str(tmp_path / "out.json")]
    flags += ["--speech", str(folder / "codes"), "--speech-tokenizer", str(folder)]
    results = evaluate.main([*flags, "--tasks", "asr", "tts", "--limit", "2"])
    assert results["asr"]["en"]["s2t"]["texts"] == 2
    assert results["tts"]["en"]["t2s"]["reading"] == 0.0
    assert "word errors" in capsys.readouterr().out
