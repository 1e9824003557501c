"""The chain: the stages in order, and which settings each depends on."""

from functools import partial

from examples.quickstart.runner import Stage
from examples.real import model_stages as models
from examples.real import samples, speech_stages
from examples.real.sizes import ARMS

_TO_THE_MODELS = (
    Stage("materials", "Models, recordings and texts", speech_stages.materials,
          settings=("name",), folders=(), models=("whisper", "base")),
    Stage("recordings", "People's recordings: texts for those without, training and test",
          speech_stages.recordings,
          settings=("most_recordings", "test_recordings", "transcribe_flags")),
    Stage("speech", "Ordinary text: held-out documents, sentences to speak, cloze items",
          speech_stages.speech,
          settings=("most_words", "held_out_share", "interleaved_words", "narrated_sentences",
                    "narrated_windows", "short_windows", "spoken_sentences", "neural_sentences",
                    "spoken_passages", "cloze_items", "cloze_flags", "check_characters"),
          folders=("text", "cloze", "speech")),
    Stage("speech_tokenizer", "A speech tokenizer out of Whisper", speech_stages.speech_tokenizer,
          settings=("tokenizer_steps", "quantize_start_step", "tokenizer_flags")),
    Stage("codes", "Speech to codes, and what Whisper hears through them", speech_stages.codes),
    Stage("base", "The base model gets rows for speech", models.base),
    Stage("text_to_token", "Training the text-to-token model", models.text_to_token,
          settings=("bpe_size", "text_to_token_steps", "text_to_token_flags", "generation_flags"),
          after=("codes",)),
    Stage("datasets", "Text, speech and pairs as indexed datasets", models.datasets,
          after=("base",), folders=("data",)),
    Stage("interleaving", "Interleaving: spans of text become codes", models.interleaving,
          after=("text_to_token", "base"), folders=("interleaved",)),
)  # fmt: skip
_DATA = {"model": ("datasets", "interleaving"), "control": ("datasets",)}
"""What an arm is trained on; the control's training need not wait for codes to be made."""
_TRAINING = ("language_model_steps", "points", "windows_per_step", "seq_length",
             "language_model_flags")  # fmt: skip
_EVALUATION = ("evaluation_limit", "curve_limit", "loss_windows")


def chain() -> list[Stage]:
    """All stages; the report is made after them."""
    what = {"model": "on interleaved documents", "control": "without them, the control"}
    trained = [
        Stage(arm, f"Training the base {what[arm]}", partial(models.language_model, arm=arm),
              _TRAINING, after=_DATA[arm])
        for arm in ARMS
    ]  # fmt: skip
    evaluated = [
        Stage(f"evaluation-{arm}", f"Evaluation: the {arm}, text and speech in four directions",
              partial(models.evaluation, arm=arm), _EVALUATION,
              after=_DATA["control"] if arm == models.BASE else (arm,))
        for arm in (*ARMS, models.BASE)
    ]  # fmt: skip
    title, before = "Spoken beginnings, and how each model goes on", [s.name for s in evaluated]
    told = Stage("samples", title, samples.continuations, ("samples",), tuple(before), folders=())
    return [*_TO_THE_MODELS, *trained, *evaluated, told]
