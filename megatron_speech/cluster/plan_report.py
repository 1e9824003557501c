"""A plan on the terminal."""

from ..data.mixture import format_count
from .layouts import Layout
from .plan import PlanRow, RunPlan
from .stages import StageCosts

_GIB = 2**30


def print_plan(plan: RunPlan) -> None:
    """Print the model, the table by number of GPUs, memory by layout, other stages, assumptions."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{plan.parameters:,} parameters, {plan.flops_per_token / 1e9:.4g} GFLOP a token (causal "
        f"attention), {format_count(plan.tokens)} tokens in {plan.steps:,} steps"
    )
    kind = "assumed" if plan.rate.is_assumed else "given"
    console.print(f"speed of a GPU: {plan.rate.tflops:,.0f} TFLOP/s ({kind}: {plan.rate.source})")
    console.print(_table_of_rows(plan.rows))
    console.print(
        f"GiB of the fullest process on {plan.chosen.gpus} GPUs, which may use "
        f"{plan.memory_gib:.1f}; activations and peak\nwith "
        "nothing/mlp/some/all layers recomputed; * is taken, (...) does not fit"
    )
    console.print(_table_of_layouts(plan))
    if plan.chosen.layout is None:
        console.print("no layout fits: more GPUs, a smaller --micro-batch-size or another --gpu")
    else:
        console.print(f"take: {plan.chosen.layout.flags()}")
    for line in _stages(plan.stages):
        console.print(line)
    console.print("assumed:")
    for note in plan.assumptions:
        console.print(f"  - {note}")


def _table(*columns: str):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _table_of_rows(rows: tuple[PlanRow, ...]):
    table = _table(
        "GPUs", "layout", "recompute", "GiB", "bubble", "tokens/s/GPU", "days", "GPU-hours"
    )
    for row in rows:
        if row.layout is None:
            table.add_row(str(row.gpus), "none fits", *["-"] * 6)
            continue
        table.add_row(
            str(row.gpus),
            _name(row.layout),
            row.layout.recompute,
            f"{row.layout.memory.peak / _GIB:.1f}",
            f"{100 * row.layout.bubble:.1f}%",
            f"{row.tokens_per_s_per_gpu:,.0f}",
            f"{row.days:.1f}" if row.days >= 0.1 else f"{row.days:.2g}",
            _hours(row.gpu_hours),
        )
    return table


def _name(layout: Layout) -> str:
    """As `tp2 pp4x2 dp8 mb1`; sizes of 1 are left out, but for the last two."""
    parallel = layout.parallel
    sizes = {
        "tp": parallel.tensor_model_parallel_size,
        "pp": parallel.pipeline_model_parallel_size,
        "cp": parallel.context_parallel_size,
    }
    names = [f"{name}{size}" for name, size in sizes.items() if size > 1]
    if parallel.num_virtual_stages_per_pipeline_rank > 1:
        names[-1 if sizes["cp"] == 1 else -2] += f"x{parallel.num_virtual_stages_per_pipeline_rank}"
    return " ".join([*names, f"dp{layout.data_parallel_size}", f"mb{layout.micro_batch_size}"])


def _table_of_layouts(plan: RunPlan):
    """One line for each division; what differs by recomputation stands side by side."""
    table = _table("layout", "weights", "grads", "optim", "head", "activations", "peak")
    divisions: dict[str, list[Layout]] = {}
    for layout in _telling(plan.layouts, plan.chosen.layout):
        divisions.setdefault(_name(layout).rpartition(" ")[0], []).append(layout)
    for name, layouts in divisions.items():
        memory = layouts[0].memory
        same = (memory.weights + memory.fp8_weights, memory.gradients, memory.optimizer)
        head = max(layout.memory.head for layout in layouts)
        kept = "/".join(f"{layout.memory.activations / _GIB:.1f}" for layout in layouts)
        peaks = "/".join(_peak(layout, plan.chosen.layout) for layout in layouts)
        table.add_row(name, *(f"{size / _GIB:.1f}" for size in (*same, head)), kept, peaks)
    return table


def _peak(layout: Layout, chosen: Layout | None) -> str:
    """The layout that is taken bears a star; what does not fit is in brackets."""
    shown = f"{layout.memory.peak / _GIB:.1f}"
    if layout is chosen:
        return f"{shown}*"
    return shown if layout.fits else f"({shown})"


def _telling(layouts: tuple[Layout, ...], chosen: Layout | None) -> list[Layout]:
    """Layouts worth a line: with the chosen micro-batch, plain pipelines of one or two stages."""
    sizes = [chosen or layout for layout in layouts]
    size = min((layout.micro_batch_size for layout in sizes), default=1)
    stages = {1, 2, chosen.parallel.pipeline_model_parallel_size if chosen else 1}
    return [
        layout
        for layout in layouts
        if layout is chosen
        or (
            layout.micro_batch_size == size
            and layout.parallel.pipeline_model_parallel_size in stages
            and layout.parallel.num_virtual_stages_per_pipeline_rank == 1
        )
    ]


def _stages(costs: StageCosts) -> list[str]:
    return [
        f"text-to-token: {format_count(costs.synthetic_speech_tokens)} speech tokens, "
        f"{_hours(costs.text_to_token_gpu_hours)} GPU-hours",
        f"speech tokenization: {costs.audio_hours:,.0f} hours of audio, "
        f"{_hours(costs.speech_tokenizer_gpu_hours)} GPU-hours",
        f"text tokenization: {_hours(costs.text_tokenization_core_hours)} core-hours",
        f"disk: datasets {_size(costs.dataset_bytes)}, code shards "
        f"{_size(costs.code_shard_bytes)}, checkpoints {_size(costs.checkpoints_bytes)} "
        f"({_size(costs.checkpoint_bytes)} each)",
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _size(count: float) -> str:
    """Bytes in powers of 1,000: 4.00 TB, 133.6 GB, 41.7 MB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if count >= scale:
            return f"{count / scale:.{2 if unit == 'TB' else 1}f} {unit}"
    return f"{count / 1e6:.1f} MB"
