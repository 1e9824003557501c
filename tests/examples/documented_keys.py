"""The figures that a demo's report.json always has.

python -m tests.examples.documented_keys runs/smoke/report.json
"""

import sys
from collections.abc import Mapping
from typing import Any

from megatron_speech.io.files import read_json

KEYS = {
    "speech_tokenizer": "wer_vq wer_no_vq wer_no_vq_held_out_voice wer_no_vq_windows "
    "wer_held_out_voice codebook_usage codebook_usage_held_out_voice perplexity "
    "perplexity_held_out_voice",
    "text_to_token": "wer wer_real_codes wer_windows wer_real_codes_windows",
    "interleave": "documents speech_word_fraction text_tokens speech_tokens wer rejected",
    "pretraining": "text_loss speech_loss control",
    "seconds": "speech",
}
DIRECTIONS = ("t2t", "s2t", "s2s", "t2s")
ARMS = ("model", "control")


def missing_keys(report: Mapping[str, Any]) -> list[str]:
    """Paths of documented figures that are not there, and of stages that took no time."""
    wanted = {part: keys.split() for part, keys in KEYS.items()}
    for arm in ARMS:
        for place in (*DIRECTIONS, *(f"{t}.{d}" for t in ("topic", "story") for d in DIRECTIONS)):
            wanted[f"evaluation.{arm}.cloze.{place}"] = ["accuracy", "n", "stderr", "rules"]
    missing = [
        f"{part}.{key}" for part in wanted for key in wanted[part] if key not in at(report, part)
    ]
    return missing + [f"seconds.{name}" for name, s in report["seconds"].items() if not s > 0]


def at(report: Any, path: str) -> Any:
    """The part of a report at a dotted path; empty where there is none."""
    for name in path.split("."):
        report = report.get(name, {})
    return report


if __name__ == "__main__":
    sys.exit("\n".join(missing_keys(read_json(sys.argv[1]))) or None)
