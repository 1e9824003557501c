"""Recipes that train a speech tokenizer, and the one function that runs them."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import ConfigError
from ..files import write_text
from ..speech_tokenizer.characters import CharacterHeads
from ..speech_tokenizer.config import SpeechTokenizerConfig
from ..speech_tokenizer.dataset import AsrDataset, SpeechDataConfig, read_rows
from ..speech_tokenizer.layout import load_whisper
from ..speech_tokenizer.model import SpeechTokenizerModel
from ..speech_tokenizer.objective import AsrObjective, ObjectiveConfig
from ..speech_tokenizer.text import AsrText, train_text_tokenizer
from ..speech_tokenizer.tokenizer import SpeechTokenizer
from ..training.checkpoint import latest_iteration
from ..training.ddp import DdpTrainer, OptimizerConfig, process_group
from ..training.loop import LoopConfig, train
from ..training.reporting import read_metrics

_EXPORT_MARK = "export/config.json"  # the export's last file


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerRecipe:
    """Everything that makes a speech tokenizer."""

    model: SpeechTokenizerConfig = field(default_factory=SpeechTokenizerConfig)
    data: SpeechDataConfig = field(default_factory=SpeechDataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    init_from: Path | None = None
    """Local Whisper folder (transformers, safetensors) to start from; none starts at random."""
    attention: str = "eager"
    """Attention of the training: eager (faster for small models on CPU) or sdpa."""

    def __post_init__(self) -> None:
        if self.attention not in ("eager", "sdpa"):
            raise ConfigError(f"--attention is {self.attention!r}; expected eager or sdpa")


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerResult:
    """How a training ended."""

    export: Path | None
    """Folder for `SpeechTokenizer.from_pretrained`; None if it stopped early."""
    finished: bool
    """False if it was stopped and should be started again."""
    metrics: dict[str, float]
    """Figures of the last evaluation, for each set: `wer`, `ctc wer`, `codebook usage`,
    `perplexity`, each followed by the name of the set."""


def tokenizer_debug() -> SpeechTokenizerRecipe:
    """A 12.5 Hz tokenizer with 512 codes that two CPU cores train in minutes."""
    return SpeechTokenizerRecipe(
        model=SpeechTokenizerConfig(
            d_model=192,
            encoder_layers=5,
            encoder_attention_heads=4,
            encoder_ffn_dim=768,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=768,
            num_mel_bins=80,
            mel_dynamic_range="fixed",
            max_target_positions=128,
            ctc_head=True,
            init_std=0.05,
            pooling_position=2,
            quantize_position=3,
            quantize_vocab_size=512,
            quantize_commit_coefficient=1.0,
            quantize_loss_scale=1.0,
            quantize_restart_interval=20,
            quantize_restart_threshold=0.1,
        ),
        data=SpeechDataConfig(words_only=True, cache_features=True, asr_vocab_size=340),
        objective=ObjectiveConfig(
            character_ctc_weight=1.0,
            upper_character_ctc_weight=1.0,
            quantize_start_step=750,
            kmeans_init=True,
        ),
        optimizer=OptimizerConfig(lr=2e-3, lr_warmup_iters=100, lr_decay_start=0.5),
        loop=LoopConfig(train_iters=3000, log_interval=50, eval_interval=750, save_interval=500),
    )


def tokenizer_smoke() -> SpeechTokenizerRecipe:
    """Twenty steps of a tiny tokenizer: shows that the parts fit, learns nothing."""
    debug = tokenizer_debug()
    return replace(
        debug,
        model=replace(
            debug.model,
            d_model=64,
            encoder_layers=2,
            encoder_ffn_dim=128,
            decoder_layers=1,
            decoder_ffn_dim=128,
            pooling_position=1,
            quantize_position=1,
            quantize_vocab_size=64,
        ),
        data=replace(debug.data, asr_vocab_size=512, valid_samples=16),
        objective=replace(debug.objective, quantize_start_step=5, kmeans_vectors=1024),
        optimizer=replace(debug.optimizer, lr_warmup_iters=2),
        loop=replace(debug.loop, train_iters=20, log_interval=5, eval_interval=0, save_interval=10),
    )


def tokenizer_large_v3(pooling_kernel_size: int, num_codes: int) -> SpeechTokenizerRecipe:
    """The paper's settings (sections 2.1 to 2.4) at 50 / pooling_kernel_size codes per second."""
    return SpeechTokenizerRecipe(
        model=SpeechTokenizerConfig(
            pooling_kernel_size=pooling_kernel_size,
            quantize_vocab_size=num_codes,
            quantize_causal_block_size=104 if pooling_kernel_size == 8 else 100,
            quantize_commit_coefficient=1.0,
        ),
        data=SpeechDataConfig(micro_batch_size=16, global_batch_size=4096, num_workers=8),
        optimizer=OptimizerConfig(lr=1e-5, lr_decay_style="constant", bf16=True),
        loop=LoopConfig(train_iters=100_000, save_interval=1000, eval_interval=1000),
        attention="sdpa",
    )


