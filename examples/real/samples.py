"""What one can hear and read on the page: beginnings with continuations, recordings, documents."""

from typing import Any

import numpy as np

from examples.quickstart import samples
from examples.quickstart.runner import Done, Figures
from examples.quickstart.samples import Recording, Segment
from examples.real.model_stages import BASE, base_vocab, checkpoint, points
from examples.real.run import MANY_VOICES, NARRATOR, NEURAL_VOICE, NEW_VOICE, RealDemo
from examples.real.sizes import ARMS

_MORE_TOKENS = 40
_OF_PEOPLE = 3
_DOCUMENTS_READ, _MOST_SEGMENTS, _MOST_WORDS = 8, 15, 220


def continuations(demo: RealDemo, done: Done) -> Figures:
    """Beginnings of held-out passages, spoken and written, continued in writing by every model."""
    from megatron_speech.evaluation.context import Utterances
    from megatron_speech.evaluation.items import read_cloze
    from megatron_speech.evaluation.qa import generate
    from megatron_speech.evaluation.scoring import LanguageModel

    items = read_cloze(demo.path("cloze", "cloze.jsonl"))[: demo.size.samples]
    spoken = Utterances((demo.path("codes", "items"),))
    shown: list[dict[str, Any]] = [
        {"context": list(item.context), "right": item.right, "heard": {}, "read": {}}
        for item in items
    ]
    for arm in (BASE, *ARMS):
        folder = checkpoint(demo, arm, points(demo)[-1])
        model = LanguageModel.from_pretrained(folder, demo.machine["precision"])
        vocab = model.vocab
        for way in ("heard", "read"):
            bodies = [
                vocab.speech_segment(np.concatenate([spoken.codes(s) for s in item.context]))
                if way == "heard"
                else np.array(vocab.text.encode(" ".join(item.context)))
                for item in items
            ]
            prompts = [np.concatenate([[vocab.eod_id], body]) for body in bodies]
            answers = generate(model, prompts, speech=False, max_new_tokens=_MORE_TOKENS,
                               description=f"{arm}, {way}")  # fmt: skip
            for entry, tokens in zip(shown, answers, strict=True):
                entry[way][arm] = vocab.text.decode(tokens.tolist()).strip()
    return {"shown": shown}


def item_sound(demo: RealDemo, sentences: list[str]) -> np.ndarray:
    """The recordings of an item's sentences, one after the other, (samples,) at 16 kHz."""
    from megatron_speech.audio import read_audio
    from megatron_speech.data.manifest import read_manifest

    rows = read_manifest(demo.manifest("items"))
    paths = {row.text: row.path for row in rows}
    return np.concatenate([read_audio(paths[sentence]) for sentence in sentences])


def recordings(demo: RealDemo) -> list[Recording]:
    """Held-out recordings of people and voices, with their codes and what is read from them."""
    from megatron_speech.data.manifest import read_manifest

    chosen = []
    for path in demo.manifests("test")[:_OF_PEOPLE]:
        chosen += [(path.stem, row) for row in read_manifest(path) if row.text][:1]
    kinds = {
        NARRATOR: "the narrator",
        MANY_VOICES: "synthetic voice",
        NEW_VOICE: "voice not trained on",
        NEURAL_VOICE: "neural voice",
    }
    for path in demo.test_manifests():
        name = path.parent.name
        if name in kinds:
            chosen += [(kinds[name], row) for row in read_manifest(path)[:1]]
    return samples.recordings(demo.speech_tokenizer, chosen)


def passage(demo: RealDemo) -> list[Segment]:
    """The beginning of the interleaved document that has most spans there."""
    prefix = demo.path("interleaved", "data")
    found = samples.documents(prefix, base_vocab(demo), _DOCUMENTS_READ)
    return max(map(_beginning, found), key=_spans, default=[])


def _spans(segments: list[Segment]) -> int:
    return sum(segment.num_codes > 0 for segment in segments)


def _beginning(segments: list[Segment]) -> list[Segment]:
    """As many segments as a reader takes in, long runs of text cut."""
    kept, words = [], 0
    for segment in segments[:_MOST_SEGMENTS]:
        own = segment.text.split()
        if words + len(own) > _MOST_WORDS:
            if not segment.num_codes:
                cut = " ".join(own[: max(0, _MOST_WORDS - words)])
                kept.append(Segment(text=f"{cut} …"))
            break
        kept.append(segment)
        words += len(own)
    return kept


def say(words: str) -> np.ndarray:
    """espeak-ng saying some words, (samples,) at its own rate of 16 kHz."""
    from megatron_speech.text_to_speech.espeak import NARRATORS

    (voice,) = NARRATORS
    return voice.say(words, words, seed=1)
