"""Connects a recipe's model, data and trainer for the training of a speech tokenizer."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..data.manifest import manifest_name
from ..data.recordings import read_rows
from ..errors import ConfigError
from ..io.files import read_json, write_json
from ..io.model_folders import origin, resolve_model
from ..io.rejected import Rejected
from ..jobs.folders import atomic_folder
from ..speech_tokenizer.best import BestModel
from ..speech_tokenizer.characters import CharacterHeads
from ..speech_tokenizer.config import SpeechTokenizerConfig
from ..speech_tokenizer.dataset import AsrDataset, read_sources
from ..speech_tokenizer.model import SpeechTokenizerModel
from ..speech_tokenizer.objective import AsrObjective
from ..speech_tokenizer.set_aside import SetAside
from ..speech_tokenizer.text import AsrText, train_text_tokenizer
from ..speech_tokenizer.tokenizer import SpeechTokenizer
from ..speech_tokenizer.whisper import load_whisper, shaped_as_whisper
from ..training.checkpoint import latest_iteration
from ..training.ddp import DdpTrainer
from ..training.loop import train
from ..training.megatron.parallel import is_launched_main_rank
from .resume import plain, sole_trainer
from .speech_run import SpeechResult, begun, result_of
from .speech_tokenizer import SpeechTokenizerRecipe

_EXPORTED = "exported.json"  # of which step; written after the export


def train_speech_tokenizer(recipe: SpeechTokenizerRecipe) -> SpeechResult:
    """Train, and export to `save/export` when all steps are done.

    Raises:
        ConfigError: no manifest or no --save folder.
        CheckpointError: the Whisper to start from does not exist, here or on the hub.
        DataError: no usable recordings.
        InUseError: another process trains into the folder.
    """
    save = recipe.loop.save
    if not recipe.data.manifest or save is None:
        raise ConfigError("give --manifest with transcribed recordings and --save with a folder")
    with sole_trainer(save):
        if latest_iteration(save) == recipe.loop.train_iters and _is_exported(recipe, save):
            return result_of(save, finished=True)
        return _train(recipe, save)


def _train(recipe: SpeechTokenizerRecipe, save: Path) -> SpeechResult:
    given, (recipe, came_from) = recipe, _fetched(recipe)
    settings = plain(replace(given, model=recipe.model)) | {"came_from": came_from}
    with begun(save, settings, recipe.data.seed) as device:
        set_aside = SetAside(save / "rejected.jsonl", latest_iteration(save) is not None)
        unusable: list[Rejected] = []
        sources = read_sources(recipe.data.manifest, unusable)
        text = _open_text(recipe, save, [row.text for rows in sources for row in rows])
        config = _model_config(recipe, text)
        dataset = AsrDataset(sources, text, config, recipe.data, "reading training speech")
        config = _with_codebook_for(dataset, config, recipe.vectors_per_code)
        valid = _validation_sets(recipe, text, config)
        for rejected in (unusable, dataset.rejected, *(part.rejected for part in valid.values())):
            set_aside.add(rejected)
        set_aside.write()
        attention = recipe.attention_on(device.type)
        model = SpeechTokenizerModel(config, attention, _character_heads(recipe, config))
        if recipe.init_from is not None:
            load_whisper(model, recipe.init_from, recipe.second_positions)
        best = _best_model(recipe, save, text, valid)
        objective = AsrObjective(dataset, valid, recipe.objective, device, set_aside, best)
        _say_epochs(recipe, objective)
        _say_unknown_languages({"training": dataset, **valid})
        trainer = DdpTrainer(model, objective, recipe.optimizer, recipe.loop.train_iters, device)
        with closing(objective), closing(trainer):
            result = train(trainer, recipe.loop, recipe.health)
        if result.finished and trainer.is_main_rank:
            _export(recipe, model, text, save)
    return result_of(save, result.finished)


def _fetched(recipe: SpeechTokenizerRecipe) -> tuple[SpeechTokenizerRecipe, dict[str, str]]:
    """The recipe with folders in place of hub ids and, if it starts from a Whisper, in its shape;
    and what to note of where the folders came from."""
    given = {"init_from": recipe.init_from, "tokenizer": recipe.data.tokenizer}
    folders = {name: resolve_model(path) for name, path in given.items() if path is not None}
    data = replace(recipe.data, tokenizer=folders.get("tokenizer"))
    recipe = replace(recipe, init_from=folders.get("init_from"), data=data)
    if recipe.init_from is not None:
        recipe = replace(recipe, model=shaped_as_whisper(recipe.model, recipe.init_from))
    return recipe, {name: origin(folder) for name, folder in folders.items()}


def _export(
    recipe: SpeechTokenizerRecipe, model: SpeechTokenizerModel, text: AsrText, save: Path
) -> None:
    tokenizer = SpeechTokenizer(model, text)
    if recipe.export == "best":
        tokenizer = SpeechTokenizer.from_pretrained(save / "best")
    with atomic_folder(save / "export") as staging:
        tokenizer.save_pretrained(staging)
    write_json(save / _EXPORTED, _exported(recipe))


def _exported(recipe: SpeechTokenizerRecipe) -> dict[str, Any]:
    return {"iteration": recipe.loop.train_iters, "model": recipe.export}


def _is_exported(recipe: SpeechTokenizerRecipe, save: Path) -> bool:
    """Whether the export is there, and not one of fewer steps: the run may have been prolonged."""
    known = save / _EXPORTED
    there = known.exists() and (save / "export" / "config.json").exists()
    return there and read_json(known) == _exported(recipe)


def _open_text(recipe: SpeechTokenizerRecipe, save: Path, transcripts: list[str]) -> AsrText:
    """The given text tokenizer, Whisper's, or one trained on the transcripts and kept."""
    data, folder = recipe.data, recipe.data.tokenizer
    if folder is None and recipe.init_from and (recipe.init_from / "tokenizer.json").exists():
        folder = recipe.init_from
    if folder is None:
        folder = save / "text_tokenizer"
        if is_launched_main_rank() and not (folder / "tokenizer.json").exists():
            train_text_tokenizer(transcripts, data.asr_vocab_size, folder)
        if dist.is_initialized():
            dist.barrier()
    return AsrText(folder, data.words_only)


