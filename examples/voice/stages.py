"""The stages of the voice demo. Each calls the public tools a cluster would run."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.quickstart.runner import Demo, Done, Figures, Stage, to_flags, tool, train
from examples.voice.sizes import MODES, SHARES, VoiceSize
from megatron_speech.errors import DataError
from megatron_speech.io.files import atomic_path, fingerprint_of, read_json, write_json

_LONGEST_SPOKEN_CHARACTERS = 60
"""Text-to-token has learned sentences and short windows: a told story is spoken by sentences."""


@dataclass(frozen=True, kw_only=True)
class VoiceDemo(Demo):
    """One run of the voice demo, on top of a finished run of the quickstart."""

    size: VoiceSize
    base: Path
    """Folder of that run."""
    whisper: Path | None = None
    """A Whisper that reads the decoded speech too: folder, or id of the Hugging Face hub."""

    def identity(self) -> str:
        """The quickstart's own, and what that run came to."""
        last = read_json(self.base / "stages" / "evaluation.json")
        return fingerprint_of(super().identity(), last["done"])

    @property
    def speech_tokenizer(self) -> Path:
        """That run's speech tokenizer."""
        return self.base / "speech_tokenizer" / "export"

    def require_inputs(self) -> None:
        """See that the quickstart run is there and finished, and that the Whisper is one.

        Raises:
            DataError: the run is not.
            CheckpointError: the Whisper is none.
        """
        if not (self.base / "report.json").exists():
            raise DataError(f"{self.base} holds no finished demo; run `make demo` first")
        if self.whisper is not None:
            from megatron_speech.speech_tokenizer.whisper import Whisper

            Whisper.settings(self.whisper)

    def language_model(self) -> Path:
        """Folder of the run's speech-text model, of the first seed."""
        seeds = sorted(self.base.glob("model-*"))
        return seeds[0] if seeds else self.base / "model"


def speech(demo: VoiceDemo, done: Done) -> Figures:
    """Recordings of a narrator, who always speaks alike, and their codes."""
    texts = demo.base / "storyworld" / "speech"
    sources = {"train": (texts / "train.parquet", demo.size.recordings),
               "test": (texts / "sentences.parquet", demo.size.test_recordings)}  # fmt: skip
    figures = {}
    for name, (source, count) in sources.items():
        table = pq.read_table(source)
        table = table.filter(pc.equal(table["kind"], "sentence")).slice(0, count)
        chosen = demo.path("speech", f"{name}.parquet")
        with atomic_path(chosen) as temporary:
            pq.write_table(table, temporary)
        folder = demo.path("speech", name)
        spoken = tool("make_speech", texts=chosen, output_dir=folder, voices="narrator")
        figures[f"{name}_hours"] = spoken.duration_s / 3600
        _tokenize(demo, demo.manifest(name), demo.path("speech", "codes", name))
    return figures


def _tokenize(demo: VoiceDemo, manifest: Path, output: Path) -> None:
    tokenizer = demo.speech_tokenizer
    tool("tokenize_speech", input=manifest, speech_tokenizer=tokenizer, output=output)


def vocoder(demo: VoiceDemo, done: Done) -> Figures:
    """Spectrograms to sound."""
    steps, recipe = demo.size.vocoder_steps, demo.size.recipes[0]
    return _train(demo, recipe, "vocoder", train_iters=steps)


def decoder(demo: VoiceDemo, done: Done) -> Figures:
    """Codes to spectrograms."""
    steps, recipe = demo.size.decoder_steps, demo.size.recipes[1]
    codes, tokenizer = _codes(demo), demo.speech_tokenizer
    return _train(demo, recipe, "decoder", train_iters=steps, codes=codes, codebook_of=tokenizer)


def voice(demo: VoiceDemo, done: Done) -> Figures:
    """The second stage: speech that starts early."""
    return _train(
        demo,
        demo.size.recipes[2],
        "voice",
        train_iters=demo.size.voice_steps,
        codes=_codes(demo),
        init_from=demo.path("decoder", "export"),
        vocoder=demo.path("vocoder", "export"),
    )


def _codes(demo: VoiceDemo) -> list[Path]:
    return [demo.path("speech", "codes", name) for name in ("train", "test")]


def _train(demo: VoiceDemo, recipe: str, folder: str, **settings: Any) -> Figures:
    train("train_speech_decoder", recipe, manifest=demo.manifest("train"),
          valid_manifest=demo.manifest("test"), save=demo.path(folder), **settings)  # fmt: skip
    return {}


def quality(demo: VoiceDemo, done: Done) -> Figures:
    """Held-out sentences, decoded at once and as a stream, read back by recognisers."""
    return tool(
        "evaluate_decoder",
        recognisers=("tokenizer", "whisper") if demo.whisper else None,
        whisper=demo.whisper,
        decoder=demo.path("voice", "export"),
        speech_tokenizer=demo.speech_tokenizer,
        manifest=demo.manifest("test"),
        audio=demo.path("quality", "audio"),
        output=demo.path("quality", "decoder.json"),
    )


