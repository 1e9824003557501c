"""Settings of the dialogue datasets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, require_within
from ..text_to_token.engines import EngineConfig
from ..text_to_token.gates import GateConfig
from .dialogues import SpokenTurnsConfig
from .template import Modality, Mode, TemplateConfig

DatasetMode = Literal["text", "direct", "guided", "streaming", "streaming_text", "streaming_speech"]


def mode_of(dataset: DatasetMode) -> Mode:
    """How its answers are written; the last two differ from streaming in their loss only."""
    return "streaming" if dataset in ("streaming_text", "streaming_speech") else dataset


@dataclass(frozen=True, kw_only=True)
class DialoguesConfig:
    """Text dialogues to datasets of spoken ones, one for each mode."""

    input: tuple[str, ...]
    """Dialogues: .jsonl (.gz, .zst), folders or patterns; one object with `messages` a line."""
    vocab: Path
    """Vocabulary folder of the language model, with marks of turns."""
    output_prefix: Path
    """Datasets are <output-prefix>-<mode>, with questions in text <output-prefix>-<mode>-from-text.
    """
    modes: tuple[DatasetMode, ...] = ("text", "direct", "guided", "streaming")
    """Ways of answering. streaming_text and streaming_speech are streaming with the loss on the one
    or the other, which the authors' later model trains for different numbers of epochs."""
    questions: tuple[Modality, ...] = ("speech",)
    """What the user's turns are; with both, each dialogue stands in both kinds of datasets."""
    model: Path | None = None
    """Exported text-to-token model, for the turns that no --user-codes or --assistant-codes hold.
    """
    like: Path | None = None
    """A code shard (or folder of them) of the speech that model was trained on."""
    user_codes: tuple[Path, ...] = ()
    """Code shards of recorded questions, by id `<dialogue>/<turn>`, turns counted from 000."""
    assistant_codes: tuple[Path, ...] = ()
    """Code shards of recorded answers, by the same ids."""
    assistant_voices: tuple[str, ...] = ()
    """Voices of the answers; those of --voices if none are given."""
    work: Path | None = None
    """Folder for texts and codes; <output-prefix>.work if not given."""
    seq_length: int | None = None
    """Longest document in tokens: a dialogue ends before the exchange that does not fit."""
    seed: int = 0
    """Of the codes that are drawn (--temperature) and the voices."""
    requests_per_shard: int = 20_000
    """Most turns in one request shard."""
    workers: int = 1
    """Processes that generate codes."""
    template: TemplateConfig = field(default_factory=TemplateConfig)
    turns: SpokenTurnsConfig = field(default_factory=SpokenTurnsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    gates: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        self.engine.require_here()
        if not self.modes or not self.questions:
            raise ConfigError("--modes and --questions need at least one value each")
        if len(set(self.modes)) < len(self.modes) or len(set(self.questions)) < len(self.questions):
            raise ConfigError("--modes and --questions name a value twice")
        if (self.model is None) != (self.like is None):
            raise ConfigError("--model and --like belong together: the speech that it learned from")
        if self.generated_roles and self.model is None:
            raise ConfigError(
                f"nothing speaks the turns of {' and '.join(self.generated_roles)}: give --model "
                "and --like, or recordings as --user-codes and --assistant-codes"
            )
        require_within(self, 1, "requests_per_shard", "seq_length")

    @property
    def generated_roles(self) -> tuple[str, ...]:
        """Whose turns a text-to-token model speaks, but for those that recordings hold."""
        wanted = (
            ("user", "speech" in self.questions),
            ("assistant", set(self.modes) != {"text"}),
        )
        return tuple(
            role
            for role, needed in wanted
            if needed and (self.model is not None or not self.recordings[role])
        )

    @property
    def recordings(self) -> dict[str, tuple[Path, ...]]:
        """Code shards of recorded turns, by role."""
        return {"user": self.user_codes, "assistant": self.assistant_codes}

    @property
    def work_folder(self) -> Path:
        """Where texts and codes lie."""
        return self.work or self.output_prefix.with_name(self.output_prefix.name + ".work")
