"""The chain: the stages in order, and which settings each depends on."""

from functools import partial

from examples.quickstart.runner import Stage
from examples.real import model_stages, samples, speech_stages
from examples.real.sizes import ARMS

_TO_THE_MODELS = (
    Stage(
        name="materials",
        title="Models, recordings and texts",
        run=speech_stages.materials,
        settings=("name",),
    ),
    Stage(
        name="recordings",
        title="People's recordings: texts for those without, training and test",
        run=speech_stages.recordings,
        settings=("most_recordings", "test_recordings", "transcribe_flags"),
        folders=("recordings",),
    ),
    Stage(
        name="speech",
        title="Ordinary text: held-out documents, sentences to speak, cloze items",
        run=speech_stages.speech,
        settings=("most_words", "held_out_share", "interleaved_words", "spoken_sentences",
                  "spoken_passages", "cloze_items", "cloze_flags", "check_characters"),
        folders=("text", "cloze", "speech"),
    ),
    Stage(
        name="speech_tokenizer",
        title="A speech tokenizer out of Whisper",
        run=speech_stages.speech_tokenizer,
        settings=("tokenizer_steps", "quantize_start_step", "tokenizer_flags"),
        folders=("speech_tokenizer",),
    ),
    Stage(
        name="codes",
        title="Speech to codes, and what Whisper hears through them",
        run=speech_stages.codes,
        folders=("codes",),
    ),
    Stage(
        name="base",
        title="The base model gets rows for speech",
        run=model_stages.base,
        folders=("base",),
    ),
    Stage(
        name="text_to_token",
        title="Training the text-to-token model",
        run=model_stages.text_to_token,
        settings=("bpe_size", "text_to_token_steps", "text_to_token_flags", "generation_flags"),
        folders=("text_to_token",),
    ),
    Stage(
        name="datasets",
        title="Text, speech and pairs as indexed datasets",
        run=model_stages.datasets,
        folders=("data",),
    ),
    Stage(
        name="interleaving",
        title="Interleaving: spans of text become codes",
        run=model_stages.interleaving,
        folders=("interleaved",),
    ),
)  # fmt: skip
_DATA = (_TO_THE_MODELS[-1].name,)


def chain() -> list[Stage]:
    """All stages; the report is made after them."""
    trained = [
        Stage(
            name=arm,
            title="Training the base " + ("on interleaved documents" if arm == "model" else
                                          "without them, the control"),
            run=partial(model_stages.language_model, arm=arm),
            after=_DATA,
            settings=("language_model_steps", "points", "windows_per_step", "seq_length",
                      "language_model_flags"),
            folders=(arm,),
        )
        for arm in ARMS
    ]  # fmt: skip
    evaluated = [
        Stage(
            name=f"evaluation-{arm}",
            title=f"Evaluation: the {arm}, text and speech in four directions",
            run=partial(model_stages.evaluation, arm=arm),
            after=_DATA if arm == model_stages.BASE else (arm,),
            settings=("evaluation_limit", "curve_limit", "loss_windows"),
            folders=(f"evaluation-{arm}",),
        )
        for arm in (*ARMS, model_stages.BASE)
    ]
    told = Stage(
        name="samples",
        title="Spoken beginnings, and how each model goes on",
        run=samples.continuations,
        after=tuple(stage.name for stage in evaluated),
        settings=("samples",),
    )
    return [*_TO_THE_MODELS, *trained, *evaluated, told]
