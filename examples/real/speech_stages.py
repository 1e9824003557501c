"""Stages from materials to codes: texts, recordings, voices, the speech tokenizer."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.quickstart.runner import Done, Figures, require_finished, to_flags
from examples.real.recordings import split_recordings
from examples.real.run import ITEMS, NEW_VOICE, TOPIC, TRAINED_VOICES, RealDemo, material
from examples.real.sizes import ESPEAK_SHARE, PEOPLE_SHARE
from examples.real.texts import write_rows, write_texts
from megatron_speech.errors import DataError

_CODED = ("train", "passages", "items")


def materials(demo: RealDemo, done: Done) -> Figures:
    """Models, recordings and texts, fetched or the user's own."""
    from examples.real.materials import prepare

    found = prepare(
        demo.path("materials"),
        whisper=demo.whisper,
        base=demo.base,
        speech=demo.speech,
        text=tuple(map(Path, demo.text)),
        small=demo.size.name == "smoke",
    )
    for note in found.notes:
        print(f"note: {note}")
    _require_fit(found.whisper, found.base)
    return _plain(asdict(found))


def _require_fit(whisper: Path, base: Path) -> None:
    """Refuse models that a later stage would, before anything is trained.

    Raises:
        CheckpointError: no Whisper, or no base model of a known family.
    """
    from megatron_speech.model.hf_config import model_from_config, read_config
    from megatron_speech.recipes.speech_tokenizer import tokenizer_from_whisper
    from megatron_speech.speech_tokenizer.whisper import shaped_as_whisper

    shaped_as_whisper(tokenizer_from_whisper(4, 16_384).model, whisper)
    model_from_config(read_config(base), base)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def recordings(demo: RealDemo, done: Done) -> Figures:
    """People's recordings, those without text read by a Whisper, split into training and test."""
    found = done["materials"]
    return split_recordings(
        demo.path("recordings"),
        [Path(path) for path in found["speech"]],
        material(done, "whisper"),
        Path(found["judge"] or found["whisper"]),
        demo.size,
    )


def speech(demo: RealDemo, done: Done) -> Figures:
    """Texts split by documents; sentences, passages and cloze items spoken by espeak-ng."""
    from tools import make_cloze, make_speech

    folder = demo.path("text")
    figures = write_texts(folder, done["materials"]["text"], demo.size)
    cloze = make_cloze.main([
        *to_flags(input=folder / "held-out.parquet", not_in=folder / "train.parquet",
                  output_dir=demo.path("cloze"), items=demo.size.cloze_items, name=ITEMS),
        *demo.size.cloze_flags,
    ])  # fmt: skip
    if TOPIC not in cloze["items"]:
        raise DataError(
            f"the held-out documents give no items of the task {TOPIC} ({cloze['items']}); give "
            "more text in several documents"
        )
    lists = {
        "train": folder / "spoken.parquet",
        "passages": folder / "passages.parquet",
        "items": demo.path("cloze", "texts.jsonl"),
        TRAINED_VOICES: folder / "test.parquet",
    }
    many = _speak(demo, lists, "many")
    new = _speak(demo, {NEW_VOICE: folder / "test.parquet"}, "held-out")
    return {
        **figures,
        "items": cloze["items"],
        "utterances": many.utterances + new.utterances,
        "hours": (many.duration_s + new.duration_s) / 3600,
        "voices": len(make_speech.VOICES["many"]),
    }


def _speak(demo: RealDemo, lists: dict[str, Path], voices: str) -> Any:
    """Speak several lists of texts in one go; the recordings of each as a manifest of its name."""
    from megatron_speech.data.manifest import read_manifest, read_texts, write_manifest
    from tools import make_speech

    texts = {name: read_texts(path) for name, path in lists.items()}
    together = demo.path("speech", voices)
    write_rows(together / "texts.parquet", [row for rows in texts.values() for row in rows])
    flags = to_flags(texts=together / "texts.parquet", output_dir=together / "made", voices=voices)
    summary = make_speech.main(flags)
    rows = {row.id: row for row in read_manifest(together / "made" / "manifest.parquet")}
    for name, wanted in texts.items():
        spoken = [rows[key] for key, _ in wanted if key in rows]
        write_manifest(demo.path("speech", name, "manifest.parquet"), spoken)
    return summary


def speech_tokenizer(demo: RealDemo, done: Done) -> Figures:
    """The released Whisper with a codebook in its middle, trained to hear through it."""
    from megatron_speech.training.reporting import read_metrics
    from tools import train_speech_tokenizer

    size, people = demo.size, demo.manifests("train")
    shares = [ESPEAK_SHARE, *(PEOPLE_SHARE / len(people) for _ in people)]
    flags = to_flags(
        init_from=material(done, "whisper"),
        manifest=[demo.path("speech", "train", "manifest.parquet"), *people],
        manifest_weights=shares,
        valid_manifest=demo.test_manifests(),
        save=demo.path("speech_tokenizer"),
        train_iters=size.tokenizer_steps,
        quantize_start_step=size.quantize_start_step,
    )
    flags += size.tokenizer_flags
    flags += ["--bf16"] if demo.bf16 else ["--no-bf16"]
    result = train_speech_tokenizer.main(["tokenizer-from-whisper-12.5hz", *flags])
    require_finished(result.finished)
    return {"validation": read_metrics(demo.path("speech_tokenizer"), "valid")}


def codes(demo: RealDemo, done: Done) -> Figures:
    """All speech as codes; every test set read by Whisper, past the codebook and through it."""
    from megatron_speech.data.code_shards import find_shards, read_shard_info
    from tools import evaluate_codes, tokenize_speech

    sources = {name: demo.path("speech", name, "manifest.parquet") for name in _CODED}
    sources |= {f"people/{path.stem}": path for path in demo.manifests("train")}
    sources[TRAINED_VOICES] = demo.path("speech", TRAINED_VOICES, "manifest.parquet")
    for name, manifest in sources.items():
        tokenize_speech.main(
            to_flags(
                input=manifest,
                speech_tokenizer=demo.speech_tokenizer,
                output=demo.path("codes", name),
            )
        )
    info = read_shard_info(find_shards(demo.path("codes", "train"))[0])
    flags = to_flags(
        speech_tokenizer=demo.speech_tokenizer,
        whisper=material(done, "whisper"),
        manifest=demo.test_manifests(),
        limit=demo.size.test_recordings,
    )
    return {
        "sets": evaluate_codes.main(flags),
        "num_codes": info.num_codes,
        "frame_rate_hz": info.frame_rate_hz,
    }
