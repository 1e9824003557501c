"""Where a run's data is: settings and the blend notation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how windows are made of it."""

    vocab: Path | None = None
    """Vocabulary folder the datasets were made with."""
    data_path: tuple[str, ...] = ()
    """Training datasets: weight and path prefix in turn, or prefixes alone."""
    data_args_path: Path | None = None
    """Instead of --data-path: a file that holds its values (tools/plan_mixture.py writes one)."""
    valid_data_path: tuple[str, ...] = ()
    """Validation datasets, given the same way."""
    split: str | None = None
    """Shares of documents for training and validation, as 99,1, instead of --valid-data-path."""
    data_cache_path: Path | None = None
    """Folder for sample indices; in the run's folder if not given. A trusted folder."""
    seq_length: int = 256
    """Tokens in a window."""
    reset_attention_mask: bool = False
    """Keep documents apart in attention in cut windows too (packed windows always do)."""

    def check(self) -> None:
        """Refuse notations that cannot be read; no dataset is touched.

        Raises:
            ConfigError: names the flag to change.
        """
        self.train_blend()
        if self.valid_data_path:
            parse_blend(self.valid_data_path, "--valid-data-path")
        if self.split is not None:
            if self.valid_data_path:
                raise ConfigError("--split and --valid-data-path exclude each other; drop one")
            _check_split(self.split)

    def train_blend(self) -> tuple[list[str], list[float] | None]:
        """Prefixes of the training datasets, and their weights if given.

        Raises:
            ConfigError: names the flag to change.
        """
        if self.data_args_path is None:
            if not self.data_path:
                raise ConfigError("--data-path is missing: give at least one dataset prefix")
            return parse_blend(self.data_path, "--data-path")
        if self.data_path:
            raise ConfigError("--data-path and --data-args-path exclude each other; drop one")
        try:
            values = self.data_args_path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--data-args-path cannot be read: {error}") from None
        if not values:
            raise ConfigError(f"--data-args-path {self.data_args_path} is empty")
        return parse_blend(values, f"--data-args-path {self.data_args_path}")


def _check_split(split: str) -> None:
    try:
        shares = [float(share) for share in split.split(",")]
    except ValueError:
        shares = []
    good = len(shares) in (2, 3) and all(0 <= share < math.inf for share in shares)
    if not (good and min(shares[:2]) > 0):
        raise ConfigError(
            f"--split is {split!r}; expected shares for training and validation above 0, as 99,1 "
            "(a third share, for a test, is left out of both)"
        )


def parse_blend(data_path: Sequence[str], flag: str) -> tuple[list[str], list[float] | None]:
    """Split `--data-path w1 p1 w2 p2` (or prefixes alone) into prefixes and weights.

    Raises:
        ConfigError: weights and prefixes do not alternate, or a weight is not positive.
    """
    try:
        float(data_path[0])
    except ValueError:
        return list(data_path), None
    if len(data_path) % 2:
        raise ConfigError(
            f"{flag} has {len(data_path)} values; expected weight and prefix in turn, "
            "as 0.7 data/text 0.3 data/speech"
        )
    try:
        weights = [float(value) for value in data_path[::2]]
    except ValueError as error:
        raise ConfigError(f"{flag}: expected a weight before each prefix; {error}") from None
    if min(weights) <= 0:
        raise ConfigError(f"{flag}: weights must be positive, got {weights}")
    return list(data_path[1::2]), weights