def _model_config(recipe: SpeechTokenizerRecipe, text: AsrText) -> SpeechTokenizerConfig:
    codes = recipe.model.quantize_vocab_size if recipe.objective.quantize else None
    vocab_size = text.size
    if recipe.init_from is not None:  # its embedding may have more rows than its tokenizer
        vocab_size = max(vocab_size, recipe.model.vocab_size)
    return replace(
        recipe.model,
        vocab_size=vocab_size,
        decoder_start_token_id=text.start_id,
        eos_token_id=text.eos_id,
        ctc_head=recipe.objective.ctc_weight > 0,
        quantize_vocab_size=codes,
    )


def _with_codebook_for(
    dataset: AsrDataset, config: SpeechTokenizerConfig, vectors_per_code: int
) -> SpeechTokenizerConfig:
    """The config with its codebook halved until the data has enough vectors for each code."""
    codes = config.quantize_vocab_size
    if codes is None or config.quantizer != "vq" or not vectors_per_code:
        return config
    vectors = round(sum(dataset.durations_s) * config.frame_rate_hz)
    while codes > 2 and codes * vectors_per_code > vectors:
        codes //= 2
    if is_launched_main_rank():
        print(
            f"{codes:,} codes of at most {config.quantize_vocab_size:,}: the recordings give "
            f"{vectors:,} vectors, --vectors-per-code is {vectors_per_code}"
        )
    return replace(config, quantize_vocab_size=codes)


def _character_heads(
    recipe: SpeechTokenizerRecipe, config: SpeechTokenizerConfig
) -> CharacterHeads | None:
    lower = recipe.objective.character_ctc_weight > 0
    upper = recipe.objective.upper_character_ctc_weight > 0
    return CharacterHeads(config, lower, upper) if lower or upper else None


def _validation_sets(
    recipe: SpeechTokenizerRecipe, text: AsrText, config: SpeechTokenizerConfig
) -> dict[str, AsrDataset]:
    """Held-out sets by name, kept in memory: they are read again at every evaluation."""
    data = replace(recipe.data, cache_features=True)
    sets = {}
    for manifest in recipe.data.valid_manifest:
        name = manifest_name(Path(manifest))
        rows = read_rows(manifest)[: data.valid_samples]
        sets[name] = AsrDataset([rows], text, config, data, f"reading {name} speech")
    return sets


def _best_model(
    recipe: SpeechTokenizerRecipe, save: Path, text: AsrText, sets: dict[str, AsrDataset]
) -> BestModel | None:
    name = recipe.best_by or next(iter(sets), None)
    if name is None and recipe.export == "best":
        raise ConfigError("--export best needs a --valid-manifest to tell which model is best")
    if name is None:
        return None
    if name not in sets:
        raise ConfigError(f"--best-by {name}: no such validation set, there are {sorted(sets)}")
    return BestModel(save / "best", name, text, goes_on=latest_iteration(save) is not None)


def _say_epochs(recipe: SpeechTokenizerRecipe, objective: AsrObjective) -> None:
    """How often each manifest's recordings are heard in the steps asked for."""
    if not is_launched_main_rank():
        return
    shares = objective.shares()
    for path, size, share in zip(recipe.data.manifest, objective.train.sizes, shares, strict=True):
        heard = share * recipe.loop.train_iters * objective.samples_per_step / size
        print(f"{path}: {size:,} recordings, {share:.0%} of each batch, {heard:.2f} epochs in all")


def _say_unknown_languages(sets: dict[str, AsrDataset]) -> None:
    for name, dataset in sets.items():
        found = dataset.unknown_languages()
        if found and is_launched_main_rank():
            counts = ", ".join(f"{language!r} {n:,}" for language, n in found.items())
            print(
                f"{name}: {sum(found.values()):,} of {len(dataset):,} recordings are of a language "
                f"that the text tokenizer cannot name and are prompted as English: {counts}",
                file=sys.stderr,
            )
