"""One evaluation from files to a table and a JSON document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from ..speech_tokenizer.opened import open_speech_tokenizer

if TYPE_CHECKING:
    from .context import Figure, Result

Direction = Literal["t2t", "s2t", "s2s", "t2s"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate, on which items."""

    model: Path
    """Exported Hugging Face folder with its speech-text vocabulary; without --speech, a base model
    will do."""
    output: Path
    """JSON file for the results."""
    speech: tuple[Path, ...] = ()
    """Code shards (or folders of them) of the spoken sentences and questions; --directions t2t
    needs none."""
    speech_tokenizer: Path | None = None
    """Speech tokenizer folder; needed to read codes as text (qa s2s, cascade)."""
    cloze: tuple[Path, ...] = ()
    """Cloze items: id, task, context, right, wrong; one JSON object a line. The tasks of several
    files have names of their own."""
    qa: Path | None = None
    """Questions: id, question, answers; one JSON object a line."""
    tasks: tuple[str, ...] = ()
    """Tasks to run; by default all that the files given allow."""
    directions: tuple[Direction, ...] = ("t2t", "s2t", "s2s", "t2s")
    """Modalities of context and ending: text or speech, to text or speech."""
    limit: int | None = None
    """Items of each part, from the start of the file."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the language model."""
    device: str = "cpu"
    """Torch device."""
    batch_tokens: int = 8192
    """Padded tokens of one forward pass."""

    def __post_init__(self) -> None:
        if not self.cloze and self.qa is None:
            raise ConfigError("nothing to evaluate: give --cloze FILE.jsonl or --qa FILE.jsonl")
        spoken = [direction for direction in self.directions if "s" in direction]
        if spoken and not self.speech:
            raise ConfigError(
                f"directions {', '.join(spoken)} need codes of the spoken sentences: give "
                "--speech, or --directions t2t alone"
            )
        for name in ("limit", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give >= 1")

    def chosen_tasks(self) -> tuple[str, ...]:
        """The tasks named, or those that the files given allow."""
        possible = {
            "cloze": bool(self.cloze),
            "qa": self.qa is not None,
            "cascade": bool(self.cloze and self.speech and self.speech_tokenizer),
        }
        return self.tasks or tuple(name for name, can in possible.items() if can)


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Load the parts, refuse those that do not fit together, run the tasks, print the table.

    Raises:
        CheckpointError: the model folder is incomplete.
        DataError: items or codes that are missing or belong to another speech tokenizer.
    """
    from .context import EvaluationContext, Utterances
    from .scoring import LanguageModel
    from .tasks import results_to_json, run_tasks

    tokenizer = None
    if config.speech_tokenizer is not None:
        tokenizer = open_speech_tokenizer(config.speech_tokenizer)
    utterances = Utterances(config.speech) if config.speech else None
    context = EvaluationContext(
        model=LanguageModel.from_pretrained(
            config.model,
            config.precision,
            config.device,
            config.batch_tokens,
            text_only=not config.speech,
        ),
        utterances=utterances,
        speech_tokenizer=tokenizer,
        cloze_paths=config.cloze,
        qa_path=config.qa,
        directions=tuple(config.directions),
        limit=config.limit,
    )
    results = run_tasks(config.chosen_tasks(), context)
    print_table(results, str(config.model))
    return {
        "model": str(config.model),
        "vocab_fingerprint": context.model.vocab.fingerprint,
        "tokenizer_fingerprint": utterances and utterances.info.tokenizer_fingerprint,
        "precision": config.precision,
        **results_to_json(results),
    }


def print_table(results: Sequence["Result"], title: str) -> None:
    """Print every figure with n and standard error; the headline rule is marked by a star.

    The rules of a result are measured on the same n items.
    """
    from rich.console import Console
    from rich.table import Table

    rules = list(dict.fromkeys(rule for result in results for rule in result.rules))
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False)  # 80 columns do
    table.add_column("task")
    table.add_column("direction")
    table.add_column("accuracy", justify="right")
    table.add_column("n", justify="right")
    for rule in rules:
        table.add_column(rule, justify="right")
    for result in results:
        figure = result.headline
        shown = [
            f"{_share(result.rules[rule])}{'*' if rule == result.rule else ' '}"
            if rule in result.rules
            else ""
            for rule in rules
        ]
        table.add_row(
            f"{result.task} {result.part}",
            result.direction,
            _share(figure),
            str(figure.n),
            *shown,
        )
    console = Console()
    console.print(table)
    console.print("direction: t text, s speech, context first; ± is one standard error; * headline")


def _share(figure: "Figure") -> str:
    return f"{figure.accuracy:.3f}±{figure.stderr:.3f}"
