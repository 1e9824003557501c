"""The stages of the voice demo. Each calls the public tools a cluster would run."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.quickstart.runner import Demo, Done, Figures, Stage, require_finished, to_flags
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
    """Folder of a Whisper that reads the decoded speech too."""

    def identity(self) -> str:
        """The quickstart's own, and what that run came to."""
        last = read_json(self.base / "stages" / "evaluation.json")
        return fingerprint_of(super().identity(), last["done"])

    @property
    def base_report(self) -> Path:
        """The report of the quickstart run, its last file."""
        return self.base / "report.json"

    @property
    def speech_tokenizer(self) -> Path:
        """That run's speech tokenizer."""
        return self.base / "speech_tokenizer" / "export"

    def require_base(self) -> None:
        """See that the quickstart run is there and finished.

        Raises:
            DataError: it is not.
        """
        if not self.base_report.exists():
            raise DataError(f"{self.base} holds no finished demo; run `make demo` first")

    def language_model(self) -> Path:
        """Folder of the run's speech-text model, of the first seed."""
        seeds = sorted(self.base.glob("model-*"))
        return seeds[0] if seeds else self.base / "model"


def speech(demo: VoiceDemo, done: Done) -> Figures:
    """Recordings of a narrator, who always speaks alike, and their codes."""
    from tools import make_speech, tokenize_speech

    texts = demo.base / "storyworld" / "speech"
    sources = {"train": (texts / "train.parquet", demo.size.recordings),
               "test": (texts / "sentences.parquet", demo.size.test_recordings)}  # fmt: skip
    figures = {}
    for name, (source, count) in sources.items():
        folder = demo.path("speech", name)
        chosen = _first_sentences(source, count, demo.path("speech", f"{name}.parquet"))
        spoken = make_speech.main(to_flags(texts=chosen, output_dir=folder, voices="narrator"))
        figures[f"{name}_hours"] = spoken.duration_s / 3600
        tokenize_speech.main(
            to_flags(
                input=folder / "manifest.parquet",
                speech_tokenizer=demo.speech_tokenizer,
                output=demo.path("speech", "codes", name),
            )
        )
    return figures


def _first_sentences(source: Path, count: int, target: Path) -> Path:
    """The first whole sentences of a list of texts, as a list of their own."""
    table = pq.read_table(source)
    table = table.filter(pc.equal(table["kind"], "sentence")).slice(0, count)
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary)
    return target


def vocoder(demo: VoiceDemo, done: Done) -> Figures:
    """Spectrograms to sound."""
    steps, recipe = demo.size.vocoder_steps, demo.size.recipes[0]
    return _train(demo, recipe, "vocoder", train_iters=steps)


def decoder(demo: VoiceDemo, done: Done) -> Figures:
    """Codes to spectrograms."""
    return _train(
        demo,
        demo.size.recipes[1],
        "decoder",
        train_iters=demo.size.decoder_steps,
        codes=_codes(demo),
        codebook_of=demo.speech_tokenizer,
    )


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
    from tools import train_speech_decoder

    flags = to_flags(
        manifest=demo.path("speech", "train", "manifest.parquet"),
        valid_manifest=demo.path("speech", "test", "manifest.parquet"),
        save=demo.path(folder),
        **settings,
    )
    require_finished(train_speech_decoder.main([recipe, *flags]).finished)
    return {}


def quality(demo: VoiceDemo, done: Done) -> Figures:
    """Held-out sentences, decoded at once and as a stream, read back by recognisers."""
    from tools import evaluate_decoder

    readers = {}
    if demo.whisper is not None:
        readers = {"recognisers": ("tokenizer", "whisper"), "whisper": demo.whisper}
    return evaluate_decoder.main(
        to_flags(
            **readers,
            decoder=demo.path("voice", "export"),
            speech_tokenizer=demo.speech_tokenizer,
            manifest=demo.path("speech", "test", "manifest.parquet"),
            audio=demo.path("quality", "audio"),
            output=demo.path("quality", "decoder.json"),
        )
    )


def dialogues(demo: VoiceDemo, done: Done) -> Figures:
    """Dialogues about StoryWorld, their turns spoken by the text-to-token model."""
    from examples.storyworld import chat
    from tools import build_dialogues

    texts = demo.path("dialogues", "texts")
    size = demo.size
    chat.main(to_flags(output_dir=texts, dialogues=size.dialogues, items=size.items))
    flags = to_flags(
        input=texts / "train.jsonl",
        vocab=demo.language_model() / "hf",
        model=demo.base / "text_to_token" / "hf",
        like=demo.base / "codes" / "train",
        most_characters=_LONGEST_SPOKEN_CHARACTERS,
        modes=MODES,
        output_prefix=demo.path("dialogues", "data"),
    )
    built = build_dialogues.main([*flags, *size.generation_flags])
    return {"dialogues": built["dialogues"], "datasets": built["datasets"]}


