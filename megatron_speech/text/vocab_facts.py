"""What lies beside a tokenizer: the facts of a speech-text vocabulary, the size of a model."""

from pathlib import Path
from typing import Any

from ..errors import VocabularyError
from ..io.files import read_json_object

FACTS_FILE = "speech_text_vocab.json"


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a vocabulary folder, of the types they have to have.

    Raises:
        VocabularyError: the folder is no speech-text vocabulary, or its facts are damaged.
        DataError: the file is no JSON object with all of them.
    """
    path = folder / FACTS_FILE
    if not path.exists():
        raise VocabularyError(
            f"{folder} is no speech-text vocabulary: {FACTS_FILE} is missing; "
            "make one with tools/build_vocab.py"
        )
    facts = read_json_object(
        path, num_codes=int, code_offset=int, specials=dict, padded_size=int, added=list
    )
    ids = [*facts["specials"].values(), facts.get("base_rows", 0)]
    if not all(isinstance(number, int) for number in ids) or not all(
        isinstance(token, str) for token in facts["added"]
    ):
        raise VocabularyError(
            f"{path} is damaged: specials are ids by token, added is a list of tokens, base_rows a "
            "number; restore it"
        )
    return facts


def speech_tokenizer_of(text_tokenizer: str | Path) -> str | None:
    """Whose codes a vocabulary holds already, if it says so."""
    facts = Path(text_tokenizer) / FACTS_FILE
    return read_json_object(facts).get("speech_tokenizer") if facts.is_file() else None


def rows_of_model(text_tokenizer: str | Path) -> int:
    """Embedding rows of the model a tokenizer folder belongs to, 0 if it holds no model."""
    config = Path(text_tokenizer) / "config.json"
    if not config.is_file():
        return 0
    settings = read_json_object(config)
    rows = settings.get("padded_vocab_size") or settings.get("vocab_size") or 0
    if not isinstance(rows, int):
        raise VocabularyError(f"{config}: the size of the vocabulary is {rows!r}, no number")
    return rows
