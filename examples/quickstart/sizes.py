"""Every size and share of the demo, in one place."""

from dataclasses import asdict, dataclass

BLENDS: dict[str, dict[str, float]] = {
    # Shares of the tokens. The paper's 30% text; transcriptions enough to learn to read codes from
    # little. The control has the same share of speech alone, and text and pairs in equal parts in
    # place of the interleaved documents.
    "model": {"text": 0.30, "interleaved": 0.45, "speech": 0.04, "asr": 0.15, "tts": 0.06},
    "control": {"text": 0.525, "speech": 0.04, "asr": 0.31, "tts": 0.125},
}


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much of everything. Words, documents, utterances, steps."""

    name: str
    documents: int
    """Documents of StoryWorld's corpus."""
    interleaved_documents: int
    """Documents of it (or of the user's text) that are interleaved."""
    speech_utterances: int
    """Transcribed recordings, half sentences, half word windows."""
    speech_stories: int
    """Stories spoken sentence by sentence, for speech-only data."""
    speech_test_utterances: int
    """Held-out sentences, and as many windows."""
    cloze_items: int
    """Items of each cloze task."""
    most_text_words: int
    """Words taken of the user's text, where there is one."""
    bpe_size: int
    """Text ids of the language models."""
    recipes: tuple[str, str, str]
    """Names of the recipes: speech tokenizer, text-to-token, language model."""
    num_codes: int
    """Codebook size of the tokenizer recipe."""
    tokenizer_steps: int
    text_to_token_steps: int
    language_model_steps: int
    seeds: tuple[int, ...] = (1234,)
    """Seeds of the language models; each is trained in both arms."""
    without_vq: bool = False
    """Also train the speech tokenizer without its codebook, to compare."""
    span_flags: tuple[str, ...] = ("--no-clip-last-span",)
    """Flags of the job that chooses spans. The world's documents have 26 words on average, and few
    spans reach their drawn length if the last one must end where three words in ten are reached."""
    generation_flags: tuple[str, ...] = ()
    """Further flags of the jobs that generate codes."""
    evaluation_limit: int | None = None
    """Items of each evaluation part; None takes all."""
    has_bars: bool = True
    """Whether the figures are held against what is asked of the demo."""
    gflop: float
    """Rough arithmetic of all trainings, to foretell the time."""
    other_seconds: float
    """Rough time of all that does not depend on matrix multiplication, on two cores."""


SMOKE = DemoSize(
    name="smoke",
    documents=2_000,
    interleaved_documents=150,
    speech_utterances=240,
    speech_stories=40,
    speech_test_utterances=16,
    cloze_items=16,
    most_text_words=50_000,
    bpe_size=1024,
    recipes=("tokenizer-smoke", "t2t-smoke", "lm-smoke"),
    num_codes=64,
    tokenizer_steps=20,
    text_to_token_steps=20,
    language_model_steps=20,
    # Twenty steps do not teach a model to stop: draw the codes, and do not wait for long.
    generation_flags=(
        "--temperature=1.0",
        "--most-seconds-per-character=0.05",
        "--extra-seconds=0.5",
        "--least-seconds-per-character=0.0",
        "--most-loop-seconds=60",
        "--least-different-pairs=0",
    ),
    evaluation_limit=16,
    has_bars=False,
    gflop=6_000,
    other_seconds=60,
)

DEMO = DemoSize(
    name="demo",
    documents=100_000,
    interleaved_documents=24_000,
    speech_utterances=18_000,
    speech_stories=2_500,
    speech_test_utterances=300,
    cloze_items=600,
    most_text_words=3_000_000,
    bpe_size=1500,
    recipes=("tokenizer-debug", "t2t-debug", "lm-debug"),
    num_codes=512,
    tokenizer_steps=3_000,
    text_to_token_steps=700,
    language_model_steps=2_928,
    gflop=344_000,
    other_seconds=600,
)

FULL = DemoSize(
    **{
        **asdict(DEMO),
        "name": "full",
        "language_model_steps": 3_904,
        "seeds": (1234, 2345, 3456),
        "without_vq": True,
        "gflop": 1_000_000,
        "other_seconds": 900,
    }
)

SIZES = {size.name: size for size in (SMOKE, DEMO, FULL)}
