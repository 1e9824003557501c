"""One evaluation from files to a table and a JSON document."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, DataError
from ..speech_tokenizer.opened import open_speech_tokenizer
from ..training.devices import require_device
from .benchmarks.config import BenchmarkConfig
from .printing import print_rows

if TYPE_CHECKING:
    from .asr_tts import WordErrors
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
    """Tasks to run (cloze, qa, cascade; asr and tts of --speech); by default those of the files
    given, without asr and tts."""
    speech_decoder: Path | None = None
    """Speech decoder folder: with --whisper, tts is also heard and not only read from its codes."""
    whisper: Path | None = None
    """Whisper folder that listens to the decoder."""
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
    published: BenchmarkConfig = field(default_factory=BenchmarkConfig)

    def __post_init__(self) -> None:
        require_device(self.device)
        own = bool(self.cloze) or self.qa is not None
        if not own and not self.published.benchmark and not self.chosen_tasks():
            raise ConfigError(
                "nothing to evaluate: give --cloze FILE.jsonl, --qa FILE.jsonl, or --benchmark "
                "NAME with --benchmark-path FOLDER"
            )
        spoken = [direction for direction in self.directions if "s" in direction]
        if own and spoken and not self.speech:
            raise ConfigError(
                f"directions {', '.join(spoken)} need codes of the spoken sentences: give "
                "--speech, or --directions t2t alone"
            )
        if (self.speech_decoder is None) != (self.whisper is None):
            raise ConfigError("--speech-decoder and --whisper go together: one speaks, one listens")
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
    from .benchmarks.registry import benchmark_named
    from .benchmarks.run import print_published, run_benchmarks
    from .context import EvaluationContext, Utterances
    from .scoring import LanguageModel
    from .tasks import require_tasks, results_to_json, run_tasks

    chosen = config.chosen_tasks()
    require_tasks(chosen)
    for name, path in zip(config.published.benchmark, config.published.benchmark_path, strict=True):
        benchmark_named(name)
        if not path.exists():
            raise DataError(f"{path} (--benchmark-path of {name}) does not exist")
    tokenizer = None
    if config.speech_tokenizer is not None:
        tokenizer = open_speech_tokenizer(config.speech_tokenizer)
    utterances = Utterances(config.speech) if config.speech and chosen else None
    context = EvaluationContext(
        model=LanguageModel.from_pretrained(
            config.model,
            config.precision,
            config.device,
            config.batch_tokens,
            text_only=not (config.speech or tokenizer or config.published.text_to_token),
        ),
        utterances=utterances,
        speech_tokenizer=tokenizer,
        cloze_paths=config.cloze,
        qa_path=config.qa,
        speech_paths=config.speech,
        decoder_path=config.speech_decoder,
        whisper_path=config.whisper,
        directions=tuple(config.directions),
        limit=config.limit,
    )
    results = list(run_tasks(chosen, context))
    figures: list[Result] = []
    reports: dict[str, Any] = {}
    if config.published.benchmark:
        figures, reports = run_benchmarks(config.published, context, config.speech, config.device)
        results += figures
    print_table(results, str(config.model))
    if reports:
        print_published(figures, reports)
    return {
        "model": str(config.model),
        "vocab_fingerprint": context.model.vocab.fingerprint,
        "tokenizer_fingerprint": utterances and utterances.info.tokenizer_fingerprint,
        "precision": config.precision,
        **({"benchmarks": reports} if reports else {}),
        **results_to_json(results),
    }


def print_table(results: Sequence["Result | WordErrors"], title: str) -> None:
    """Print every figure with n and standard error; the headline rule is marked by a star.

    The rules of a result are measured on the same n items. Word errors have a table of their own.
    """
    from .asr_tts import WordErrors

    shares = [result for result in results if not isinstance(result, WordErrors)]
    errors = [result for result in results if isinstance(result, WordErrors)]
    if shares:
        _print_shares(shares, title)
    if errors:
        _print_errors(errors, title)


def _print_errors(results: Sequence["WordErrors"], title: str) -> None:
    rows = [
        (
            f"{result.task} {result.part}",
            result.direction,
            f"{result.rate:.3f}±{result.stderr:.3f}",
            str(len(result.counts)),
            ", ".join(f"{name} {rate:.3f}" for name, rate in result.more.items()),
        )
        for result in results
    ]
    print_rows(title, ("task", "direction", "word errors", "texts", "read otherwise"), rows)


def _print_shares(results: Sequence["Result"], title: str) -> None:
    """One table for all that have the same rules."""
    for rules in dict.fromkeys(tuple(result.rules) for result in results):
        rows = [
            (
                f"{result.task} {result.part}",
                result.direction,
                _share(result.headline),
                str(result.headline.n),
                *(
                    f"{_share(result.rules[rule])}{'*' if rule == result.rule else ' '}"
                    for rule in rules
                ),
            )
            for result in results
            if tuple(result.rules) == rules
        ]
        print_rows(title, ("task", "direction", "accuracy", "n", *rules), rows)
    print("direction: t text, s speech, context first; ± is one standard error; * headline")


def _share(figure: "Figure") -> str:
    return f"{figure.accuracy:.3f}±{figure.stderr:.3f}"
