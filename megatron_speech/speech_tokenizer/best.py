"""The best model of a run so far, by word error rate, kept in a folder of its own."""

import json
import math
from pathlib import Path

from ..errors import CheckpointError
from ..io.files import read_json, write_json
from ..jobs.folders import atomic_folder
from .model import SpeechTokenizerModel
from .text import AsrText
from .tokenizer import SpeechTokenizer

_RECORD = "best.json"


class BestModel:
    """A folder in the released layout, and `best.json` with the step and its word error rate.

    Of equals the first is kept, so a run that repeats steps after a kill ends with the same model.
    `goes_on` says that the run continues; else what lies in the folder is another run's.
    """

    def __init__(self, folder: Path, set_name: str, text: AsrText, goes_on: bool):
        self.folder, self.set_name, self._text = folder, set_name, text
        self._wer = math.inf
        if not goes_on:
            (folder / _RECORD).unlink(missing_ok=True)
        elif (folder / _RECORD).exists():
            self._wer = _read_wer(folder / _RECORD)

    def offer(self, model: SpeechTokenizerModel, iteration: int, wer: float) -> None:
        """Keep the model after `iteration` steps if none before it read as well."""
        if not wer < self._wer:
            return
        self._wer = wer
        with atomic_folder(self.folder) as staging:
            SpeechTokenizer(model, self._text).save_pretrained(staging)
            record = {"iteration": iteration, "wer": wer, "set": self.set_name}
            write_json(staging / _RECORD, record)


def _read_wer(path: Path) -> float:
    try:
        return float(read_json(path)["wer"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not say how good the best model is ({error!r}); remove the file and the "
            "best is sought among the evaluations to come"
        ) from None
