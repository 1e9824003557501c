"""One run of the demo on real models: what it was asked for, and where its files lie."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from examples.quickstart.runner import Demo, Done
from examples.real.sizes import RealSize
from megatron_speech.errors import ConfigError
from megatron_speech.io.files import fingerprint_of

NARRATOR, MANY_VOICES, NEW_VOICE = "narrator", "many-voices", "new-voice"
"""Test sets of espeak-ng: the one voice that text is turned into, the many others of the speech
tokenizer's training, and one that is not among them."""
SHORT = "short"
"""Speech of the narrator, short windows for the text-to-token model and pairs."""
VOICES_TRAINING = "many-voices-training"
"""Speech of the many voices, which the tokenizer alone is trained on; the narrator's is `train`."""
NEURAL_VOICE, NEURAL_TRAINING = "neural-voice", "neural-voice-training"
"""Speech of a neural voice for tests and for training, where there is one."""

ITEMS = "prose"
TOPIC, STORY = f"{ITEMS}-topic", f"{ITEMS}-story"
"""Tasks: the wrong ending is of another document, or of the same one further on."""


@dataclass(frozen=True, kw_only=True)
class RealDemo(Demo):
    """One run; what is not given is fetched."""

    size: RealSize
    whisper: str | None = None
    base: str | None = None
    speech: tuple[Path, ...] = ()

    def identity(self) -> str:
        """Fingerprint of what every stage depends on; of recordings name, size and time."""
        return fingerprint_of(super().identity(), *_marks(self.speech))

    def manifests(self, part: str) -> list[Path]:
        """Recordings of people for `train` or `test`, a set each."""
        return sorted(self.path("recordings", part).glob("*.parquet"))

    def test_manifests(self) -> list[Path]:
        """All test sets, people's and synthetic."""
        synthetic = map(self.manifest, (NARRATOR, MANY_VOICES, NEW_VOICE))
        spoken = self.manifest(NEURAL_VOICE)
        return [*self.manifests("test"), *synthetic, *([spoken] if spoken.exists() else [])]

    def neural_training(self) -> list[Path]:
        """Speech of the neural voice to train on, if it has spoken."""
        return [path for path in [self.manifest(NEURAL_TRAINING)] if path.exists()]


def material(done: Done, name: str) -> Path:
    """A folder or file among the materials."""
    return Path(done["materials"][name])


def require_files(speech: Iterable[Path], text: Iterable[Path]) -> None:
    """See that what is given is there.

    Raises:
        ConfigError: it is not.
    """
    given = [("speech", path, "a manifest of recordings") for path in speech]
    given += [("text", path, "a corpus") for path in text]
    for flag, path, what in given:
        if not path.exists():
            raise ConfigError(f"--{flag} {path} does not exist; give {what}")


def _marks(paths: Iterable[Path]) -> list[str]:
    found = []
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
        for file in files:
            if file.is_file():
                status = file.stat()
                found.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return found
