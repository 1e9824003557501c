"""The chain: the demo's stages in order, and which settings each depends on."""

from functools import partial

from examples.quickstart import stages
from examples.quickstart.runner import Stage
from examples.quickstart.sizes import BLENDS, DemoSize

_TO_THE_MODELS = (
    Stage("storyworld", "A small world: texts, and stories to be judged", stages.storyworld,
          settings=("documents", "interleaved_documents", "speech_utterances", "speech_stories",
                    "speech_test_utterances", "cloze_items", "most_text_words"),
          folders=("storyworld", "text")),
    Stage("speech", "Real speech from text, by espeak-ng", stages.speech),
    Stage("speech_tokenizer", "Training the speech tokenizer", stages.speech_tokenizer,
          settings=("recipes", "tokenizer_steps")),
    Stage("codes", "Speech to codes, and codes read back", stages.codes),
    Stage("vocabulary", "The vocabulary: text, specials, codes", stages.vocabulary,
          settings=("bpe_size",), folders=("vocab",)),
    Stage("text_to_token", "Training the text-to-token model", stages.text_to_token,
          settings=("text_to_token_steps", "generation_flags")),
    Stage("datasets", "Text, speech and pairs as indexed datasets", stages.datasets,
          folders=("data",)),
    Stage("interleaving", "Interleaving: spans of text become codes", stages.interleaving,
          settings=("span_flags",), folders=("interleaved",)),
)  # fmt: skip
_DATA = ("interleaving",)


def chain(size: DemoSize) -> list[Stage]:
    """All stages of a run of this size; the report is made after them."""
    what = {"model": "on interleaved documents", "control": "the control, without them"}
    trained = [
        Stage(
            stages.arm_folder(size, arm, seed),
            f"Pre-training {what[arm]}" + (f" (seed {seed})" if len(size.seeds) > 1 else ""),
            partial(stages.language_model, arm=arm, seed=seed),
            settings=("recipes", "language_model_steps"),
            after=_DATA,
        )
        for seed in size.seeds
        for arm in BLENDS
    ]
    if size.without_vq:
        folder = "speech_tokenizer_without_vq"
        train = partial(stages.speech_tokenizer, folder=folder, quantize=False)
        title = "Training the speech tokenizer without its codebook, to compare"
        trained.append(Stage("tokenizer_without_vq", title, train, after=_DATA, folders=(folder,)))
    title = "Evaluation: text and speech, in four directions"
    before = tuple(stage.name for stage in trained)
    evaluation = Stage("evaluation", title, stages.evaluation, ("evaluation_limit",), before)
    return [*_TO_THE_MODELS, *trained, evaluation]
