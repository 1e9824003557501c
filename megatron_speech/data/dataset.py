"""What the language model reads: blends of indexed datasets, cut or packed into windows.

Cutting and blending are Megatron-Core's compiled helpers. Added here: packing of whole documents,
loss rules, an order that does not depend on the length of the run, and blends that change.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..text.vocab import SpeechTextVocab
from .blend import Blend, BlendPosition
from .config import DataConfig, parse_blend
from .epochs import on_first_rank_then_all
from .indexed_files import DatasetFacts, contents_fingerprint, without_checksum
from .loss_rules import RuleTokens
from .mock import MockWindows
from .soundness import check_datasets
from .windows import SpeechTextDataset


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """Blends of windows, ready to be indexed."""

    train: Any
    valid: Mapping[str, Any]
    """By name; the name is empty for a blend that is reported as a whole."""
    test: Any | None = None
    separate_documents: bool
    """Whether some windows hold documents that must not see each other."""
    preferences: bool = False
    """Whether they hold pairs of answers, see `preferences.Preferences`."""
    speech_tokenizer: str | None = None
    """Fingerprint of the speech tokenizer of the codes in them; None if there are none."""
    position: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint keeps of the blend, see `BlendPosition`."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a run that is continued tells about its data."""

    stored: Mapping[str, Any] | None = None
    """What the checkpoint kept: `Datasets.position` and `consumed_samples`."""
    batches: str = ""
    """What decides which windows a step reads; where it changed, `next_sample` comes next."""
    next_sample: int = 0


def build_datasets(
    config: DataConfig,
    vocab: SpeechTextVocab,
    samples: tuple[int, int],
    seed: int,
    continuation: Continuation | None = None,
) -> Datasets:
    """Training windows up to number `samples[0]`, `samples[1]` of each validation set; collective.

    Rank 0 builds indices, the others read them from the cache. Documents too long to be packed
    whole are counted on stderr.

    Raises:
        ConfigError, DataError, VocabularyError: the settings or the files do not work; see
            `soundness.check_datasets`.
    """
    config = config.resolve()
    config.check()
    kinds = RuleTokens.of(vocab)
    if config.mock_data:
        mock = MockWindows(kinds, config.seq_length, seed, samples[0])
        return Datasets(train=mock, valid={}, separate_documents=False)
    paths = {"train": config.data_path, "valid": config.valid_data_path or config.data_path}
    paths["test"] = config.test_data_path
    if not (config.valid_data_path or config.split):
        paths["valid"] = ()
    blends = {
        name: parse_blend(path, "--data-path" if name == "train" else f"--{name}-data-path")
        for name, path in paths.items()
        if path
    }
    prefixes = [prefix for blend, _ in blends.values() for prefix in blend]
    facts = check_datasets(prefixes, vocab)
    preferences = _are_preferences(config, facts)
    if (line := without_checksum(facts)) and _is_first_rank():
        print(line, file=sys.stderr)
    maker = _Maker(config, facts, kinds, vocab.padded_size, seed)
    train = maker.blend(*blends["train"], samples[0], continuation=continuation or Continuation())
    valid: dict[str, Blend] = {}
    if "valid" in blends:
        valid = maker.validation(*blends["valid"], samples[1])
    test = maker.blend(*blends["test"], samples[1]) if "test" in blends else None
    known = {found.tokenizer_fingerprint for found in facts.values()}
    return Datasets(
        train=train,
        valid=valid,
        test=test,
        separate_documents=config.reset_attention_mask
        or any(found.packing == "whole" for found in facts.values()),
        preferences=preferences,
        speech_tokenizer=max(filter(None, known), default=None),  # they agree: check_datasets
        position=train.position.plain(),
    )


