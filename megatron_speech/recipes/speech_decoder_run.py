"""Connects a recipe's parts for the training of a flow model or of a vocoder."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..data.code_shards import CodeShardInfo
from ..errors import ConfigError
from ..jobs.folders import atomic_folder
from ..speech_decoder.config import SpeechDecoderConfig
from ..speech_decoder.dataset import Codes, DecoderDataConfig, DecoderDataset
from ..speech_decoder.decoder import VOCODER, load_flow, save_flow
from ..speech_decoder.flow import FlowModel
from ..speech_decoder.objective import FlowObjective
from ..speech_decoder.samples import FlowSamples, SampleBoard
from ..speech_decoder.vocoder import HifiganVocoder, IstftVocoder, Vocoder, load_vocoder
from ..speech_decoder.vocoder_objective import VocoderObjective, VocoderTraining
from ..speech_tokenizer.set_aside import SetAside
from ..speech_tokenizer.tokenizer import SpeechTokenizer
from ..training.checkpoint import latest_iteration
from ..training.ddp import DdpTrainer
from ..training.loop import train
from ..training.megatron.parallel import is_launched_main_rank
from .resume import flat, plain, sole_trainer
from .speech_decoder import RECIPES, SpeechDecoderRecipe, VocoderRecipe
from .speech_run import SpeechResult, begun, result_of


def train_decoder(name: str, recipe: SpeechDecoderRecipe | VocoderRecipe) -> SpeechResult:
    """Train, and export to `save/export` when all steps are done; called again, export again.

    `name` is that of the recipe which `recipe` was made from.

    Raises:
        ConfigError: no manifest, no codes, no --save folder, or another model than --init-from.
        DataError: no usable recordings, or codes of several speech tokenizers.
        InUseError: another process trains into the folder.
    """
    save = recipe.loop.save
    if not recipe.data.manifest or save is None:
        raise ConfigError("give --manifest with recordings and --save with a folder")
    _refuse_another_model(recipe, RECIPES[name]())
    with sole_trainer(save), begun(save, plain(recipe), recipe.data.seed) as device:
        if isinstance(recipe, SpeechDecoderRecipe):
            finished = _train_flow(recipe, save, device)
        else:
            finished = _train_vocoder(recipe, save, device)
    return result_of(save, finished)


def _train_flow(recipe: SpeechDecoderRecipe, save: Path, device: torch.device) -> bool:
    if not recipe.codes:
        raise ConfigError("give --codes with code shards of the recordings (tokenize_speech)")
    codes = Codes(recipe.codes)
    codes.info.require_places_in_time("a speech decoder")
    vocoder = load_vocoder(recipe.vocoder) if recipe.vocoder is not None else None
    with _material(recipe.data, codes, save) as (utterances, valid, set_aside):
        model = _flow_model(recipe, codes, utterances)
        board = FlowSamples(save, vocoder) if _shows_samples(recipe) else None
        material = (utterances, valid, device, set_aside, board)
        objective = FlowObjective(model.config, recipe.objective, *material)
        finished = _fit(recipe, model, objective, device)
    if finished and is_launched_main_rank():
        with atomic_folder(save / "export") as staging:
            if vocoder is not None:
                vocoder.save_pretrained(staging / VOCODER)
            save_flow(model, staging)
    return finished


def _train_vocoder(recipe: VocoderRecipe, save: Path, device: torch.device) -> bool:
    with _material(recipe.data, None, save) as (utterances, valid, set_aside):
        vocoder = _vocoder(recipe)
        model = VocoderTraining(vocoder, recipe.objective)
        board = SampleBoard(save) if _shows_samples(recipe) else None
        material = (utterances, valid, device, set_aside, board)
        objective = VocoderObjective(recipe.objective, *material)
        finished = _fit(recipe, model, objective, device)
    if finished and is_launched_main_rank():
        with atomic_folder(save / "export") as staging:
            vocoder.save_pretrained(staging)
    return finished


@contextmanager
def _material(
    data: DecoderDataConfig, codes: Codes | None, save: Path
) -> Iterator[tuple[DecoderDataset, DecoderDataset | None, SetAside]]:
    """Recordings to train and validate on, and the file of those that cannot be used."""
    set_aside = SetAside(save / "rejected.jsonl", latest_iteration(save) is not None)
    utterances = DecoderDataset(data.manifest, data, codes, "reading training speech")
    valid = None
    if data.valid_manifest:
        kept = replace(data, cache_audio=False)
        valid = DecoderDataset(data.valid_manifest, kept, codes, "reading held-out speech")
    for part in filter(None, (utterances, valid)):
        set_aside.add(part.rejected)
    set_aside.write()
    yield utterances, valid, set_aside


def _fit(
    recipe: SpeechDecoderRecipe | VocoderRecipe,
    model: nn.Module,
    objective: FlowObjective | VocoderObjective,
    device: torch.device,
) -> bool:
    trainer = DdpTrainer(model, objective, recipe.optimizer, recipe.loop.train_iters, device)
    with closing(objective), closing(trainer):
        return train(trainer, recipe.loop, recipe.health).finished


def _flow_model(recipe: SpeechDecoderRecipe, codes: Codes, utterances: DecoderDataset) -> FlowModel:
    """A new model for these codes, or the one of --init-from, which must be of the same codes."""
    info = codes.info
    if recipe.init_from is not None:
        model = load_flow(recipe.init_from).train()
        found = model.config
        facts = (found.num_codes, found.frame_rate_hz, found.tokenizer_fingerprint)
        if facts != (info.num_codes, info.frame_rate_hz, info.tokenizer_fingerprint):
            raise ConfigError(
                f"--init-from {recipe.init_from} speaks {facts[0]} codes at {facts[1]} Hz of "
                f"speech tokenizer {facts[2]}; --codes are {info.num_codes} at "
                f"{info.frame_rate_hz} Hz of {info.tokenizer_fingerprint}"
            )
        new = sorted(set(utterances.speakers()) - set(found.speakers))
        if recipe.speaker_embedding:
            model.add_speakers(new)
        elif found.speakers and new and is_launched_main_rank():
            print(
                f"voices that --init-from {recipe.init_from} does not know train the row of nobody "
                f"({', '.join(new)}); --speaker-embedding gives them rows of their own"
            )
        return model
    config: SpeechDecoderConfig = replace(
        recipe.model,
        num_codes=info.num_codes,
        frame_rate_hz=info.frame_rate_hz,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        speakers=utterances.speakers() if recipe.speaker_embedding else (),
    )
    model = FlowModel(config)
    if recipe.codebook_of is not None:
        model.start_from_codebook(_codebook(recipe.codebook_of, info))
    return model


def _refuse_another_model(
    recipe: SpeechDecoderRecipe | VocoderRecipe, default: SpeechDecoderRecipe | VocoderRecipe
) -> None:
    """With --init-from the model is what that is: flags that say otherwise would do nothing."""
    if recipe.init_from is None:
        return
    if isinstance(recipe, SpeechDecoderRecipe):
        there, parts = load_flow(recipe.init_from).config.to_dict(), ("model", "codebook_of")
    else:
        there, parts = load_vocoder(recipe.init_from).settings, ("istft", "hifigan")
    given, usual, there = (flat(plain(values)) for values in (recipe, default, there))
    otherwise = []
    for name, value in given.items():
        key = name.partition(".")[2]
        if name.split(".")[0] in parts and value not in (usual.get(name), there.get(key)):
            flag = name.rpartition(".")[2].replace("_", "-")
            otherwise.append(f"--{flag} {value}" + (f" (it: {there[key]})" if key in there else ""))
    if otherwise:
        raise ConfigError(
            f"--init-from {recipe.init_from} says what the model is: {', '.join(otherwise)} would "
            "have no effect; leave such flags out, or train a new model without --init-from"
        )


def _codebook(folder: Path, info: CodeShardInfo) -> torch.Tensor:
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    if tokenizer.fingerprint != info.tokenizer_fingerprint:
        raise ConfigError(
            f"--codebook-of {folder} is speech tokenizer {tokenizer.fingerprint}; --codes are of "
            f"{info.tokenizer_fingerprint}"
        )
    assert tokenizer.model.encoder.quantizer is not None
    return tokenizer.model.encoder.quantizer.lookup(torch.arange(info.num_codes))


def _vocoder(recipe: VocoderRecipe) -> Vocoder:
    if recipe.init_from is not None:
        return load_vocoder(recipe.init_from).train()
    if recipe.istft is not None:
        return IstftVocoder(recipe.istft)
    assert recipe.hifigan is not None
    return HifiganVocoder.new(recipe.hifigan)


def _shows_samples(recipe: SpeechDecoderRecipe | VocoderRecipe) -> bool:
    return recipe.loop.tensorboard and bool(recipe.data.valid_manifest) and is_launched_main_rank()
