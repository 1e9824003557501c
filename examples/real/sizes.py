"""Every size of the demo on real models, in one place."""

from dataclasses import dataclass

from examples.quickstart import sizes
from examples.quickstart.sizes import BLENDS

ARMS = tuple(BLENDS)
"""`model`, with interleaved documents, and `control`, without; equal numbers of tokens."""
NARRATOR_SHARE, VOICES_SHARE, NEURAL_SHARE, PEOPLE_SHARE = 4, 3, 1, 2
"""Of the speech tokenizer's training: the narrator (the voice that text is turned into), many
synthetic voices, a neural voice, all sets of recordings together.
A few hundred recordings that are heard more often are learned by heart (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class RealSize:
    """How much of everything. Words, recordings, steps."""

    name: str
    most_words: int
    """Words of the corpora that are used, shared alike."""
    held_out_share: float
    """Share of the documents that no model is trained on."""
    interleaved_words: int
    """Words of the documents that are interleaved."""
    most_recordings: int
    """Recordings of each set that are used."""
    test_recordings: int
    """Most of each set, people or synthetic, that are kept for tests."""
    transcribe_flags: tuple[str, ...] = ()
    """Further flags of the transcription of recordings without text."""
    narrated_sentences: int
    """Most training sentences that the narrator speaks."""
    narrated_windows: int
    """Windows of words that the narrator speaks."""
    short_windows: int
    """Windows of few words that the narrator speaks, for the text-to-token model and pairs."""
    spoken_sentences: int
    """Of both, those that many voices speak too."""
    neural_sentences: int = 0
    """Of the training sentences, those that a neural voice speaks too."""
    spoken_passages: int
    """Runs of sentences that are spoken, for speech without text."""
    tokenizer_steps: int
    quantize_start_step: int
    """Steps of the speech tokenizer before its codebook is put in."""
    tokenizer_flags: tuple[str, ...]
    """Further flags of that training."""
    bpe_size: int
    """Text ids of the text-to-token model: few, so that it learns to read letters."""
    text_to_token_steps: int
    text_to_token_flags: tuple[str, ...] = ()
    generation_flags: tuple[str, ...] = ()
    """Further flags of the jobs that generate codes."""
    language_model_steps: int
    """Steps of each arm."""
    points: int
    """Checkpoints of each arm that are evaluated, evenly spaced; the last is the finished model."""
    windows_per_step: int
    seq_length: int
    language_model_flags: tuple[str, ...]
    """Further flags of that training."""
    cloze_items: int
    """Items of each task."""
    cloze_flags: tuple[str, ...] = ()
    """What makes an item."""
    evaluation_limit: int
    """Items of each task in the evaluation of finished models and the base."""
    curve_limit: int
    """Items of each task in that of earlier checkpoints."""
    check_characters: int
    """Of held-out text, to choose the size of new rows by."""
    loss_windows: int
    """Windows of 512 tokens of held-out text that losses are measured on."""
    samples: int
    """Spoken beginnings that every model goes on from, to read."""
    has_bars: bool = True
    """Whether the figures are held against what is asked of the demo."""
    gflop: float
    """Rough arithmetic of all trainings, to foretell the time, at the rate of the quickstart's
    models: these reach a third of it, and count three times."""
    other_seconds: float
    """Rough time of all else, on two cores."""

    @property
    def tokens(self) -> int:
        """Tokens that each arm is trained on."""
        return self.language_model_steps * self.windows_per_step * self.seq_length

    @property
    def steps_per_point(self) -> int:
        """Steps between two checkpoints that are evaluated."""
        return self.language_model_steps // self.points


SMOKE = RealSize(
    name="smoke",
    most_words=120_000,
    held_out_share=0.25,
    interleaved_words=600,
    most_recordings=20,
    test_recordings=3,
    transcribe_flags=("--silence-s=2",),
    narrated_sentences=30,
    narrated_windows=30,
    short_windows=30,
    spoken_sentences=15,
    spoken_passages=6,
    tokenizer_steps=4,
    quantize_start_step=2,
    tokenizer_flags=(
        "--quantize-vocab-size=64",
        "--vectors-per-code=4",
        "--micro-batch-size=4",
        "--global-batch-size=4",
        "--lr-warmup-iters=1",
        "--valid-samples=2",
        "--log-interval=2",
    ),
    bpe_size=400,
    text_to_token_steps=20,
    text_to_token_flags=("--lr-warmup-iters=2", "--eval-iters=2", "--log-interval=5"),
    generation_flags=sizes.SMOKE.generation_flags,  # of a model trained as little
    language_model_steps=4,
    points=2,
    windows_per_step=2,
    seq_length=256,
    language_model_flags=("--lr=2e-4", "--min-lr=2e-5", "--lr-warmup-iters=1", "--log-interval=2"),
    cloze_items=8,
    cloze_flags=("--context-sentences=2", "--max-length=100"),
    evaluation_limit=4,
    curve_limit=2,
    check_characters=2_000,
    loss_windows=2,
    samples=1,
    has_bars=False,
    gflop=6_000,
    other_seconds=280,
)

DEMO = RealSize(
    name="demo",
    most_words=1_000_000,
    held_out_share=0.25,
    interleaved_words=250_000,
    most_recordings=400,
    test_recordings=100,
    narrated_sentences=12_000,
    narrated_windows=24_000,
    short_windows=48_000,
    spoken_sentences=3_000,
    neural_sentences=600,
    spoken_passages=1_500,
    tokenizer_steps=600,
    quantize_start_step=100,
    tokenizer_flags=("--quantize-vocab-size=8192", "--valid-samples=30", "--eval-interval=200"),
    bpe_size=600,
    text_to_token_steps=6_000,
    text_to_token_flags=(
        "--micro-batch-size=4",
        "--global-batch-size=4",
        "--lr=1e-3",
        "--min-lr=1e-4",
        "--hidden-size=256",
        "--num-attention-heads=4",
        "--num-query-groups=4",
        "--ffn-hidden-size=704",
        "--num-layers=6",
        "--eval-interval=500",
    ),
    language_model_steps=992,
    points=4,
    windows_per_step=2,
    seq_length=512,
    language_model_flags=(
        "--lr=5e-4",
        "--min-lr=5e-5",
        "--lr-warmup-iters=40",
        "--log-interval=10",
    ),
    cloze_items=500,
    cloze_flags=("--context-sentences=2", "--max-length=200"),
    evaluation_limit=500,
    curve_limit=200,
    check_characters=30_000,
    loss_windows=50,
    samples=4,
    gflop=7_000_000,
    other_seconds=11_000,
)

SIZES = {size.name: size for size in (SMOKE, DEMO)}
