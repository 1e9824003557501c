"""What others printed, to read our figures against: context, not a league table.

Sets, voices and rules differ from ours and from one another; each row names where it stands.
"""

from dataclasses import dataclass

_G4V = "arXiv 2412.02612 (GLM-4-Voice), tables 3 and 4: the base model of arXiv 2411.17607"
_PAPER_2 = "a digest of arXiv 2411.17607 (secondary)"
_SIMS = "arXiv 2504.02398 (SIMS), table 3; one voice"
_SIMS_MANY = "arXiv 2504.02398 (SIMS), table 2; many voices"
_SLAM = "arXiv 2502.15814 (Slam)"
_MIMO = "MiMo-Audio's report, SpeechMMLU"
_VOICEBENCH = "github.com/MatthewCYM/VoiceBench, README"
_SALMON = "github.com/slp-rl/salmon, README"
_TWIST = "arXiv 2504.02398, table 3 (GLM-4-Voice prints GSLM's figures as TWIST's)"
PAPER = "arXiv 2411.17607, 9B"


@dataclass(frozen=True)
class Published:
    """One figure in print, in percent."""

    part: str
    direction: str
    system: str
    percent: float
    source: str


def _rows(part: str, source: str, *rows: tuple[str, str, float]) -> list[Published]:
    return [Published(part, direction, name, value, source) for name, direction, value in rows]


_STORIES = _rows(
    "all", _G4V,
    (PAPER, "s2t", 76.3), (PAPER, "s2s", 62.4), ("Spirit-LM 7B", "s2s", 61.0),
    ("Spirit-LM 7B", "s2t", 64.6), ("Moshi 7B", "s2s", 60.8),
)  # fmt: skip
_STORIES += _rows("all", _TWIST, ("TWIST 7B", "s2s", 55.3), ("GSLM", "s2s", 53.3))
_STORIES += _rows("all", _SIMS, ("SIMS 7B", "s2s", 66.7))
_STORIES += _rows(
    "all", _SIMS_MANY,
    ("SIMS Qwen 7.6B", "s2s", 60.33), ("SIMS Qwen 7.6B", "s2t", 67.73),
    ("SIMS Qwen 7.6B", "t2s", 60.65), ("SIMS Qwen 7.6B", "t2t", 72.47),
)  # fmt: skip
_STORIES += _rows("all", _SLAM, ("Slam 358M", "s2s", 58.04), ("Slam, 2 A100", "s2s", 61.30))
_TOPICS = _rows(
    "all", _G4V,
    (PAPER, "s2t", 93.6), (PAPER, "s2s", 82.9), ("Spirit-LM 7B", "s2s", 82.9),
    ("Spirit-LM 7B", "s2t", 88.6), ("Moshi 7B", "s2s", 83.0),
)  # fmt: skip
_TOPICS += _rows("all", _PAPER_2, (PAPER, "t2s", 85.0))
_TOPICS += _rows("all", _TWIST, ("TWIST 7B", "s2s", 74.1), ("GSLM", "s2s", 66.6))
_TOPICS += _rows("all", _SIMS, ("SIMS 7B", "s2s", 88.3))
_TOPICS += _rows(
    "all", _SIMS_MANY,
    ("SIMS Qwen 7.6B", "s2s", 88.27), ("SIMS Qwen 7.6B", "s2t", 93.29),
    ("SIMS Qwen 7.6B", "t2s", 75.34), ("SIMS Qwen 7.6B", "t2t", 95.67),
)  # fmt: skip
_TOPICS += _rows("all", _SLAM, ("Slam 358M", "s2s", 82.04), ("Slam, 2 A100", "s2s", 84.18))


def _spoken_questions(*rows: tuple[str, str, float]) -> list[Published]:
    return _rows("all", _G4V, *rows)


def _parts(source: str, direction: str, system: str, **parts: float) -> list[Published]:
    return [Published(part, direction, system, value, source) for part, value in parts.items()]


PUBLISHED: dict[str, list[Published]] = {
    "storycloze": _STORIES,
    "spoken-storycloze": _STORIES,
    "topic-storycloze": _TOPICS,
    "sblimp": [
        *_rows("all", _SIMS, ("SIMS 7B", "s2s", 59.8)),
        *_rows("all", _SLAM, ("Slam 358M", "s2s", 58.86), ("Slam, 2 A100", "s2s", 61.11)),
    ],
    "salmon": _parts(
        _SALMON, "s2s", "TWIST 7B",
        sentiment_consistency=61.5, speaker_consistency=71.0, gender_consistency=70.0,
        bg_domain_consistency=55.0, bg_all_consistency=60.5, rir_consistency=62.0,
        sentiment_alignment=51.5, bg_alignment=54.5,
    ),
    "web-questions": _spoken_questions(
        (PAPER, "s2t", 32.2), (PAPER, "s2s", 15.9), ("Moshi 7B", "s2t", 26.6),
        ("Moshi 7B", "s2s", 9.2), ("TWIST 7B", "s2s", 1.5), ("SpeechGPT 7B", "s2t", 6.5),
    ),
    "llama-questions": _spoken_questions(
        (PAPER, "s2t", 64.7), (PAPER, "s2s", 50.7), ("Moshi 7B", "s2t", 62.3),
        ("Moshi 7B", "s2s", 21.0), ("TWIST 7B", "s2s", 4.0), ("SpeechGPT 7B", "s2t", 21.6),
    ),
    "trivia-qa": _spoken_questions(
        (PAPER, "s2t", 39.1), (PAPER, "s2s", 26.5), ("Moshi 7B", "s2t", 22.8),
        ("Moshi 7B", "s2s", 7.3), ("SpeechGPT 7B", "s2t", 14.8),
    ),
    "speech-mmlu": _rows(
        "all", _MIMO,
        ("MiMo-Audio", "s2t", 69.5), ("Step-Audio 2 mini", "s2t", 67.8),
        ("Kimi-Audio", "s2t", 67.9), ("Baichuan-Audio", "s2t", 29.9),
    ),
    "sd-qa": _rows(
        "usa", _VOICEBENCH,
        ("GLM-4-Voice, chat", "s2t", 36.98), ("Moshi, chat", "s2t", 15.64),
    ),
    "voicebench-choice": [
        *_parts(_VOICEBENCH, "s2t", "GLM-4-Voice, chat", mmsu=39.75, openbookqa=53.41),
        *_parts(_VOICEBENCH, "s2t", "Moshi, chat", mmsu=24.04, openbookqa=25.93),
    ],
}  # fmt: skip
"""By benchmark; those that are missing have no row in what was read for this project."""