def dialogues(demo: VoiceDemo, done: Done) -> Figures:
    """Dialogues about StoryWorld, their turns spoken by the text-to-token model."""
    from examples.storyworld import chat

    texts, size = demo.path("dialogues", "texts"), demo.size
    chat.main(to_flags(output_dir=texts, dialogues=size.dialogues, items=size.items))
    built = tool(
        "build_dialogues",
        *size.generation_flags,
        input=texts / "train.jsonl",
        vocab=demo.language_model() / "hf",
        model=demo.base / "text_to_token" / "hf",
        like=demo.base / "codes" / "train",
        most_characters=_LONGEST_SPOKEN_CHARACTERS,
        modes=MODES,
        output_prefix=demo.path("dialogues", "data"),
    )
    return {"dialogues": built["dialogues"], "datasets": built["datasets"]}


def fine_tuning(demo: VoiceDemo, done: Done) -> Figures:
    """The pre-trained model, fine-tuned on dialogues in all modes."""
    save = demo.path("fine_tuning", "run")
    datasets = {mode: demo.path("dialogues", f"data-{mode}") for mode in MODES}
    train(
        "pretrain",
        demo.size.recipes[3],
        pretrained_checkpoint=demo.language_model() / "run",
        data_path=[part for mode, data in datasets.items() for part in (SHARES[mode], data)],
        train_iters=demo.size.fine_tuning_steps,
        save=save,
        bf16=demo.bf16,
    )
    tool("convert_checkpoint", "megatron-to-hf", load=save, hf=demo.path("fine_tuning", "hf"))
    return {}


def chat_evaluation(demo: VoiceDemo, done: Done) -> Figures:
    """Held-out questions, asked aloud of the fine-tuned model and of the pre-trained one."""
    texts = demo.path("dialogues", "texts")
    speech, codes = demo.path("chat", "speech"), demo.path("chat", "codes")
    tool("make_speech", texts=texts / "utterances.parquet", output_dir=speech)
    _tokenize(demo, speech / "manifest.parquet", codes)
    return tool(
        "evaluate_chat",
        model=demo.path("fine_tuning", "hf"),
        pretrained=demo.language_model() / "hf",
        speech_tokenizer=demo.speech_tokenizer,
        decoder=demo.path("voice", "export"),
        items=texts / "eval.jsonl",
        questions=codes,
        modes=MODES,
        max_new_tokens=demo.size.longest_answer,
        output=demo.path("chat", "results.json"),
    )


def conversation(demo: VoiceDemo, done: Done) -> Figures:
    """A dialogue to listen to: a told story and two questions about it."""
    from megatron_speech.data.manifest import read_manifest

    spoken = {row.text: row for row in read_manifest(demo.path("chat", "speech/manifest.parquet"))}
    lines = demo.path("dialogues", "texts", "eval.jsonl").read_text(encoding="utf-8").splitlines()
    questions = next(item["turns"] for item in map(json.loads, lines) if len(item["turns"]) > 1)
    asked = [spoken[question].path for question in questions]
    folder = demo.path("conversation")
    talk = tool(
        "chat",
        model=demo.path("fine_tuning", "hf"),
        speech_tokenizer=demo.speech_tokenizer,
        decoder=demo.path("voice", "export"),
        output_dir=folder,
        max_new_tokens=demo.size.longest_answer,
        ask=asked,
    )
    answers = [turn.text or "" for turn in talk.session.history if turn.role == "assistant"]
    sounds = [folder / f"turn_{number:03d}.wav" for number in range(len(asked))]
    turns = [
        # no sound where the model said nothing
        {"question": question, "recording": str(path), "answer": answer,
         "sound": str(sound) if sound.exists() else None}
        for question, path, answer, sound in zip(questions, asked, answers, sounds, strict=True)
    ]  # fmt: skip
    write_json(folder / "turns.json", turns)
    tokenise_s = statistics.median(done.timing.tokenise_s for done in talk.answers)
    return {"turns": turns, "tokenise_s": tokenise_s}


CHAIN = (
    Stage("speech", "A narrator's speech, by espeak-ng", speech,
          settings=("recordings", "test_recordings")),
    Stage("dialogues", "Dialogues, spoken", dialogues, after=(),
          settings=("dialogues", "items", "generation_flags")),
    Stage("decoder", "Training the speech decoder: codes to spectrograms", decoder,
          after=("speech",), settings=("recipes", "decoder_steps")),
    Stage("vocoder", "Training the vocoder: spectrograms to sound", vocoder,
          after=("speech",), settings=("recipes", "vocoder_steps")),
    Stage("fine_tuning", "Fine-tuning the speech-text model on dialogues", fine_tuning,
          after=("dialogues",), settings=("recipes", "fine_tuning_steps")),
    Stage("voice", "An early start", voice,
          after=("decoder", "vocoder"), settings=("voice_steps",)),
    Stage("chat", "Questions, asked aloud", chat_evaluation,
          after=("voice", "fine_tuning"), settings=("longest_answer",)),
    Stage("quality", "What decoded speech is worth", quality, after=("voice",),
          models=("whisper",)),
    Stage("conversation", "A conversation to listen to", conversation, after=("chat", "quality")),
)  # fmt: skip
