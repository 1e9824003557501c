"""Give a finished demo a voice: speech decoder, fine-tuning on dialogues, a chat to listen to.

    python examples/voice/demo.py --demo runs/demo --output runs/voice

Every stage calls the public tool that a cluster would run. Stop it whenever you like: the same
command continues. It ends with OUTPUT/report.html, and the same figures in OUTPUT/report.json.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package and the tools
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from functools import partial
    from typing import Any, Literal

    from examples.quickstart.demo import run_demo
    from examples.quickstart.machine import measure_machine
    from examples.voice.sizes import SIZES
    from examples.voice.stages import CHAIN, VoiceDemo
    from megatron_speech import cli
    from megatron_speech.jobs.claims import exclusive


@dataclass(frozen=True, kw_only=True)
class VoiceConfig:
    """How much, on top of what, and where."""

    demo: Path = Path("runs/demo")
    """Folder of a finished demo (examples/quickstart)."""
    size: Literal["smoke", "demo"] = "demo"
    """smoke: every stage for some twenty steps."""
    output: Path = Path("runs/voice")
    """Folder of the run; a run found there is continued."""
    whisper: Path | None = None
    """A released Whisper that reads the decoded speech, beside the demo's recogniser: folder, or id
    of the Hugging Face hub. Given or changed later, that part is done again."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the chain and return the report's figures."""
    config = cli.parse(VoiceConfig, argv, __doc__ or "")
    with exclusive(config.output, inside=True):
        demo = VoiceDemo(
            size=SIZES[config.size],
            output=config.output,
            machine=measure_machine(config.demo / "machine.json"),
            base=config.demo,
            whisper=config.whisper,
        )
        demo.require_inputs()
        from examples.voice.report import build_page, build_report

        return run_demo(demo, CHAIN, build_report, partial(build_page, demo))


if __name__ == "__main__":
    cli.run(main)