def fine_tuning(demo: VoiceDemo, done: Done) -> Figures:
    """The pre-trained model, fine-tuned on dialogues in all modes."""
    from tools import convert_checkpoint, pretrain

    blend = [p for mode in MODES for p in (SHARES[mode], demo.path("dialogues", f"data-{mode}"))]
    save = demo.path("fine_tuning", "run")
    flags = to_flags(
        pretrained_checkpoint=demo.language_model() / "run",
        data_path=blend,
        train_iters=demo.size.fine_tuning_steps,
        save=save,
    )
    flags += ["--bf16"] if demo.bf16 else []
    require_finished(pretrain.main([demo.size.recipes[3], *flags]).finished)
    target = demo.path("fine_tuning", "hf")
    convert_checkpoint.main(["megatron-to-hf", *to_flags(load=save, hf=target)])
    return {}


def chat_evaluation(demo: VoiceDemo, done: Done) -> Figures:
    """Held-out questions, asked aloud of the fine-tuned model and of the pre-trained one."""
    from tools import evaluate_chat, make_speech, tokenize_speech

    texts, tokenizer = demo.path("dialogues", "texts"), demo.speech_tokenizer
    speech, codes = demo.path("chat", "speech"), demo.path("chat", "codes")
    make_speech.main(to_flags(texts=texts / "utterances.parquet", output_dir=speech))
    manifest = speech / "manifest.parquet"
    tokenize_speech.main(to_flags(input=manifest, speech_tokenizer=tokenizer, output=codes))
    return evaluate_chat.main(
        to_flags(
            model=demo.path("fine_tuning", "hf"),
            pretrained=demo.language_model() / "hf",
            speech_tokenizer=tokenizer,
            decoder=demo.path("voice", "export"),
            items=texts / "eval.jsonl",
            questions=codes,
            modes=MODES,
            max_new_tokens=demo.size.longest_answer,
            output=demo.path("chat", "results.json"),
        )
    )


def conversation(demo: VoiceDemo, done: Done) -> Figures:
    """A dialogue to listen to: a told story and two questions about it."""
    from megatron_speech.data.manifest import read_manifest
    from tools import chat

    spoken = {row.text: row for row in read_manifest(demo.path("chat", "speech/manifest.parquet"))}
    item = _conversation_item(demo.path("dialogues", "texts", "eval.jsonl"))
    asked = [spoken[turn].path for turn in item["turns"]]
    folder = demo.path("conversation")
    talk = chat.main(
        to_flags(
            model=demo.path("fine_tuning", "hf"),
            speech_tokenizer=demo.speech_tokenizer,
            decoder=demo.path("voice", "export"),
            output_dir=folder,
            max_new_tokens=demo.size.longest_answer,
            ask=asked,
        )
    )
    answers = [turn.text or "" for turn in talk.session.history if turn.role == "assistant"]
    tokenise_s = statistics.median(done.timing.tokenise_s for done in talk.answers)
    turns = [
        {"question": text, "recording": str(path), "answer": answer, "sound": sound}
        for text, path, answer, sound in zip(
            item["turns"], asked, answers, _sounds(folder, len(asked)), strict=True
        )
    ]
    write_json(folder / "turns.json", turns)
    return {"turns": turns, "tokenise_s": tokenise_s}


def _conversation_item(path: Path) -> dict[str, Any]:
    """The first item of two turns."""
    items = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return next(item for item in items if len(item["turns"]) > 1)


def _sounds(folder: Path, count: int) -> list[str | None]:
    """Sound of each answer; None where the model said nothing."""
    paths = [folder / f"turn_{number:03d}.wav" for number in range(count)]
    return [str(path) if path.exists() else None for path in paths]


CHAIN = (
    Stage(
        name="speech",
        title="A narrator's speech, by espeak-ng",
        run=speech,
        settings=("recordings", "test_recordings"),
        folders=("speech",),
    ),
    Stage(
        name="dialogues",
        title="Dialogues, spoken",
        run=dialogues,
        after=(),
        settings=("dialogues", "items", "generation_flags"),
        folders=("dialogues",),
    ),
    Stage(
        name="decoder",
        title="Training the speech decoder: codes to spectrograms",
        run=decoder,
        after=("speech",),
        settings=("recipes", "decoder_steps"),
        folders=("decoder",),
    ),
    Stage(
        name="vocoder",
        title="Training the vocoder: spectrograms to sound",
        run=vocoder,
        after=("speech",),
        settings=("recipes", "vocoder_steps"),
        folders=("vocoder",),
    ),
    Stage(
        name="fine_tuning",
        title="Fine-tuning the speech-text model on dialogues",
        run=fine_tuning,
        after=("dialogues",),
        settings=("recipes", "fine_tuning_steps"),
        folders=("fine_tuning",),
    ),
    Stage(
        name="voice",
        title="An early start",
        run=voice,
        after=("decoder", "vocoder"),
        settings=("voice_steps",),
        folders=("voice",),
    ),
    Stage(
        name="chat",
        title="Questions, asked aloud",
        run=chat_evaluation,
        after=("voice", "fine_tuning"),
        settings=("longest_answer",),
        folders=("chat",),
    ),
    Stage(
        name="quality",
        title="What decoded speech is worth",
        run=quality,
        after=("voice",),
        folders=("quality",),
    ),
    Stage(
        name="conversation",
        title="A conversation to listen to",
        run=conversation,
        after=("chat", "quality"),
        folders=("conversation",),
    ),
)
