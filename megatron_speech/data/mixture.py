"""From token counts and a budget to what a run draws from each dataset. Imports no torch.

A rule says how much of a dataset (or of several together) a run reads:

    30%         of the budget
    1epoch      every document once (any number, as 0.9epochs)
    300B        tokens (K, M, B or T)
    rest        what the other rules leave of the budget

Datasets under one rule are read in proportion to their tokens: all have the same number of epochs.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ConfigError
from .indexed_files import dataset_path, require_counts
from .packing import pack_documents
from .soundness import sound_dataset

_SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)([KMBT]?)")
_RULE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(%|epochs?|[KMBT]?)")
_HELD = re.compile(r"(.+?)(text|speech)")
_ROUNDING = 1e-6  # of the budget: shares such as 33.333% do not add up exactly


def parse_count(text: str) -> int:
    """Read `1T`, `455B`, `3.5B` or `8192` as a whole number.

    Raises ConfigError for anything else.
    """
    match = _NUMBER.fullmatch(text.strip().upper())
    if match is None:
        raise ConfigError(f"{text!r} is no count; expected a number as 8192, 3.5B or 1T")
    return round(float(match[1]) * _SCALES[match[2]])


def format_count(count: float) -> str:
    """`455B`, `31.5B`, `1.06T`: three digits and a letter."""
    for letter in "TBMK":
        if count >= 0.9995 * _SCALES[letter]:
            return f"{count / _SCALES[letter]:.3g}{letter}"
    return f"{count:.3g}"


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What a dataset holds in one epoch.

    `windows` is how many training windows that fills; None derives it from the tokens, as
    documents that are cut are (whole documents leave gaps).
    """

    name: str
    text_tokens: int
    speech_tokens: int
    windows: int | None = None

    @property
    def tokens(self) -> int:
        return self.text_tokens + self.speech_tokens


def parse_groups(
    notation: Sequence[str], seq_length: int
) -> list[tuple["Rule", tuple[Holding, ...]]]:
    """Read rules and datasets in turn: `30% data/a,data/b rest data/c`.

    Raises:
        ConfigError: the values do not alternate, or one cannot be read.
        DataError: a dataset is missing, unfinished or damaged.
    """
    if not notation or len(notation) % 2:
        raise ConfigError(
            f"--data-path has {len(notation)} values; expected rule and dataset in turn, as "
            "30% data/text 1epoch data/speech rest data/interleaved"
        )
    groups = []
    for rule, names in zip(notation[::2], notation[1::2], strict=True):
        holdings = tuple(read_holding(name, seq_length) for name in names.split(",") if name)
        groups.append((Rule.parse(rule), holdings))
    return groups


def read_holding(given: str, seq_length: int) -> Holding:
    """What a dataset on disk holds, or one of `name:455Bspeech+279Btext` that is yet to be made.

    Raises:
        ConfigError: the counts cannot be read.
        DataError: the dataset is missing, unfinished or damaged.
    """
    name, colon, counts = given.rpartition(":")
    if colon and not dataset_path(given, ".json").exists():
        tokens = {"text": 0, "speech": 0}
        for count in counts.split("+"):
            match = _HELD.fullmatch(count)
            if match is None:
                raise ConfigError(
                    f"{given!r} does not say what {name} holds; expected counts as "
                    f"{name}:455Bspeech+279Btext"
                )
            tokens[match[2]] += parse_count(match[1])
        return Holding(name=name, text_tokens=tokens["text"], speech_tokens=tokens["speech"])
    facts, index = sound_dataset(given)
    require_counts(given, facts, int(np.sum(index.lengths, dtype=np.int64)))
    windows = None
    if facts.packing == "whole":
        slots = index.lengths.astype(np.int64) - 1  # the last token is only a label
        windows = len(pack_documents(slots, seq_length, np.arange(len(slots)))[1]) - 1
    text, speech = facts.text_tokens, facts.speech_tokens
    return Holding(name=given, text_tokens=text, speech_tokens=speech, windows=windows)


