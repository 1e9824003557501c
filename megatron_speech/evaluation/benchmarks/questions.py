"""Spoken question sets: LlamaQuestions, WebQuestions, TriviaQA, and SD-QA of VoiceBench.

LlamaQuestions (github.com/google-research-datasets/LLAMA1-Test-Set): llama_questions_300.tsv with
Questions, Answer, Wav Filename, and the files beside it. All three also come as Parquet with an
audio column (TwinkStart/llama-questions, speech-web-questions, speech-triavia-qa of the Hugging
Face hub, as UltraEval-Audio reads them) and as CSV with a folder `audios` (OpenAudioBench).
WebQuestions' own webquestions.examples.test.json (utterance, targetValue) and TriviaQA's own JSON
(Data: Question, Answer with Aliases) have no audio: their questions are spoken.

Splits: the 300 questions, WebQuestions' test set, a 1,000-question sample of TriviaQA; which sample
the paper took is not known. Rule of UltraEval-Audio (qa_exact_match.py), by which GLM-4-Voice was
measured elsewhere: the words of an answer follow one another in the reply, whatever the case
(`exist_match`). The paper states none. Ours is `contains`, in matching.py.
"""

import ast
import re
import unicodedata
from pathlib import Path
from typing import Any

from ...errors import DataError
from .items import Question, unique, wrong_layout
from .table_files import SUFFIXES, column, read_table, utterance_of

LAYOUT = (
    "a table (.parquet, .csv, .tsv, .json, .jsonl) of questions (Questions, question, Question, "
    "utterance, prompt) and answers (Answer, answer, answers, targetValue, reference), with audio "
    "in the table or in files that it names"
)
SD_QA_LAYOUT = "VoiceBench's sd-qa/<region>-00000-of-00001.parquet (prompt, reference, audio)"
_QUESTIONS = ("Questions", "question", "Question", "utterance", "prompt")
_ANSWERS = ("Answer", "answer", "answers", "targetValue", "reference")
_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^\s()]+))\)')


def read_questions(path: Path, split: str | None) -> list[Question]:
    """Questions of the one table in a folder; `split` is a word of its name (test, dev).

    Raises:
        DataError: another layout, several tables, or a row without question or answers.
    """
    return unique(path, _questions(path, _table(path, split, LAYOUT), "all"))


def read_sd_qa(path: Path, split: str | None) -> list[Question]:
    """SD-QA; `split` is the region, by default usa. Raises as `read_questions`."""
    inside = path / "sd-qa" if (path / "sd-qa").is_dir() else path
    if not inside.is_dir() or not list(inside.glob("*.parquet")):
        raise wrong_layout(path, SD_QA_LAYOUT)
    region = split or "usa"
    return unique(path, _questions(inside, _table(inside, region, SD_QA_LAYOUT), region))


def _table(path: Path, split: str | None, expected: str) -> Path:
    if path.is_file():
        return path
    found = sorted(p for p in path.glob("**/*") if p.suffix in SUFFIXES) if path.is_dir() else []
    found = [p for p in found if p.name != "dataset_infos.json" and not p.name.startswith(".")]
    named = [p for p in found if (split or "test") in p.stem.lower()]
    chosen = named if named or split else found
    if len(chosen) != 1:
        detail = f"{len(chosen)} tables fit; give one of them as path" if len(chosen) > 1 else ""
        raise wrong_layout(path, expected, detail)
    return chosen[0]


def _questions(path: Path, table: Path, part: str) -> list[Question]:
    rows = read_table(table)
    asked, answered = column(rows, _QUESTIONS), column(rows, _ANSWERS)
    if asked is None or answered is None:
        found = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise DataError(f"{table} has {found}; expected {LAYOUT}")
    items = []
    for number, row in enumerate(rows):
        text, answers = str(row[asked] or "").strip(), answers_of(row[answered])
        if not text or not answers:
            raise DataError(
                f"{table}: row {number} has no {'question' if not text else 'answer'}; "
                "mend or remove it"
            )
        name = str(row.get("QuestionId") or row.get("id") or number)
        said = utterance_of(table.parent, f"{table.stem}_{number}", text, row)
        items.append(Question(id=name, parts=(part,), question=said, answers=answers))
    return items


def answers_of(value: Any) -> tuple[str, ...]:
    """Answers from a text, a list, TriviaQA's aliases or WebQuestions' (description ...)."""
    if isinstance(value, dict):
        aliases = value.get("Aliases") or value.get("aliases") or []
        value = [value.get("Value") or value.get("value"), *aliases]
    if isinstance(value, str):
        described = [a.replace('\\"', '"') or b for a, b in _DESCRIPTION.findall(value)]
        listed = re.fullmatch(r"\[.*\]", value.strip(), re.DOTALL)
        value = described or (_listed(value) if listed else [value])
    texts = [str(one).strip() for one in value or () if one is not None]
    return tuple(dict.fromkeys(text for text in texts if text))


def _listed(value: str) -> list[str]:
    """A list that CSV holds as text: ['Rome', "O'Hare"]."""
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [value]
    return [str(one) for one in found] if isinstance(found, list) else [value]


def exist_match(reply: str, answers: tuple[str, ...]) -> bool:
    """Whether the words of an answer follow one another in the reply, whatever the case.

    Letters, digits and their marks make words; every other sign but a space is one of its own.
    """
    said = words_of(reply)
    return any(_holds(said, words_of(answer)) for answer in answers)


def _holds(said: list[str], wanted: list[str]) -> bool:
    length = len(wanted)
    return any(said[n : n + length] == wanted for n in range(len(said) - length + 1))


def words_of(text: str) -> list[str]:
    """Words and signs of a text in small letters, accents taken apart (NFD)."""
    words: list[str] = []
    joined = False
    for letter in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(letter)[0]
        if kind in "LNM":
            if joined:
                words[-1] += letter
            else:
                words.append(letter)
            joined = True
        else:
            joined = False
            if kind not in "ZC":
                words.append(letter)
    return [word.lower() for word in words]
