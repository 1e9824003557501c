"""The chain: the demo's stages in order, and which settings each depends on."""

from functools import partial

from examples.quickstart import stages
from examples.quickstart.runner import Stage
from examples.quickstart.sizes import BLENDS, DemoSize

_TEXTS = (
    "documents",
    "interleaved_documents",
    "speech_utterances",
    "speech_stories",
    "speech_test_utterances",
    "cloze_items",
    "most_text_words",
)


_BEFORE_THE_MODELS = (
    Stage(
        name="storyworld",
        title="A small world: texts, and stories to be judged",
        run=stages.storyworld,
        settings=_TEXTS,
        folders=("storyworld", "text"),
    ),
    Stage(
        name="speech",
        title="Real speech from text, by espeak-ng",
        run=stages.speech,
        folders=("speech",),
    ),
    Stage(
        name="speech_tokenizer",
        title="Training the speech tokenizer",
        run=stages.speech_tokenizer,
        settings=("recipes", "tokenizer_steps"),
        folders=("speech_tokenizer",),
    ),
    Stage(
        name="codes",
        title="Speech to codes, and codes read back",
        run=stages.codes,
        folders=("codes",),
    ),
    Stage(
        name="vocabulary",
        title="The vocabulary: text, specials, codes",
        run=stages.vocabulary,
        settings=("bpe_size",),
        folders=("vocab",),
    ),
    Stage(
        name="text_to_token",
        title="Training the text-to-token model",
        run=stages.text_to_token,
        settings=("text_to_token_steps", "generation_flags"),
        folders=("text_to_token",),
    ),
    Stage(
        name="datasets",
        title="Text, speech and pairs as indexed datasets",
        run=stages.datasets,
        folders=("data",),
    ),
    Stage(
        name="interleaving",
        title="Interleaving: spans of text become codes",
        run=stages.interleaving,
        settings=("span_flags",),
        folders=("interleaved",),
    ),
)
_THE_MODELS_NEED = (_BEFORE_THE_MODELS[-1].name,)


def chain(size: DemoSize) -> list[Stage]:
    """All stages of a run of this size; the report is made after them."""
    trained = [_language_model(arm, seed, size) for seed in size.seeds for arm in BLENDS]
    if size.without_vq:
        trained.append(
            Stage(
                name="tokenizer_without_vq",
                title="Training the speech tokenizer without its codebook, to compare",
                run=stages.tokenizer_without_vq,
                after=_THE_MODELS_NEED,
                folders=("speech_tokenizer_without_vq",),
            )
        )
    evaluation = Stage(
        name="evaluation",
        title="Evaluation: text and speech, in four directions",
        run=stages.evaluation,
        after=tuple(stage.name for stage in trained),
        settings=("evaluation_limit",),
        folders=("evaluation",),
    )
    return [*_BEFORE_THE_MODELS, *trained, evaluation]


def _language_model(arm: str, seed: int, size: DemoSize) -> Stage:
    folder = stages.arm_folder(size, arm, seed)
    what = "on interleaved documents" if arm == "model" else "the control, without them"
    return Stage(
        name=folder,
        title=f"Pre-training {what}" + (f" (seed {seed})" if len(size.seeds) > 1 else ""),
        run=partial(stages.language_model, arm=arm, seed=seed),
        after=_THE_MODELS_NEED,
        settings=("recipes", "language_model_steps"),
        folders=(folder,),
    )
