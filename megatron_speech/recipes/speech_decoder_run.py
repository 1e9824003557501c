"""What binds a recipe's parts into the training of a flow model or of a vocoder."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from torch import nn

from ..data.code_shards import CodeShardInfo
from ..errors import ConfigError
from ..files import write_text
from ..folders import atomic_folder
from ..model.card import RUN_CONFIG
from ..speech_decoder.config import SpeechDecoderConfig
from ..speech_decoder.dataset import Codes, DecoderDataConfig, Utterances, speakers_of
from ..speech_decoder.decoder import VOCODER, load_flow, save_flow
from ..speech_decoder.flow import FlowModel
from ..speech_decoder.objective import FlowObjective
from ..speech_decoder.samples import FlowSamples, SampleBoard
from ..speech_decoder.vocoder import HifiganVocoder, IstftVocoder, Vocoder, load_vocoder
from ..speech_decoder.vocoder_objective import VocoderObjective, VocoderTraining
from ..speech_tokenizer.set_aside import SetAside
from ..speech_tokenizer.tokenizer import SpeechTokenizer
from ..training.checkpoint import latest_iteration
from ..training.ddp import DdpTrainer, Objective, process_group
from ..training.loop import train
from ..training.reporting import read_metrics
from .resume import check_resume, flat, plain, sole_trainer
from .speech_decoder import RECIPES, SpeechDecoderRecipe, VocoderRecipe


@dataclass(frozen=True, kw_only=True)
class DecoderResult:
    """How a training ended."""

    export: Path | None
    """Folder of the finished model; None if it stopped early."""
    finished: bool
    """False if it was stopped and should be started again."""
    metrics: dict[str, float]
    """Figures of the last evaluation."""


def train_decoder(name: str, recipe: SpeechDecoderRecipe | VocoderRecipe) -> DecoderResult:
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
    with sole_trainer(save):
        finished = _train(recipe, save)
    records = read_metrics(save, "valid")
    figures = {k: v for k, v in records[-1].items() if isinstance(v, float)} if records else {}
    return DecoderResult(
        export=save / "export" if finished else None, finished=finished, metrics=figures
    )


def _train(recipe: SpeechDecoderRecipe | VocoderRecipe, save: Path) -> bool:
    settings = plain(recipe)
    note = check_resume(save, settings)
    with process_group() as device:
        if _rank() == 0:
            print(note or "", end="\n" if note else "", flush=True)
            write_text(save / RUN_CONFIG, yaml.safe_dump(settings, sort_keys=False))
        torch.manual_seed(recipe.data.seed)
        if isinstance(recipe, SpeechDecoderRecipe):
            return _train_flow(recipe, save, device)
        return _train_vocoder(recipe, save, device)


def _train_flow(recipe: SpeechDecoderRecipe, save: Path, device: torch.device) -> bool:
    if not recipe.codes:
        raise ConfigError("give --codes with code shards of the recordings (tokenize_speech)")
    codes = Codes(recipe.codes)
    codes.info.require_places_in_time("a speech decoder")
    vocoder = load_vocoder(recipe.vocoder) if recipe.vocoder is not None else None
    with _material(recipe.data, codes, save) as (utterances, valid, set_aside):
        model = _flow_model(recipe, codes, utterances)
        board = FlowSamples(save, vocoder) if _shows_samples(recipe) else None
        objective = FlowObjective(
            utterances, valid, model.config, recipe.objective, device, set_aside, board
        )
        finished = _fit(recipe, model, objective, device)
    if finished and _rank() == 0:
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
        objective = VocoderObjective(utterances, valid, recipe.objective, device, set_aside, board)
        finished = _fit(recipe, model, objective, device)
    if finished and _rank() == 0:
        with atomic_folder(save / "export") as staging:
            vocoder.save_pretrained(staging)
    return finished


@contextmanager
def _material(
    data: DecoderDataConfig, codes: Codes | None, save: Path
) -> Iterator[tuple[Utterances, Utterances | None, SetAside]]:
    """Recordings to train and validate on, and the file of those that cannot be used."""
    set_aside = SetAside(save / "rejected.jsonl", latest_iteration(save) is not None)
    utterances = Utterances(data.manifest, data, codes, "reading training speech")
    valid = None
    if data.valid_manifest:
        kept = replace(data, cache_audio=False)
        valid = Utterances(data.valid_manifest, kept, codes, "reading held-out speech")
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
    known: Objective = objective
    trainer = DdpTrainer(model, known, recipe.optimizer, recipe.loop.train_iters, device)
    with closing(objective), closing(trainer):
        return train(trainer, recipe.loop, recipe.health).finished


def _flow_model(recipe: SpeechDecoderRecipe, codes: Codes, utterances: Utterances) -> FlowModel:
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
        new = sorted(set(speakers_of(utterances)) - set(found.speakers))
        if recipe.speaker_embedding:
            model.add_speakers(new)
        elif found.speakers and new and _rank() == 0:
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
        speakers=speakers_of(utterances) if recipe.speaker_embedding else (),
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
    return recipe.loop.tensorboard and bool(recipe.data.valid_manifest) and _rank() == 0


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