@dataclass(frozen=True)
class Rule:
    """How much to read: `amount` percent of the budget, epochs or tokens; or the rest."""

    kind: Literal["share", "epochs", "tokens", "rest"]
    amount: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read the notation of this module's head.

        Raises:
            ConfigError: it is none of the four, or an amount of 0.
        """
        if text == "rest":
            return cls("rest")
        match = _RULE.fullmatch(text)
        if match is None or not float(match[1]):
            raise ConfigError(
                f"{text!r} is no rule; expected a share of the budget (30%), epochs (1epoch), "
                "tokens (300B) or rest"
            )
        amount, unit = float(match[1]), match[2]
        if unit == "%":
            return cls("share", amount)
        if unit.startswith("epoch"):
            return cls("epochs", amount)
        return cls("tokens", amount * _SCALES[unit])

    def tokens(self, held: int, budget: int | None) -> float:
        """Tokens asked of datasets that hold `held`; the rest is not known here."""
        if self.kind == "epochs":
            return self.amount * held
        return self.amount / 100 * (budget or 0) if self.kind == "share" else self.amount

    def __str__(self) -> str:
        if self.kind == "rest":
            return "rest"
        if self.kind == "tokens":
            return format_count(self.amount)
        unit = "%" if self.kind == "share" else " epoch" if self.amount == 1 else " epochs"
        return f"{self.amount:g}{unit}"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What a run reads of one dataset. `weight` is its share of the windows."""

    holding: Holding
    rule: Rule
    epochs: float
    samples: int
    weight: float

    @property
    def tokens(self) -> float:
        return self.epochs * self.holding.tokens


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A planned run: `tokens` and windows (`samples`) of `seq_length` in all."""

    draws: tuple[Draw, ...]
    seq_length: int
    tokens: float
    samples: int

    def tokens_of(self, modality: Literal["text", "speech"]) -> float:
        """Tokens of one modality the run reads."""
        return sum(d.epochs * getattr(d.holding, f"{modality}_tokens") for d in self.draws)

    def blend(self) -> str:
        """`weight prefix weight prefix ...`, as --data-path and --data-args-path want it."""
        return "\n".join(f"{draw.weight:.10g} {draw.holding.name}" for draw in self.draws) + "\n"


def plan_mixture(
    groups: Sequence[tuple[Rule, Sequence[Holding]]],
    budget: int | None,
    seq_length: int,
    most_epochs: float = 4.0,
) -> Mixture:
    """Apply the rules. Without a budget it is what epochs and tokens add up to.

    Raises:
        ConfigError: the rules contradict each other, the budget or `most_epochs`; the message
            says by how much and what to change.
    """
    _check_names(groups)
    _check_rules([rule for rule, _ in groups], budget)
    held = [sum(h.tokens for h in holdings) for _, holdings in groups]
    asked = [rule.tokens(tokens, budget) for (rule, _), tokens in zip(groups, held, strict=True)]
    if budget is not None:
        rest = _rest(groups, asked, budget)
        shared = [
            tokens if rule.kind == "rest" else 0
            for (rule, _), tokens in zip(groups, held, strict=True)
        ]
        asked = [a + rest * s / max(sum(shared), 1) for a, s in zip(asked, shared, strict=True)]
    epochs = [a / tokens for a, tokens in zip(asked, held, strict=True)]
    for (rule, holdings), repeats in zip(groups, epochs, strict=True):
        if repeats > most_epochs:
            names = ", ".join(holding.name for holding in holdings)
            raise ConfigError(
                f"{names}: {rule} asks for {repeats:.3g} epochs, more than --most-epochs "
                f"{most_epochs:g}; add data, ask for less, or raise --most-epochs"
            )
    rows = [
        (holding, rule, repeats, _samples(holding, repeats, seq_length))
        for (rule, holdings), repeats in zip(groups, epochs, strict=True)
        for holding in holdings
    ]
    total = sum(samples for *_, samples in rows)
    draws = tuple(
        Draw(holding=h, rule=r, epochs=e, samples=s, weight=s / total) for h, r, e, s in rows
    )
    return Mixture(draws=draws, seq_length=seq_length, tokens=sum(asked), samples=total)


def _samples(holding: Holding, epochs: float, seq_length: int) -> int:
    windows = holding.tokens / seq_length if holding.windows is None else holding.windows
    return max(1, math.ceil(epochs * windows - _ROUNDING))


def _check_names(groups: Sequence[tuple[Rule, Sequence[Holding]]]) -> None:
    seen: set[str] = set()
    for _, holdings in groups:
        for holding in holdings:
            if holding.name in seen:
                raise ConfigError(f"{holding.name} is named twice; give each dataset one rule")
            if holding.tokens < 1:
                raise ConfigError(f"{holding.name} holds no tokens; leave it out")
            seen.add(holding.name)
    if not seen:
        raise ConfigError("no datasets: give at least one rule and one dataset")


def _check_rules(rules: Sequence[Rule], budget: int | None) -> None:
    needy = [str(rule) for rule in rules if rule.kind in ("share", "rest")]
    if budget is None and needy:
        raise ConfigError(f"{needy[0]!r} needs a budget; give --tokens")
    if budget is not None and budget < 1:
        raise ConfigError(f"the budget is {budget} tokens; expected at least 1")
    shares = sum(rule.amount for rule in rules if rule.kind == "share")
    if shares > 100 * (1 + _ROUNDING):
        raise ConfigError(f"the shares add up to {shares:g}% of the budget; expected at most 100%")


def _rest(
    groups: Sequence[tuple[Rule, Sequence[Holding]]], asked: Sequence[float], budget: int
) -> float:
    """What the rules leave of the budget, refused if it is not what the rules can mean."""
    listed = ", ".join(
        f"{'+'.join(h.name for h in holdings)} {format_count(tokens)} ({rule})"
        for (rule, holdings), tokens in zip(groups, asked, strict=True)
        if rule.kind != "rest"
    )
    rest = budget - sum(asked)
    has_rest = any(rule.kind == "rest" for rule, _ in groups)
    if rest < -_ROUNDING * budget:
        raise ConfigError(
            f"the rules ask for {format_count(-rest)} tokens more than the budget of "
            f"{format_count(budget)}: {listed}; lower a share or epochs, or raise --tokens to "
            f"{format_count(sum(asked))}"
        )
    if has_rest and rest <= _ROUNDING * budget:
        raise ConfigError(
            f"nothing is left for 'rest': the other rules use up the budget of "
            f"{format_count(budget)}: {listed}"
        )
    if not has_rest and rest > _ROUNDING * budget:
        raise ConfigError(
            f"the rules leave {format_count(rest)} of the budget of {format_count(budget)} "
            f"unused: {listed}; give one dataset the rule 'rest', or --tokens "
            f"{format_count(sum(asked))}"
        )
    return max(rest, 0.0)
