"""Write the texts of StoryWorld: a corpus, texts for speech, and evaluation items.

    python examples/storyworld/generate.py --output-dir runs/storyworld --documents 100000

Writes corpus/, speech/ and eval/ there.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package and its neighbours
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import random
    from collections.abc import Iterator, Sequence
    from dataclasses import dataclass

    from examples.storyworld import outputs
    from examples.storyworld.dialogues import fact_questions, small_talk
    from examples.storyworld.encyclopedia import (
        about_nature_and_things,
        about_towns,
        encyclopedia_entry,
    )
    from examples.storyworld.evaluation import cloze_items, distinct_sentences, questions
    from examples.storyworld.outputs import SpeechText, Summary
    from examples.storyworld.stories import all_scenarios, held_out_story, training_story
    from examples.storyworld.templates import pick
    from examples.storyworld.world import World, make_world
    from megatron_speech import cli
    from megatron_speech.errors import ConfigError

STORY_SHARE = 0.80
ENCYCLOPEDIA_SHARE = 0.11
SMALL_TALK_SHARE = 0.06
"""The rest are questions and answers about facts."""
SPEECH_STORY_SHARE = 0.8
SPEECH_SMALL_TALK_SHARE = 0.12
"""Documents behind paired speech; the rest is about things. None tells a fact about people."""
MEAN_WINDOW_WORDS = 10
MAX_WINDOW_WORDS = 24


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of the generator."""

    output_dir: Path
    """Folder to write into."""
    documents: int = 100_000
    """Documents of the text corpus, validation included."""
    seed: int = 1
    """The same seed gives the same bytes."""
    valid_share: float = 0.01
    """Share of the documents set aside for validation."""
    speech_utterances: int = 12_000
    """Texts for paired speech: half sentences, half word windows."""
    speech_stories: int = 4_000
    """Stories for speech-only data; each becomes three to five segments."""
    speech_test_utterances: int = 400
    """Held-out sentences, and as many held-out windows, to measure recognition on."""
    cloze_items: int = 600
    """Items of Topic-StoryCloze, and as many of StoryCloze."""

    def __post_init__(self) -> None:
        for name in ("documents", "speech_utterances", "cloze_items", "speech_test_utterances"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 2")
        if self.speech_stories < 0:
            raise ConfigError(f"speech_stories is {self.speech_stories}; it cannot be negative")
        if not 0 < self.valid_share < 1:
            raise ConfigError(f"valid_share is {self.valid_share}; it must be between 0 and 1")


def corpus_document(rng: random.Random, world: World) -> str:
    """One document of the text corpus, of any kind."""
    draw = rng.random()
    if draw < STORY_SHARE:
        sentences = training_story(rng, world).sentences
    elif draw < STORY_SHARE + ENCYCLOPEDIA_SHARE:
        sentences = encyclopedia_entry(rng, world)
    elif draw < STORY_SHARE + ENCYCLOPEDIA_SHARE + SMALL_TALK_SHARE:
        sentences = small_talk(rng, world)
    else:
        sentences = fact_questions(rng, world)
    return " ".join(sentences)


def speech_document(rng: random.Random, world: World) -> tuple[str, ...]:
    """Sentences of one document that tells no fact the questions ask for."""
    draw = rng.random()
    if draw < SPEECH_STORY_SHARE:
        return training_story(rng, world, even=True).sentences
    if draw < SPEECH_STORY_SHARE + SPEECH_SMALL_TALK_SHARE:
        return small_talk(rng, world)
    return about_towns(rng, world) if draw < 0.95 else about_nature_and_things(rng)


def poisson(rng: random.Random, mean: float) -> int:
    """A Poisson draw: arrivals of unit-rate exponential gaps before time `mean`."""
    elapsed, count = rng.expovariate(1.0), 0
    while elapsed < mean:
        elapsed += rng.expovariate(1.0)
        count += 1
    return count


def cut_window(rng: random.Random, sentences: Sequence[str]) -> str:
    """A run of words from anywhere in a document, as long as an interleaved span would be.

    Windows that reach over an end of the document are cut short there, as an interleaver's last
    span is. So every word is as likely as any other, endings included.
    """
    words = " ".join(sentences).split()
    length = min(max(poisson(rng, MEAN_WINDOW_WORDS), 1), MAX_WINDOW_WORDS)
    start = 1 - length + int(rng.random() * (len(words) + length - 1))
    return " ".join(words[max(start, 0) : start + length])


def speech_texts(rng: random.Random, world: World, count: int) -> Iterator[SpeechText]:
    """`count` texts for paired speech, sentences and windows in turn, each of a new document."""
    for number in range(count):
        document = speech_document(rng, world)
        if number % 2:
            yield SpeechText(
                id=f"window-{number:06d}", text=cut_window(rng, document), kind="window"
            )
        else:
            yield SpeechText(id=f"sentence-{number:06d}", text=pick(rng, document), kind="sentence")


def speech_test_texts(
    rng: random.Random, world: World, count: int, known: set[str]
) -> list[SpeechText]:
    """`count` sentences and `count` windows of held-out stories, none of them in `known`."""
    texts: dict[str, SpeechText] = {}
    for kind in ("sentence", "window"):
        wanted = len(texts) + count
        while len(texts) < wanted:
            story = held_out_story(rng, world, all_scenarios()).sentences
            text = pick(rng, story) if kind == "sentence" else cut_window(rng, story)
            if text not in known and text not in texts:
                texts[text] = SpeechText(id=f"test-{kind}-{len(texts):04d}", text=text, kind=kind)
    return list(texts.values())


def main(argv: Sequence[str] | None = None) -> Summary:
    """Write everything and return the counts."""
    config = cli.parse(GenerateConfig, argv, "Write the texts of StoryWorld.")
    world = make_world()

    def stream(part: str) -> random.Random:
        return random.Random(f"{config.seed}/{part}")

    rng = stream("corpus")
    documents = [corpus_document(rng, world) for _ in range(config.documents)]
    rng = stream("speech")
    speech_train = list(speech_texts(rng, world, config.speech_utterances))
    known = {text.text for text in speech_train}
    rng = stream("speech test")
    speech_test = speech_test_texts(rng, world, config.speech_test_utterances, known)
    rng = stream("speech stories")
    stories = [training_story(rng, world).sentences for _ in range(config.speech_stories)]
    items = cloze_items(stream("cloze"), world, config.cloze_items)
    asked = questions(world)

    folder = config.output_dir
    outputs.write_corpus(folder / "corpus", documents, config.valid_share)
    outputs.write_speech_texts(folder / "speech" / "train.parquet", speech_train)
    outputs.write_speech_texts(folder / "speech" / "test.parquet", speech_test)
    outputs.write_segments(folder / "speech" / "stories.parquet", stories)
    outputs.write_evaluation(folder / "eval", items, asked, distinct_sentences(items, asked))
    summary = outputs.summarize(documents, items, asked, world.num_entities)
    print(summary)
    return summary


if __name__ == "__main__":
    cli.run(main, starts_over=True)
