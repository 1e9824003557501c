"""A plan on the terminal."""

from .layouts import Layout
from .plan import Plan, Row
from .stages import StageCosts

_GIB = 2**30


def print_plan(plan: Plan) -> None:
    """Print the model, the table by number of GPUs, memory by layout, other stages, assumptions."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{plan.parameters / 1e9:.3f}B parameters ({plan.parameters:,}), "
        f"{plan.flops_per_token / 1e9:.2f} GFLOP a token (causal attention), "
        f"{plan.tokens:,} tokens in {plan.steps:,} steps"
    )
    kind = "assumed" if plan.rate.is_assumed else "given"
    console.print(f"speed of a GPU: {plan.rate.tflops:,.0f} TFLOP/s ({kind}: {plan.rate.source})")
    console.print(_table_of_rows(plan.rows))
    console.print(
        f"GiB of the fullest process on {plan.chosen.gpus} GPUs, which may use "
        f"{plan.memory_gib:.1f};\nactivations and peak with recomputation of nothing / mlp / full "
        "layers; * is taken, (...) does not fit"
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


def _table_of_rows(rows: tuple[Row, ...]):
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
            f"{row.days:.1f}",
            f"{row.gpu_hours:,.0f}",
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


def _table_of_layouts(plan: Plan):
    """One line for each division; what differs by recomputation stands side by side."""
    columns = ("layout", "weights", "gradients", "optimizer", "head", "activations", "peak")
    table = _table(*columns)
    divisions: dict[str, list[Layout]] = {}
    for layout in _telling(plan.layouts, plan.chosen.layout):
        divisions.setdefault(_name(layout), []).append(layout)
    for name, layouts in divisions.items():
        memory = layouts[0].memory
        same = (memory.weights + memory.fp8_weights, memory.gradients, memory.optimizer)
        head = max(layout.memory.head for layout in layouts)
        kept = " / ".join(f"{layout.memory.activations / _GIB:.1f}" for layout in layouts)
        peaks = " / ".join(_peak(layout, plan.chosen.layout) for layout in layouts)
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
    terabyte = 1e12
    return [
        f"text-to-token: {costs.synthetic_speech_tokens / 1e9:,.1f}B speech tokens, "
        f"{costs.text_to_token_gpu_hours:,.0f} GPU-hours",
        f"speech tokenization: {costs.audio_hours:,.0f} hours of audio, "
        f"{costs.speech_tokenizer_gpu_hours:,.0f} GPU-hours",
        f"text tokenization: {costs.text_tokenization_core_hours:,.1f} core-hours",
        f"disk: datasets {costs.dataset_bytes / terabyte:.2f} TB, code shards "
        f"{costs.code_shard_bytes / terabyte:.2f} TB, checkpoints "
        f"{costs.checkpoints_bytes / terabyte:.2f} TB "
        f"({costs.checkpoint_bytes / 1e9:,.1f} GB each)",
    ]
