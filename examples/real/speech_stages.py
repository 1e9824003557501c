"""Stages from materials to codes: texts, recordings, voices, the speech tokenizer."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.quickstart.runner import Done, Figures, tool, train
from examples.real.recordings import split_recordings
from examples.real.run import (
    ITEMS,
    MANY_VOICES,
    NARRATOR,
    NEURAL_TRAINING,
    NEURAL_VOICE,
    NEW_VOICE,
    SHORT,
    TOPIC,
    VOICES_TRAINING,
    RealDemo,
    material,
)
from examples.real.sizes import NARRATOR_SHARE, NEURAL_SHARE, PEOPLE_SHARE, VOICES_SHARE
from examples.real.texts import write_rows, write_texts
from megatron_speech.errors import DataError

_CODED = ("train", SHORT, NARRATOR, "items", "passages")
"""What becomes codes: all that the narrator says."""


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
    return found.plain()


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
    """Texts split by documents; sentences, passages and cloze items spoken by one voice of
    espeak-ng, the narrator, some sentences by many voices and by a neural one too."""
    from megatron_speech.text_to_speech.espeak import voices_of

    folder = demo.path("text")
    figures = write_texts(folder, done["materials"]["text"], demo.size)
    cloze = tool(
        "make_cloze",
        *demo.size.cloze_flags,
        input=folder / "held-out.parquet",
        not_in=folder / "train.parquet",
        output_dir=demo.path("cloze"),
        items=demo.size.cloze_items,
        name=ITEMS,
    )
    if TOPIC not in cloze["items"]:
        raise DataError(
            f"the held-out documents give no items of the task {TOPIC} ({cloze['items']}); give "
            "more text in several documents"
        )
    test = folder / "test.parquet"
    lists = {
        "train": folder / "narrated.parquet",
        SHORT: folder / "short.parquet",
        "passages": folder / "passages.parquet",
        "items": demo.path("cloze", "texts.jsonl"),
        NARRATOR: test,
    }
    many = {VOICES_TRAINING: folder / "spoken.parquet", MANY_VOICES: test}
    spoken = [
        _speak(demo, lists, "narrator", voices="narrator"),
        _speak(demo, many, "many", voices="many"),
        _speak(demo, {NEW_VOICE: test}, "held-out", voices="held-out"),
    ]
    voice = done["materials"]["voice"] if demo.size.neural_sentences else None
    if voice:
        rows = pq.read_table(folder / "narrated.parquet").slice(0, demo.size.neural_sentences)
        write_rows(folder / "neural.parquet", list(zip(*rows.to_pydict().values(), strict=True)))
        lists = {NEURAL_TRAINING: folder / "neural.parquet", NEURAL_VOICE: test}
        spoken.append(_speak(demo, lists, "neural", piper=voice))
    return {
        **figures,
        "items": cloze["items"],
        "utterances": sum(summary.utterances for summary in spoken),
        "hours": sum(summary.duration_s for summary in spoken) / 3600,
        "voices": 1 + len(voices_of("en", "many")) + bool(voice),
    }


def _speak(demo: RealDemo, lists: dict[str, Path], name: str, **voices: Any) -> Any:
    """Speak several lists of texts in one go; the recordings of each as a manifest of its name."""
    from megatron_speech.data.manifest import read_manifest, read_texts, write_manifest

    texts = {part: read_texts(path) for part, path in lists.items()}
    together = demo.path("speech", name)
    write_rows(together / "texts.parquet", [row for rows in texts.values() for row in rows])
    lists_of = {"texts": together / "texts.parquet", "output_dir": together / "made"}
    summary = tool("make_speech", **lists_of, **voices)
    rows = {row.id: row for row in read_manifest(together / "made" / "manifest.parquet")}
    for part, wanted in texts.items():
        spoken = [rows[key] for key, _ in wanted if key in rows]
        write_manifest(demo.manifest(part), spoken)
    return summary


def speech_tokenizer(demo: RealDemo, done: Done) -> Figures:
    """The released Whisper with a codebook in its middle, trained to hear through it."""
    from megatron_speech.training.reporting import read_metrics

    size, people, neural = demo.size, demo.manifests("train"), demo.neural_training()
    train(
        "train_speech_tokenizer",
        "tokenizer-from-whisper-12.5hz",
        *size.tokenizer_flags,
        init_from=material(done, "whisper"),
        manifest=[demo.manifest("train"), demo.manifest(VOICES_TRAINING), *neural, *people],
        manifest_weights=[
            NARRATOR_SHARE,
            VOICES_SHARE,
            *(NEURAL_SHARE for _ in neural),
            *(PEOPLE_SHARE / len(people) for _ in people),
        ],
        valid_manifest=demo.test_manifests(),
        save=demo.path("speech_tokenizer"),
        train_iters=size.tokenizer_steps,
        quantize_start_step=size.quantize_start_step,
        bf16=demo.bf16,
    )
    return {"validation": read_metrics(demo.path("speech_tokenizer"), "valid")}


def codes(demo: RealDemo, done: Done) -> Figures:
    """All speech as codes; every test set read by Whisper, past the codebook and through it."""
    from megatron_speech.data.code_shards import find_shards, read_shard_info

    sources = {name: demo.manifest(name) for name in _CODED}
    sources |= {f"people/{path.stem}": path for path in demo.manifests("train")}
    sources |= {path.parent.name: path for path in demo.neural_training()}
    tokenizer = {"speech_tokenizer": demo.speech_tokenizer}
    for name, manifest in sources.items():
        tool("tokenize_speech", input=manifest, output=demo.path("codes", name), **tokenizer)
    info = read_shard_info(find_shards(demo.path("codes", "train"))[0])
    whisper, limit = material(done, "whisper"), demo.size.test_recordings
    tests = {"manifest": demo.test_manifests(), "limit": limit}
    return {
        "sets": tool("evaluate_codes", whisper=whisper, **tests, **tokenizer),
        "num_codes": info.num_codes,
        "frame_rate_hz": info.frame_rate_hz,
    }