def tokenizer_large_v3_12_5hz() -> SpeechTokenizerRecipe:
    """The paper's tokenizer: whisper-large-v3, 12.5 codes per second, 16,384 codes."""
    return tokenizer_large_v3(4, 16384)


RECIPES: dict[str, Callable[[], SpeechTokenizerRecipe]] = {
    "tokenizer-debug": tokenizer_debug,
    "tokenizer-smoke": tokenizer_smoke,
    "tokenizer-large-v3-12.5hz": tokenizer_large_v3_12_5hz,
}


def train_speech_tokenizer(recipe: SpeechTokenizerRecipe) -> SpeechTokenizerResult:
    """Train, and export to `save/export` when all steps are done.

    Raises:
        ConfigError: no manifest or no --save folder.
        DataError: no usable recordings.
    """
    save = recipe.loop.save
    if not recipe.data.manifest or save is None:
        raise ConfigError("give --manifest with transcribed recordings and --save with a folder")
    if latest_iteration(save) == recipe.loop.train_iters and (save / _EXPORT_MARK).exists():
        return _result(save, finished=True)
    with process_group() as device:
        torch.manual_seed(recipe.data.seed)
        rows = read_rows(recipe.data.manifest)
        text = _open_text(recipe.data, save, [row.text for row in rows])
        config = _model_config(recipe, text)
        dataset = AsrDataset(rows, text, config, recipe.data, "reading training speech")
        valid = _validation_sets(recipe, text, config)
        _write_rejected(save, {"train": dataset, **valid})
        model = SpeechTokenizerModel(config, recipe.attention, _character_heads(recipe, config))
        if recipe.init_from is not None:
            load_whisper(model, recipe.init_from)
        objective = AsrObjective(dataset, valid, recipe.data, recipe.objective, device)
        trainer = DdpTrainer(model, objective, recipe.optimizer, recipe.loop.train_iters, device)
        with closing(trainer):
            result = train(trainer, recipe.loop)
        if result.finished and trainer.is_main_rank:
            SpeechTokenizer(model, text).save_pretrained(save / "export")
    return _result(save, result.finished)


def _result(save: Path, finished: bool) -> SpeechTokenizerResult:
    """Figures come from the run's file, so that a run already finished tells the same."""
    records = read_metrics(save, "valid")
    figures = {k: v for k, v in records[-1].items() if isinstance(v, float)} if records else {}
    export = save / "export" if finished else None
    return SpeechTokenizerResult(export=export, finished=finished, metrics=figures)


def _open_text(data: SpeechDataConfig, save: Path, transcripts: list[str]) -> AsrText:
    """The given text tokenizer, or one trained on the transcripts and kept with the run."""
    folder = data.tokenizer
    if folder is None:
        folder = save / "text_tokenizer"
        if _rank() == 0 and not (folder / "tokenizer.json").exists():
            train_text_tokenizer(transcripts, data.asr_vocab_size, folder)
        if dist.is_initialized():
            dist.barrier()
    return AsrText(folder, data.words_only)


def _model_config(recipe: SpeechTokenizerRecipe, text: AsrText) -> SpeechTokenizerConfig:
    codes = recipe.model.quantize_vocab_size if recipe.objective.quantize else None
    return replace(
        recipe.model,
        vocab_size=text.size,
        decoder_start_token_id=text.start_id,
        eos_token_id=text.eos_id,
        ctc_head=recipe.objective.ctc_weight > 0,
        quantize_vocab_size=codes,
    )


def _character_heads(
    recipe: SpeechTokenizerRecipe, config: SpeechTokenizerConfig
) -> CharacterHeads | None:
    lower = recipe.objective.character_ctc_weight > 0
    upper = recipe.objective.upper_character_ctc_weight > 0
    return CharacterHeads(config, lower, upper) if lower or upper else None


def _validation_sets(
    recipe: SpeechTokenizerRecipe, text: AsrText, config: SpeechTokenizerConfig
) -> dict[str, AsrDataset]:
    sets = {}
    for manifest in recipe.data.valid_manifest:
        name = manifest.parent.name if manifest.stem == "manifest" else manifest.stem
        rows = read_rows([manifest])[: recipe.data.valid_samples]
        sets[name] = AsrDataset(rows, text, config, recipe.data, f"reading {name} speech")
    return sets


def _write_rejected(save: Path, sets: dict[str, AsrDataset]) -> None:
    """Say on the terminal and in `rejected.jsonl` which recordings were set aside, and why."""
    rejected = [{"set": name} | item for name, data in sets.items() for item in data.rejected]
    if rejected and _rank() == 0:
        path = save / "rejected.jsonl"
        write_text(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rejected))
        reasons = Counter(item["reason"] for item in rejected)
        counts = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
        print(f"recordings set aside: {counts}; which ones: {path}", flush=True)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
