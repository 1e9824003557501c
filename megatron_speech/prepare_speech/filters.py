"""Why a segment is not kept: one reason each, with what was measured and the threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

from ..errors import ConfigError
from ..io.rejected import Rejected
from ..speech_tokenizer.languages import language_code
from ..speech_tokenizer.transcription import word_error_rate
from ..text.repetition import MOST_REPETITION, repetition
from ..text.words import is_speakable
from .measures import Sound
from .readers import Reading
from .segments import LONGEST_S, SHORTEST_S, Segment


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a segment must be like to be kept."""

    languages: tuple[str, ...] = ()
    """Languages that are kept; none keeps all."""
    least_language_probability: float = 0.35
    """Of the language that a multilingual Whisper finds."""
    least_log_probability: float = -1.0
    """Mean log-probability of the tokens of a transcript."""
    most_disagreement: float = 0.25
    """Word errors of the second reading, by the first."""
    most_transcript_errors: float = 0.3
    """Word errors of the reading, where there is a transcript, which then is kept as it is."""
    most_repetition: float = MOST_REPETITION
    """How many times smaller zlib makes a transcript; loops of words are always refused."""
    most_no_speech: float = 0.6
    """Probability that nothing is said, where the log-probability is low as well."""
    least_speech: float = 0.5
    """Share of a segment in which somebody speaks."""
    most_clipped: float = 0.005
    """Share of samples that stand at the peak in a row."""
    least_snr_db: float = 10.0
    """Speech over what is left between syllables; clean speech has 12 and more."""
    repeated_share: float = 0.4
    """Share of a segment's sound that was there before, from which on it is a duplicate."""
    licenses: tuple[str, ...] = ()
    """Licences (column `license`) of the recordings that are taken; none takes all."""
    consents: tuple[str, ...] = ()
    """Words of the column `consent` with which recordings are taken; none takes all."""

    def __post_init__(self) -> None:
        for name in ("least_language_probability", "most_no_speech", "least_speech",
                     "most_clipped", "repeated_share"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} is {getattr(self, name)}; expected 0 to 1")
        for name in ("least_log_probability", "most_disagreement", "most_transcript_errors",
                     "most_repetition", "least_snr_db"):  # fmt: skip
            if isnan(getattr(self, name)):
                raise ConfigError(f"--{name.replace('_', '-')} is nan; expected a number")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """All that is known of a segment."""

    id: str
    segment: Segment
    sound: Sound
    text: str
    """What it will say in the manifest: the transcript if there is one, else the reading."""
    first: Reading
    second: str
    """The transcript too, if there is one."""
    has_transcript: bool


def disagreement(candidate: Candidate) -> float:
    """Word errors of the second reading, 1 if only one of them says something."""
    return _errors(candidate.first.text, candidate.second, candidate.first.language)


def _errors(one: str, other: str, language: str) -> float:
    rate = word_error_rate([one], [other], language)
    return rate if rate == rate else float(is_speakable(other))


def reject_sound(name: str, segment: Segment, sound: Sound, keep: Thresholds) -> Rejected | None:
    """Why a segment is not worth reading."""
    if segment.length_s < SHORTEST_S:
        return Rejected(name, "too_short", f"{segment.length_s:.2f} s, at least {SHORTEST_S:g}")
    if segment.length_s > LONGEST_S:
        return Rejected(name, "too_long", f"{segment.length_s:.2f} s, at most {LONGEST_S:g}")
    if segment.speech_share < keep.least_speech:
        detail = f"{segment.speech_share:.2f} of it, at least {keep.least_speech:g}"
        return Rejected(name, "little_speech", detail)
    if sound.clipped > keep.most_clipped:
        detail = f"{sound.clipped:.4f} of its samples, at most {keep.most_clipped:g}"
        return Rejected(name, "clipped", detail)
    if sound.snr_db < keep.least_snr_db:
        return Rejected(name, "noisy", f"{sound.snr_db:.1f} dB, at least {keep.least_snr_db:g}")
    return None


def reject_reading(candidate: Candidate, keep: Thresholds) -> Rejected | None:
    """Why a segment that was read is not kept."""
    for check in _CHECKS:
        found = check(candidate, keep)
        if found is not None:
            return Rejected(candidate.id, *found)
    return None


Found = tuple[str, str] | None


def _language(found: Candidate, keep: Thresholds) -> Found:
    name, probability = found.first.language, found.first.language_probability
    if probability < keep.least_language_probability:
        detail = f"{name} with {probability:.2f}, at least {keep.least_language_probability:g}"
        return "language_unsure", detail
    if keep.languages and language_code(name) not in map(language_code, keep.languages):
        return "other_language", f"{name} with {probability:.2f}"
    return None


def _says_nothing(found: Candidate, keep: Thresholds) -> Found:
    first = found.first
    if not is_speakable(found.text):
        return "no_text", f"read as {first.text!r}"[:200]
    if first.no_speech > keep.most_no_speech and first.log_probability < keep.least_log_probability:
        return "no_speech", f"probability {first.no_speech:.2f}, at most {keep.most_no_speech:g}"
    return None


def _repeats(found: Candidate, keep: Thresholds) -> Found:
    ratio = repetition(found.first.text)
    if ratio > keep.most_repetition:
        return (
            "repetition",
            f"{ratio:.1f}, at most {keep.most_repetition:g}: {found.first.text[:100]}",
        )
    return None


def _unlikely(found: Candidate, keep: Thresholds) -> Found:
    score = found.first.log_probability
    if score < keep.least_log_probability:
        return "low_probability", f"{score:.2f}, at least {keep.least_log_probability:g}"
    return None


def _disagrees(found: Candidate, keep: Thresholds) -> Found:
    rate = disagreement(found)
    if rate > keep.most_disagreement and not found.has_transcript:
        detail = f"{rate:.2f}, at most {keep.most_disagreement:g}: {found.first.text[:80]!r}, "
        return "readings_disagree", f"{detail}{found.second[:80]!r}"
    return None


def _transcript_differs(found: Candidate, keep: Thresholds) -> Found:
    if not found.has_transcript:
        return None
    rate = _errors(found.text, found.first.text, found.first.language)
    if rate > keep.most_transcript_errors:
        detail = (
            f"{rate:.2f}, at most {keep.most_transcript_errors:g}: read {found.first.text[:80]!r}"
        )
        return "transcript_differs", f"{detail}, transcript {found.text[:80]!r}"
    return None


_CHECKS: tuple[Callable[[Candidate, Thresholds], Found], ...] = (
    _language,
    _says_nothing,
    _repeats,
    _unlikely,
    _disagrees,
    _transcript_differs,
)
