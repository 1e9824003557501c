"""What is promised of GPUs, and whether it was measured: the table of docs/gpu.md.

    python benchmarks/targets.py

`make gpu-day` ends with it. Only files in results/ count; what has none is "not yet measured".
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import SMOKE

from megatron_speech.io.files import write_text

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "gpu.md"
BEGIN = "<!-- written by benchmarks/targets.py -->\n"
END = "<!-- end -->\n"
HEAD = (
    "| part | what | target | found | verdict | device, date, commit |\n|---|---|---|---|---|---|\n"
)
OPEN = "not yet measured"
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One promise: where its figure is, and what it has to be."""

    part: int
    """Of `make gpu-day`."""
    what: str
    result: str
    """File in results/."""
    figure: Callable[[Figures], float]
    unit: str = ""
    least: float | None = None
    most: float | None = None

    def wanted(self) -> str:
        """The bound in words."""
        if self.least is not None:
            return f"at least {self.least:,g}{self.unit}"
        return f"at most {self.most:,g}{self.unit}"

    def verdict(self, found: float) -> str:
        """met or missed; what is not a number misses."""
        if self.least is not None:
            return "met" if found >= self.least else "missed"
        return "met" if self.most is not None and found <= self.most else "missed"


def _failed(step: str) -> Callable[[Figures], float]:
    """Tests of a step that did not pass; all of it if it ended otherwise."""

    def count(figures: Figures) -> float:
        found = figures[step]
        if found["outcome"] == "passed":
            return 0 if found["tests"]["passed"] else float("nan")
        return found.get("tests", {}).get("failed") or float("nan")

    return count


def _farthest(figures: Figures) -> float:
    """Planned over measured memory, the largest deviation in percent."""
    found = figures["memory of plans"]["properties"]["planned over measured"]
    return max(abs(100 * ratio - 100) for ratio in found)


TARGETS = (
    Target(
        part=1,
        what="tests failed: fused kernels, exact on 10M vectors",
        result="gpu_day_1",
        figure=_failed("kernels"),
        most=0,
    ),
    Target(
        part=1,
        what="tests failed: language models train like on a CPU and like plain layers",
        result="gpu_day_1",
        figure=_failed("language models"),
        most=0,
    ),
    Target(
        part=2,
        what="exact look-up, bf16, N = 1M, K = 16,384, D = 1,280",
        result="vq_lookup_cuda",
        figure=lambda f: f["tflops"],
        unit=" TFLOP/s",
        least=550,
    ),
    *(
        Target(
            part=2,
            what=f"chunked bf16 addmm and argmin over exact look-up, {operands}",
            result=f"vq_lookup_cuda{ending}",
            figure=lambda f: f["addmm_over_ours"],
            unit=" x",
            least=1,
        )
        for ending, operands in (("", "bf16"), ("_fp32_codebook", "bf16 against fp32"))
    ),
    Target(
        part=2,
        what="memory of the look-up beyond inputs and outputs",
        result="vq_lookup_cuda",
        figure=lambda f: f["peak_extra_mib"],
        unit=" MiB",
        most=64,
    ),
    Target(
        part=2,
        what="one-hot product over codebook statistics",
        result="codebook_update_cuda",
        figure=lambda f: f["speedup"],
        unit=" x",
        least=10,
    ),
    Target(
        part=3,
        what="MFU of lm-1.5b at 8,192 tokens, bf16",
        result="training_gpu",
        figure=lambda f: f["1.5b bf16: MFU %"],
        unit="%",
        least=45,
    ),
    Target(
        part=3,
        what="speed of our step over megatron.training's",
        result="training_gpu",
        figure=lambda f: f["ours over megatron.training"],
        unit=" x",
        least=0.98,
    ),
    Target(
        part=4,
        what="FP8 over bf16, one decoder layer of lm-9b",
        result="training_gpu_fp8",
        figure=lambda f: f["9b: decoder layer, fp8 over bf16"],
        unit=" x",
        least=1.3,
    ),
    Target(
        part=5,
        what="largest deviation of FP8's losses from bf16's, ten steps at a time, 200 steps",
        result="training_gpu_curves",
        figure=lambda f: 100 * f["largest deviation of fp8 losses"],
        unit="%",
        most=5,
    ),
    Target(
        part=5,
        what="memory of plans against what is allocated",
        result="gpu_day_5",
        figure=_farthest,
        unit="%",
        most=10,
    ),
    Target(
        part=6,
        what="bulk tokenization, whisper-large-v3's shape, bf16",
        result="bulk_tokenization_gpu",
        figure=lambda f: f["ours_x_real_time"],
        unit=" x real time",
        least=4000,
    ),
    Target(
        part=6,
        what="text to codes, t2t-1.5b's shape, bf16, transformers",
        result="generation_gpu",
        figure=lambda f: f["codes_per_s"],
        unit=" codes/s",
        least=25_000,
    ),
    Target(
        part=6,
        what="seconds for a second of streamed sound, decoder-large with HiFi-GAN",
        result="decoding_cuda",
        figure=lambda f: f["real_time_factor_streamed"],
        unit=" s",
        most=1,
    ),
    Target(
        part=7,
        what="tests failed: speech tokenizer and decoder, against a CPU",
        result="gpu_day_7",
        figure=_failed("speech"),
        most=0,
    ),
    Target(
        part=7,
        what="tests failed: flash-attn, apex, FP8 (`make test-gpu-image`)",
        result="gpu_day_7",
        figure=_failed("image"),
        most=0,
    ),
)


def table(results: Path, parts: tuple[int, ...] = (), since: float = 0.0) -> str:
    """The table of some parts, or all; of files written after `since` alone."""
    chosen = [target for target in TARGETS if not parts or target.part in parts]
    return HEAD + "".join(f"{_line(target, results, since)}\n" for target in chosen)


def _line(target: Target, results: Path, since: float) -> str:
    start = f"| {target.part} | {target.what} | {target.wanted()} |"
    name = target.result.replace("_cuda", "_cpu") if SMOKE else target.result
    path = results / f"{name}.json"
    if not path.exists() or path.stat().st_mtime < since:
        return f"{start} | {OPEN} | |"
    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        found = target.figure(record["figures"])
        found = float("nan") if found is None else found  # so JSON has what is no number
    except KeyError:  # a part that ended before it, or a machine without that figure
        return f"{start} | {OPEN} | |"
    where = f"{record['device']}; {record['date']}; {record['commit']}"
    verdict = "rehearsed" if SMOKE else target.verdict(found)
    return f"{start} {found:,.4g}{target.unit} | {verdict} | {where} |"


def page(text: str, results: Path) -> str:
    """The page's text with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(results) + END + after


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), HERE / "results"))
    print(f"wrote {PAGE}")
