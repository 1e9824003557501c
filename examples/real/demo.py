"""A released Whisper, a released base model, people's recordings and ordinary prose, to a page.

    python examples/real/demo.py --size demo --output runs/real

    python examples/real/demo.py --whisper openai/whisper-small --base HuggingFaceTB/SmolLM2-360M \\
        --speech recordings/manifest.tsv --text books.jsonl --output runs/own

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
    from typing import Any, Literal

    from examples.quickstart.demo import run_demo
    from examples.quickstart.machine import expected_minutes, measure_machine
    from examples.real.chain import chain
    from examples.real.run import RealDemo, require_files
    from examples.real.sizes import BLENDS, SIZES
    from megatron_speech import cli
    from megatron_speech.jobs.claims import exclusive


@dataclass(frozen=True, kw_only=True)
class RealConfig:
    """How much, of what, and where."""

    size: Literal["smoke", "demo"] = "demo"
    """smoke: every stage with the real weights, for a few steps."""
    output: Path = Path("runs/real")
    """Folder of the run; a run found there is continued."""
    whisper: str | None = None
    """Whisper to make the speech tokenizer from: a folder, or an id of the Hugging Face hub
    (openai/whisper-base)."""
    base: str | None = None
    """Base language model: a folder, or an id of the Hugging Face hub
    (HuggingFaceTB/SmolLM2-135M)."""
    speech: tuple[Path, ...] = ()
    """Manifests of people's recordings (parquet, tsv, jsonl: id, path, text, language); those
    without text are transcribed by a Whisper."""
    text: tuple[Path, ...] = ()
    """Corpora of English prose, files or folders (parquet or jsonl with a text column)."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the chain and return the report's figures."""
    config = cli.parse(RealConfig, argv, __doc__ or "")
    require_files(config.speech, config.text)
    with exclusive(config.output, inside=True):
        return _run(config)


def _run(config: RealConfig) -> dict[str, Any]:
    demo = RealDemo(
        size=SIZES[config.size],
        output=config.output,
        machine=measure_machine(config.output / "machine.json"),
        text=tuple(map(str, config.text)),
        whisper=config.whisper,
        base=config.base,
        speech=config.speech,
    )
    _announce(demo)
    from examples.real.report import build_page, build_report, gather

    return run_demo(
        demo, chain(), build_report, lambda report: build_page(report, **gather(demo, report))
    )


def _announce(demo: RealDemo) -> None:
    machine, size = demo.machine, demo.size
    minutes = expected_minutes(machine, size)
    time = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes"
    print(
        f"{machine['processor']}, {machine['cores']} cores; training in {machine['precision']}.\n"
        f"Size {size.name}: expect about {time} on this machine, what is fetched not counted.\n"
        f"Each arm is trained on {size.tokens:,} tokens:"
    )
    for arm, blend in BLENDS.items():
        shares = ", ".join(f"{name} {share * size.tokens:,.0f}" for name, share in blend.items())
        print(f"  {arm}: {shares}", flush=True)


if __name__ == "__main__":
    cli.run(main)
