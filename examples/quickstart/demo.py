"""The whole chain on this machine, from invented texts to an evaluated speech-text model.

    python examples/quickstart/demo.py --size demo --output runs/demo

Every stage calls the public tool that a cluster would run. Stop it whenever you like: the same
command continues. It ends with OUTPUT/report.html, and the same figures in OUTPUT/report.json.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: find this package and the tools
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Callable, Mapping, Sequence
    from dataclasses import dataclass
    from typing import Any, Literal

    from examples.quickstart.chain import chain
    from examples.quickstart.machine import cores, expected_minutes, measure_machine, use_cores
    from examples.quickstart.runner import Demo, Done, Stage, run_stages
    from examples.quickstart.sizes import SIZES
    from megatron_speech import cli
    from megatron_speech.io import files
    from megatron_speech.jobs.claims import exclusive


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How much, and where."""

    size: Literal["smoke", "demo", "full"] = "demo"
    """smoke: every stage for some twenty steps. full: three seeds, and no-codebook tokenizer."""
    output: Path = Path("runs/demo")
    """Folder of the run; a run found there is continued."""
    text: tuple[str, ...] = ()
    """Your own corpus (parquet or jsonl with a text column), to read and to interleave."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the chain and return the report's figures."""
    config = cli.parse(DemoConfig, argv, __doc__ or "")
    with exclusive(config.output, inside=True):
        return _run(config)


def _run(config: DemoConfig) -> dict[str, Any]:
    size = SIZES[config.size]
    machine = measure_machine(config.output / "machine.json")
    demo = Demo(size=size, output=config.output, machine=machine, text=config.text)
    print(
        f"{machine['processor']}, {machine['cores']} cores: {machine['fp32 GFLOP/s']:,.0f} GFLOP/s "
        f"in fp32, {machine['bf16 GFLOP/s']:,.0f} in bf16; training in {machine['precision']}.\n"
        f"Size {size.name}: expect about {expected_minutes(machine, size):.0f} minutes on this "
        "machine.",
        flush=True,
    )
    from examples.quickstart.report import build_page, build_report, gather

    report = run_demo(
        demo, chain(size), build_report, lambda report: build_page(report, **gather(demo))
    )
    if report["text"]:
        error_rate = 100 * report["text_to_token"]["wer_user_text"]
        print(f"Word errors of the codes made for your text: {error_rate:.1f}%")
    return report


def run_demo(
    demo: Demo,
    stages: Sequence[Stage],
    build_report: Callable[[Any, Done, Mapping[str, Any]], dict[str, Any]],
    build_page: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """Run the stages, write report.json and report.html, and print times and bars."""
    use_cores(cores())
    report = build_report(demo, *run_stages(stages, demo))
    files.write_json(demo.path("report.json"), report)
    files.write_text(demo.path("report.html"), build_page(report))
    print_times_and_bars(report)
    print(f"The page to read: {demo.path('report.html')}")
    return report


def print_times_and_bars(report: dict[str, Any]) -> None:
    """Seconds of each stage, and what was asked beside what came."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    times = Table("stage", "seconds", title="Time")
    for name, seconds in report["seconds"].items():
        times.add_row(name, f"{seconds:,.1f}")
    times.add_row("all, some side by side", f"{report['seconds_in_all']:,.1f}")
    console.print(times)
    if report["bars"]:
        bars = Table("what was asked", "bar", "measured", "", title="Bars")
        for bar in report["bars"]:
            verdict = "[green]met[/green]" if bar["met"] else "[yellow]falls short[/yellow]"
            bars.add_row(bar["name"], bar["wanted"], bar["value"], verdict)
        console.print(bars)


if __name__ == "__main__":
    cli.run(main)
