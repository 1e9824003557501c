"""What the tests of published benchmarks share: one evaluated, and files as they lie on disks."""

import csv

import pytest

from megatron_speech.evaluation.benchmarks.config import BenchmarkConfig
from megatron_speech.evaluation.benchmarks.run import run_benchmarks
from megatron_speech.evaluation.context import EvaluationContext
from tests.evaluation.unigram import SeenTokenizer, unigram, write_wav

ALL = ("t2t", "s2t", "s2s", "t2s")


@pytest.fixture
def run(vocab_folder):
    """Evaluate one benchmark; results by (part, direction), and its report."""

    def evaluate(name, path, *, replies=None, tokenizer=True, speech=(), directions=ALL, **given):
        context = EvaluationContext(
            model=unigram(vocab_folder, replies),
            utterances=None,
            speech_tokenizer=SeenTokenizer() if tokenizer else None,
            directions=directions,
            limit=given.pop("limit", None),
        )
        config = BenchmarkConfig(benchmark=(name,), benchmark_path=(path,), **given)
        results, reports = run_benchmarks(config, context, speech, "cpu")
        assert {result.task for result in results} == {name}
        return {(r.part, r.direction): r for r in results}, reports[name]

    return evaluate


def shares(result):
    return {rule: figure.accuracy for rule, figure in result.rules.items()}


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def wav_bytes(tmp_path, codes):
    return write_wav(tmp_path / "scratch.wav", codes).read_bytes()


def story_rows(right="1"):
    row = {f"InputSentence{n}": f"Sentence {n} of it." for n in range(1, 5)}
    return [
        {"InputStoryid": "a", **row, "RandomFifthSentenceQuiz1": "bad cab",
         "RandomFifthSentenceQuiz2": "wow you", "AnswerRightEnding": right},
        {"InputStoryid": "b", **row, "RandomFifthSentenceQuiz1": "bad cab",
         "RandomFifthSentenceQuiz2": "wow you", "AnswerRightEnding": "2"},
    ]  # fmt: skip
