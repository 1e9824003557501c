"""Every size of the voice demo, in one place."""

from dataclasses import dataclass

from examples.quickstart import sizes

MODES = ("text", "direct", "guided", "streaming")
"""Ways of answering that the model is fine-tuned for."""
SHARES = {"text": 0.1, "direct": 0.25, "guided": 0.25, "streaming": 0.4}
"""Of the windows of fine-tuning. Text is learnt in passing; to say aloud what was written takes
long."""


@dataclass(frozen=True, kw_only=True)
class VoiceSize:
    """How much of everything. Steps, dialogues, recordings."""

    name: str
    recipes: tuple[str, str, str, str]
    """Names: vocoder, decoder, decoder of one voice, fine-tuning."""
    vocoder_steps: int
    decoder_steps: int
    voice_steps: int
    fine_tuning_steps: int
    recordings: int
    """Sentences that a narrator speaks: what the decoder learns to sound like."""
    test_recordings: int
    """Held-out sentences that are decoded and read back."""
    dialogues: int
    """Dialogues of StoryWorld to fine-tune on."""
    items: int
    """Questions of each kind to ask the model."""
    longest_answer: int = 200
    """Tokens of an answer."""
    generation_flags: tuple[str, ...] = ()
    """Further flags of the job that speaks the dialogues."""
    has_bars: bool = True
    """Whether the figures are held against what is asked of the demo."""


SMOKE = VoiceSize(
    name="smoke",
    recipes=("vocoder-smoke", "decoder-smoke", "decoder-smoke-voice", "sft-smoke"),
    vocoder_steps=20,
    decoder_steps=20,
    voice_steps=20,
    fine_tuning_steps=20,
    recordings=40,
    test_recordings=4,
    dialogues=60,
    items=2,
    longest_answer=30,
    generation_flags=sizes.SMOKE.generation_flags,  # of the same text-to-token model
    has_bars=False,
)

DEMO = VoiceSize(
    name="demo",
    recipes=("vocoder-debug", "decoder-debug", "decoder-debug-voice", "sft-debug"),
    vocoder_steps=800,
    decoder_steps=1_500,
    voice_steps=200,
    fine_tuning_steps=1_000,
    recordings=3_000,
    test_recordings=100,
    dialogues=4_000,
    items=60,
)

SIZES = {size.name: size for size in (SMOKE, DEMO)}
