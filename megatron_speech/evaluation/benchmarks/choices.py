"""Spoken multiple choice: SpeechMMLU, and MMSU and OpenBookQA of VoiceBench.

SpeechMMLU (github.com/XiaomiMiMo/MiMo-Audio-Eval; XiaomiMiMo/SpeechMMLU of the Hugging Face hub): a
table for each subject with id, subject, question_text, question_audio, voice_id, answer (0 to 3);
few_shot_prompts.json with a beginning and five solved examples a subject; audio/<subject>/prompts/
with the same spoken by each voice. Rule there: after five examples the model goes on, and the first
"option a" to "option d" counts. Ours needs no generation: the likeliest of "Option A" to "Option D"
after the same examples counts, in their spelling.

VoiceBench (arXiv 2410.17196): mmsu/<field>-*.parquet and openbookqa/test-*.parquet with prompt (the
options are in it), reference (A to D) and audio. Rule there: a letter is looked for in a chat
model's reply, and where there is none one is drawn. Ours: the likeliest of "The answer is A." to D.
Its open-ended sets ask for a judge and a chat model: tools/evaluate_chat.py.
"""

import re
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...io.files import read_json_object
from .items import Choice, Shot, Utterance, unique, wrong_layout
from .table_files import SUFFIXES, read_table, utterance_of

MMLU_LAYOUT = (
    "few_shot_prompts.json and a table for each subject (.jsonl or .parquet) with question_text, "
    "question_audio, voice_id, answer (SpeechMMLU)"
)
VOICEBENCH_LAYOUT = (
    "mmsu/*.parquet or openbookqa/*.parquet with prompt, reference, audio (VoiceBench)"
)
LETTERS = "ABCD"
_NEEDED = ("question_text", "voice_id", "answer", "subject")
_OPTION = re.compile(r"(option\s*)[abcd]", re.IGNORECASE)


def read_speech_mmlu(path: Path, split: str | None) -> list[Choice]:
    """Every subject, with its solved examples; parts `all` and each subject.

    Raises:
        DataError: another layout.
    """
    prompts = path / "few_shot_prompts.json"
    tables = [p for p in sorted(path.glob("**/*")) if p.suffix in SUFFIXES and p != prompts]
    tables = [p for p in tables if p.suffix in (".jsonl", ".parquet")]
    if not prompts.is_file() or not tables:
        raise wrong_layout(path, MMLU_LAYOUT)
    subjects = read_json_object(prompts)
    items: list[Choice] = []
    for table in tables:
        for number, row in enumerate(read_table(table)):
            lacking = [name for name in _NEEDED if row.get(name) is None]
            subject = str(row.get("subject"))
            if lacking or subject not in subjects:
                wrong = ", ".join(lacking) or f"examples of {subject!r} in few_shot_prompts.json"
                raise DataError(f"{table}: row {number} has no {wrong}; expected {MMLU_LAYOUT}")
            try:
                items.append(_mmlu_item(path, row, subjects[subject], f"{subject}_{number}"))
            except (KeyError, TypeError):
                raise DataError(
                    f"{prompts}: {subject!r} needs `beginning`, and `examples` of question and "
                    "answer, as SpeechMMLU has them"
                ) from None
    return unique(path, items)


def _mmlu_item(path: Path, row: dict[str, Any], prompts: Any, name: str) -> Choice:
    subject, voice = str(row["subject"]), str(row["voice_id"])
    spoken = path / "audio" / subject / "prompts" / f"{subject}_{voice}"

    def said(stem: str, text: str) -> Utterance:
        audio = spoken / f"{stem}.mp3"
        key = f"{subject}_{voice}/{stem}"
        return Utterance(key=key, text=text, audio=audio if audio.is_file() else None)

    shots = tuple(
        Shot(
            question=said(f"{subject}_{n}_question_and_choices", str(example["question"])),
            answer=str(example["answer"]),
        )
        for n, example in enumerate(prompts["examples"])
    )
    begin = shots[0].answer if shots and _OPTION.search(shots[0].answer) else "Option A"
    options = tuple(_OPTION.sub(rf"\g<1>{letter}", begin) for letter in LETTERS)
    return Choice(
        id=str(row.get("id") or name),
        parts=("all", subject),
        opening=said(f"{subject}_beginning", str(prompts["beginning"])),
        shots=shots,
        question=utterance_of(path, f"question/{row.get('id') or name}", row["question_text"], row),
        options=options,
        right=_right(row["answer"], name),
    )


def read_voicebench(path: Path, split: str | None) -> list[Choice]:
    """MMSU (a part for each field) and OpenBookQA, those that are there.

    Raises:
        DataError: another layout.
    """
    items: list[Choice] = []
    for kind in ("mmsu", "openbookqa"):
        folder = path if path.name == kind else path / kind
        for table in sorted(folder.glob("*.parquet")):
            field = f"{kind} {table.name.split('-')[0]}" if kind == "mmsu" else None
            for number, row in enumerate(read_table(table)):
                if row.get("prompt") is None or row.get("reference") is None:
                    raise DataError(f"{table}: row {number} is not {VOICEBENCH_LAYOUT}")
                key = f"{kind}/{table.stem}_{number}"
                items.append(
                    Choice(
                        id=key,
                        parts=(kind, field) if field else (kind,),
                        question=utterance_of(folder, key, str(row["prompt"]), row),
                        options=tuple(f"The answer is {letter}." for letter in LETTERS),
                        right=_right(row["reference"], key),
                    )
                )
    if not items:
        raise wrong_layout(path, VOICEBENCH_LAYOUT)
    return items


def _right(answer: Any, name: str) -> int:
    text = str(answer).strip().upper()
    found = LETTERS.find(text) if text and text in LETTERS else int(text) if text.isdigit() else -1
    if not 0 <= found < len(LETTERS):
        raise DataError(f"item {name}: the answer is {answer!r}, expected A to D or 0 to 3")
    return found
