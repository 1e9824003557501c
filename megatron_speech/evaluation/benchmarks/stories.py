"""Story cloze: as text, as TWIST's audio, and as the multi-speaker audio of slamkit.

StoryCloze (Mostafazadeh et al. 2016; the test set of spring 2016 is what papers report) is CSV with
InputStoryid, InputSentence1..4, RandomFifthSentenceQuiz1, 2 and AnswerRightEnding; Hugging Face's
copies call them story_id, input_sentence_1..4, sentence_quiz1, 2 and answer_right_ending.

TWIST (arXiv 2305.13009, github.com/slp-rl/SpokenStoryCloze) speaks that test set by one voice, a
whole story to a file: a flat folder of `<number>_<story>_correct.wav` and
`<number>_<story>_incorrect.wav`, right at an even number, wrong at the next one. In tStoryCloze the
wrong ending is that of another story. Rule there and in slamkit (metric/modelling_metric.py): the
right file has the higher log-likelihood, averaged over its tokens; equal ones count half.

The multi-speaker sets (slamkit's metric/cross_modal_metric.py) have `<story>_mutual`,
`<story>_correct` and `<story>_incorrect`, each .wav with its .txt, in a folder or one level below.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from .items import Pair, Utterance, unique, wrong_layout
from .table_files import SUFFIXES, read_table

TEXT_LAYOUT = (
    "a CSV file, or a folder with one, with the columns InputStoryid, InputSentence1 to 4, "
    "RandomFifthSentenceQuiz1 and 2, AnswerRightEnding (the 2016 test set), or Hugging Face's "
    "story_id, input_sentence_1 ..."
)
SPOKEN_LAYOUT = (
    "<number>_<story>_correct.wav and <number>_<story>_incorrect.wav of TWIST's spoken sets, or "
    "<story>_mutual, _correct and _incorrect (.wav, .txt) of the multi-speaker ones"
)
_COLUMNS = (
    ("InputStoryid", "InputSentence{}", "RandomFifthSentenceQuiz{}", "AnswerRightEnding"),
    ("story_id", "input_sentence_{}", "sentence_quiz{}", "answer_right_ending"),
)


def read_stories(path: Path, split: str | None) -> list[Pair]:
    """The text StoryCloze; `split` is a word of the file's name (test, val), by default test.

    Raises:
        DataError: another layout, or a row without its answer.
    """
    file = path if path.is_file() else _file_of(path, split or "test")
    rows = read_table(file)
    named = next((names for names in _COLUMNS if rows and names[0] in rows[0]), None)
    if named is None:
        found = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise DataError(f"{file} has {found}; expected {TEXT_LAYOUT}")
    return unique(file, [_story(file, row, *named) for row in rows])


def _file_of(folder: Path, split: str) -> Path:
    inside = sorted(folder.glob("**/*")) if folder.is_dir() else []
    files = [file for file in inside if file.suffix in SUFFIXES]
    # the set itself is called cloze_test: cloze_test_val__spring2016 ... is no test
    chosen = [p for p in files if split in p.name.lower().replace("cloze_test", "")] or files
    if len(chosen) != 1:
        detail = f"{len(chosen)} files fit; name one of them" if chosen else ""
        raise wrong_layout(folder, TEXT_LAYOUT, detail)
    return chosen[0]


def _story(file: Path, row: dict[str, Any], name: str, begin: str, end: str, answer: str) -> Pair:
    story = str(row[name])
    right = str(row.get(answer)).strip()
    if right not in ("1", "2"):
        raise DataError(
            f"{file}: story {story!r} has {answer} {right!r}, expected 1 or 2; the sets of 2018 "
            "come without answers: take the one of spring 2016"
        )
    try:
        beginning = [str(row[begin.format(n)]).strip() for n in range(1, 5)]
        endings = [str(row[end.format(n)]).strip() for n in (1, 2)]
    except KeyError as error:
        raise DataError(f"{file} has no column {error}; expected {TEXT_LAYOUT}") from None
    said = [Utterance(key=f"{story}_{n}", text=text) for n, text in enumerate(beginning, 1)]
    ends = [Utterance(key=f"{story}_quiz{n}", text=text) for n, text in enumerate(endings, 1)]
    one, two = ends if right == "1" else ends[::-1]
    return Pair(id=story, parts=("all",), tally=story, context=tuple(said), right=one, wrong=two)


def read_spoken_stories(path: Path, split: str | None) -> list[Pair]:
    """A spoken set in either layout; there is one split.

    Raises:
        DataError: another layout, or a file without its partner.
    """
    files = sorted(path.glob("**/*.wav")) if path.is_dir() else []
    begun = [file for file in files if file.stem.endswith("_mutual")]
    if begun:
        return unique(path, [_spoken_pair(path, file) for file in begun])
    whole = {file.stem: file for file in files if file.stem.endswith("correct")}
    right = [stem for stem in whole if stem.endswith("_correct")]
    if not right:
        raise wrong_layout(path, SPOKEN_LAYOUT)
    return unique(path, [_twist_pair(path, whole, s) for s in sorted(right, key=_in_numbers)])


def _in_numbers(stem: str) -> tuple[int, str]:
    number = stem.split("_")[0]
    return (int(number) if number.isdigit() else 0), stem


def _twist_pair(path: Path, files: dict[str, Path], right: str) -> Pair:
    number, _, story = right.removesuffix("_correct").partition("_")
    wrong = f"{int(number) + 1}_{story}_incorrect" if number.isdigit() and story else ""
    if wrong not in files:
        raise wrong_layout(path, SPOKEN_LAYOUT, f"{right}.wav has no {wrong or 'partner'}.wav")
    said = [Utterance(key=stem, audio=files[stem]) for stem in (right, wrong)]
    return Pair(id=right, parts=("all",), tally=right, right=said[0], wrong=said[1])


def _spoken_pair(path: Path, begin: Path) -> Pair:
    stem = str(begin.relative_to(path).with_suffix("")).removesuffix("_mutual")

    def said(part: str) -> Utterance:
        audio, text = path / f"{stem}_{part}.wav", path / f"{stem}_{part}.txt"
        if not audio.is_file():
            raise wrong_layout(path, SPOKEN_LAYOUT, f"{audio.name} is missing")
        try:
            words = text.read_text(encoding="utf-8").strip() if text.is_file() else None
        except UnicodeDecodeError as error:
            raise DataError(f"{text} is not UTF-8: {error}") from None
        return Utterance(key=f"{stem}_{part}", text=words, audio=audio)

    parts: Sequence[Utterance] = [said(part) for part in ("mutual", "correct", "incorrect")]
    return Pair(
        id=stem, parts=("all",), tally=stem, context=(parts[0],), right=parts[1], wrong=parts[2]
    )