def _are_preferences(config: DataConfig, facts: Mapping[str, DatasetFacts]) -> bool:
    """Whether all datasets hold pairs of answers; refuses what their loss has no place for."""
    found = {prefix for prefix, one in facts.items() if one.loss_rule == "preference"}
    if not found:
        if config.dpo_nll_weight:
            raise ConfigError(
                "--dpo-nll-weight is for pairs of answers (build_dataset.py preference); drop it"
            )
        return False
    if others := sorted(facts.keys() - found):
        raise ConfigError(
            f"{', '.join(others)} cannot be mixed with the pairs of {', '.join(sorted(found))}, "
            "whose loss is another; train on one kind, then on the other"
        )
    if (config.text_loss_weight, config.speech_loss_weight) != (1.0, 1.0):
        raise ConfigError(
            "--text-loss-weight and --speech-loss-weight are not for pairs; drop them"
        )
    return True


class _Maker:
    """Builds the blends of one run."""

    def __init__(
        self,
        config: DataConfig,
        facts: dict[str, DatasetFacts],
        kinds: RuleTokens,
        vocabulary_size: int,
        seed: int,
    ):
        self._config, self._facts, self._kinds, self._seed = config, facts, kinds, seed
        self._vocabulary_size = vocabulary_size
        self._cache = Path(str(config.data_cache_path))

    def validation(
        self, prefixes: list[str], weights: list[float] | None, samples: int
    ) -> dict[str, Blend]:
        """One blend, or with --multiple-validation-sets one of each dataset."""
        part = self._config.share(valid=True)
        if not self._config.multiple_validation_sets:
            return {"": self.blend(prefixes, weights, samples, part)}
        names = _short_names(prefixes)
        return {
            name: self.blend([prefix], None, samples, part)
            for name, prefix in zip(names, prefixes, strict=True)
        }

    def blend(
        self,
        prefixes: list[str],
        weights: list[float] | None,
        samples: int,
        share: tuple[float, float] | None = None,
        continuation: Continuation | None = None,
    ) -> Blend:
        """A blend of some of the datasets; equal passes over all of them without weights."""
        share = share or self._config.share(valid=False)
        config, cache, seed = self._config, self._cache, self._seed
        datasets = [
            SpeechTextDataset(
                prefix,
                self._facts[prefix],
                self._kinds,
                config.seq_length,
                vocabulary_size=self._vocabulary_size,
                share=share,
                separate=config.reset_attention_mask,
            )
            for prefix in prefixes
        ]
        if weights is None:
            on_first_rank_then_all(lambda: [dataset.build(1, cache, seed) for dataset in datasets])
            weights = [float(dataset.windows_per_epoch) for dataset in datasets]
        position = _position(datasets, weights, continuation or Continuation())
        blend = Blend(datasets, position, samples)
        on_first_rank_then_all(lambda: blend.build(cache, seed))
        _report_left_out(datasets, config.seq_length)
        return blend


def _position(
    datasets: Sequence[SpeechTextDataset], weights: Sequence[float], continuation: Continuation
) -> BlendPosition:
    names: dict[str, str] = {}
    for dataset in datasets:
        facts, (first, last) = dataset.facts, dataset.share
        name = f"{contents_fingerprint(dataset.prefix)} {facts.packing} {facts.loss_rule}"
        name += "" if (first, last) == (0.0, 1.0) else f" {first:g}-{last:g}"
        if name in names:
            raise ConfigError(
                f"{names[name]} and {dataset.prefix} hold the same documents; drop one of them"
            )
        names[name] = dataset.prefix
    return BlendPosition.follow(
        continuation.stored,
        dict(zip(names, weights, strict=True)),
        continuation.batches,
        continuation.next_sample,
    )


def _short_names(prefixes: list[str]) -> list[str]:
    """The last parts of the paths, or the whole paths where these are not distinct."""
    names = [Path(prefix).name for prefix in prefixes]
    return names if len(set(names)) == len(names) else prefixes


def _is_first_rank() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _report_left_out(datasets: Sequence[SpeechTextDataset], seq_length: int) -> None:
    if not _is_first_rank():
        return
    for dataset in datasets:
        if dataset.left_out:
            print(
                f"{dataset.prefix}: {dataset.left_out:,} of {len(dataset.documents):,} "
                f"documents are longer than --seq-length {seq_length} and are left out "
                "(packing is by whole documents)",
                file=sys.stderr,
            )
