"""Where a run's data is: settings and the blend notation."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ConfigError, flag, require_within

_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how windows are made of it."""

    vocab: Path | None = None
    """Vocabulary folder the datasets were made with."""
    data_path: tuple[str, ...] = ()
    """Training datasets: weight and path prefix in turn, or prefixes alone."""
    train_data_path: tuple[str, ...] = ()
    """The same as --data-path, beside --valid-data-path and --test-data-path."""
    valid_data_path: tuple[str, ...] = ()
    """Validation datasets, given the same way."""
    test_data_path: tuple[str, ...] = ()
    """Datasets evaluated once, after the last step."""
    data_args_path: Path | None = None
    """File that holds what --data-path would; # begins a comment."""
    per_split_data_args_path: Path | None = None
    """JSON file with lists train, valid and test, each as on the command line."""
    split: str | None = None
    """Shares of documents for training and validation, as 99,1, instead of --valid-data-path."""
    multiple_validation_sets: bool = False
    """Report each validation dataset apart, under the last part of its path."""
    mock_data: bool = False
    """Random text and speech instead of datasets, to time a machine."""
    data_cache_path: Path | None = None
    """Folder for sample indices; in the run's folder if not given. A trusted folder."""
    seq_length: int = 256
    """Tokens in a window."""
    reset_attention_mask: bool = False
    """Keep documents apart in attention in cut windows too (packed windows always do)."""
    text_loss_weight: float = 1.0
    """Factor of the loss on text tokens; the divisor stays the number of tokens."""
    speech_loss_weight: float = 1.0
    """Factor of the loss on speech tokens."""
    dpo_beta: float = 0.1
    """Of preference datasets: how dear it is to part from the model that training starts from; the
    loss is DPO's (arXiv 2305.18290)."""
    dpo_nll_weight: float = 0.0
    """Of preference datasets: factor of the better answer's mean loss, which is added, so that it
    does not become less likely together with the worse one (arXiv 2404.19733)."""

    def resolve(self) -> "DataConfig":
        """The same with `data_path`, `valid_data_path` and `test_data_path` read from files.

        Raises:
            ConfigError: the data is given twice, or a file cannot be read.
        """
        ways = ("data_path", "train_data_path", "data_args_path", "per_split_data_args_path")
        given = [flag(name) for name in ways if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} all say what to train on; give one of them")
        bare = replace(self, train_data_path=(), data_args_path=None, per_split_data_args_path=None)
        if self.train_data_path:
            return replace(bare, data_path=self.train_data_path)
        if self.data_args_path is not None:
            lines = _read(self.data_args_path, "--data-args-path").splitlines()
            words = [word for line in lines for word in line.partition("#")[0].split()]
            if not words:
                raise ConfigError(f"--data-args-path {self.data_args_path} names no dataset")
            parse_blend(words, f"--data-args-path {self.data_args_path}")
            return replace(bare, data_path=tuple(words))
        if self.per_split_data_args_path is None:
            return bare
        if self.valid_data_path or self.test_data_path:
            raise ConfigError(
                "--per-split-data-args-path names validation and test data itself; drop "
                "--valid-data-path and --test-data-path"
            )
        train, valid, test = _read_splits(self.per_split_data_args_path)
        return replace(bare, data_path=train, valid_data_path=valid, test_data_path=test)

    def check(self) -> None:
        """Refuse settings that cannot work; of a resolved config, and no file is touched.

        Raises:
            ConfigError: names the flag to change.
        """
        require_within(self, 0, "text_loss_weight", "speech_loss_weight", "dpo_nll_weight")
        if not 0 < self.dpo_beta < math.inf:
            raise ConfigError(f"--dpo-beta is {self.dpo_beta}; give more than 0")
        if self.text_loss_weight == self.speech_loss_weight == 0:
            raise ConfigError("--text-loss-weight and --speech-loss-weight are both 0: raise one")
        given = {name: getattr(self, f"{name}_data_path") for name in _SPLITS[1:]}
        if self.mock_data:
            if self.data_path or self.split or any(given.values()):
                raise ConfigError("--mock-data takes the place of all datasets; drop it or them")
            return
        if not self.data_path:
            raise ConfigError("--data-path is missing: give at least one dataset prefix")
        parse_blend(self.data_path, "--data-path")
        for name, path in given.items():
            if path:
                parse_blend(path, f"--{name}-data-path")
        if self.split is not None:
            if self.valid_data_path:
                raise ConfigError("--split and --valid-data-path exclude each other; drop one")
            _check_split(self.split)
        if self.multiple_validation_sets and not (self.valid_data_path or self.split):
            raise ConfigError("--multiple-validation-sets needs --valid-data-path or --split")

    def share(self, valid: bool) -> tuple[float, float]:
        """Which part of the documents of `data_path` is for training, or for validation."""
        if self.split is None:
            return 0.0, 1.0
        shares = [float(share) for share in self.split.split(",")]
        first, second = shares[0] / sum(shares), sum(shares[:2]) / sum(shares)
        return (first, second) if valid else (0.0, first)


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error}") from None


def _read_splits(path: Path) -> list[tuple[str, ...]]:
    flag = "--per-split-data-args-path"
    try:
        content = json.loads(_read(path, flag))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{flag} {path} is no JSON: {error}") from None
    if not isinstance(content, dict) or set(content) - set(_SPLITS) or "train" not in content:
        raise ConfigError(f"{flag} {path} must be an object with train, valid and test, no others")
    lists = [content.get(name) or [] for name in _SPLITS]
    if not all(isinstance(values, list) for values in lists):
        raise ConfigError(f"{flag} {path}: train, valid and test must be lists")
    return [tuple(map(str, values)) for values in lists]


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

    Datasets of weight 0 are left out; weights are None for prefixes alone.

    Raises:
        ConfigError: weights and prefixes do not alternate, a weight is no number or negative, all
            are 0, or a dataset is named twice.
    """
    prefixes, weights = list(data_path), None
    if any(_is_number(value) for value in data_path):
        prefixes, weights = list(data_path[1::2]), _weights(data_path, flag)
        prefixes = [prefix for prefix, weight in zip(prefixes, weights, strict=True) if weight]
        weights = [weight for weight in weights if weight]
    twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
    if twice:
        raise ConfigError(f"{flag} names {', '.join(twice)} twice; add up the weights")
    return prefixes, weights


def _weights(data_path: Sequence[str], flag: str) -> list[float]:
    for weight, prefix in zip(data_path[::2], (*data_path[1::2], ""), strict=False):
        if not _is_number(weight) or (_is_number(prefix) and not Path(f"{prefix}.idx").exists()):
            raise ConfigError(
                f"{flag}: expected weight and prefix in turn, as 0.7 data/text 0.3 data/speech; "
                f"{weight!r} {prefix!r} is no such pair"
            )
    if len(data_path) % 2:
        raise ConfigError(
            f"{flag} has {len(data_path)} values; expected weight and prefix in turn, "
            "as 0.7 data/text 0.3 data/speech"
        )
    weights = [float(value) for value in data_path[::2]]
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
        raise ConfigError(f"{flag}: weights must be 0 or more and not all 0, got {weights}")
    return weights


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
