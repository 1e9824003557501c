"""What fits on one GPU: recipes and ways to save memory, on cards of 24, 48 and 80 GB."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from ..model.lora_config import LoRAConfig
from ..recipes.lm_recipes import RECIPES, LMConfig
from ..training.optimizer_types import OptimizerTypes
from .layouts import RECOMPUTATIONS, Layout, PinConfig
from .plan import RunPlanConfig, layouts_of, plan_of

CARDS = {"RTX 4090": 24, "L40S": 48, "H100": 80}
"""A GPU of each size in 10^9 bytes; shapes decide memory, not speed."""
_BF16 = OptimizerTypes(
    use_precision_aware_optimizer=True,
    main_grads_dtype="bf16",
    exp_avg_dtype="bf16",
    exp_avg_sq_dtype="bf16",
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A recipe and the flags that save memory."""

    recipe: str
    flags: str
    run: LMConfig
    bf16_gradients: bool = False


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A way on a card."""

    way: Way
    card_gb: int
    layout: Layout
    """The one that computes least again, or where none fits the one that needs least memory."""

    def shown(self) -> str:
        """As `15.2 (block 7)`: 10^9 bytes, and what is computed again; a dash where none fits."""
        parallel = self.layout.parallel
        recompute = self.layout.recompute
        if recompute == "block":
            recompute += f" {parallel.recompute_num_layers}"
        size = f"{self.layout.memory.peak / 1e9:.1f}"
        return f"{size} ({recompute})" if self.layout.fits else f"- ({size})"


def ways() -> Iterator[Way]:
    """What the table shows, from what needs most to what needs least."""
    precise = "`--use-precision-aware-optimizer`, gradients and moments in bf16"
    lora = LoRAConfig(lora_rank=32, lora_alpha=64)
    rows = replace(lora, lora_train_embedding=True)
    for name in ("lm-0.6b", "lm-1.7b"):
        run = RECIPES[name]()
        yield Way(recipe=name, flags="", run=run)
        yield Way(recipe=name, flags=precise, run=_with(run, _BF16), bf16_gradients=True)
        with_rows = replace(run, lora=rows)
        yield Way(recipe=name, flags="`--lora-rank 32 --lora-train-embedding`", run=with_rows)
    chat = RECIPES["sft-9b-lora"]()
    yield Way(recipe="sft-9b-lora", flags="", run=chat)
    with_rows = replace(chat, lora=replace(chat.lora, lora_train_embedding=True))
    yield Way(recipe="sft-9b-lora", flags="`--lora-train-embedding`", run=with_rows)
    short = replace(chat, data=replace(chat.data, seq_length=2048))
    yield Way(recipe="sft-9b-lora", flags="`--seq-length 2048`", run=short)


def _with(run: LMConfig, types: OptimizerTypes) -> LMConfig:
    changed = {field.name: getattr(types, field.name) for field in fields(OptimizerTypes)}
    return replace(run, batch=replace(run.batch, **changed))


def fit(way: Way, card: str) -> Fit:
    """The layout of one process to take on a card."""
    config = replace(
        plan_of(way.run),
        gpu=card,
        gpus=1,
        gpu_counts=(1,),
        reserve_gib=1.0,
        layout=PinConfig(
            tensor_model_parallel_size=1,
            pipeline_model_parallel_size=1,
            context_parallel_size=1,
            micro_batch_size=1,
            use_distributed_optimizer=True,
            grad_reduce_in_bf16=way.bf16_gradients,
        ),
    )
    return Fit(way=way, card_gb=CARDS[card], layout=_choose(config))


def _choose(config: RunPlanConfig) -> Layout:
    layouts = layouts_of(config)
    order = list(RECOMPUTATIONS)
    fitting = [layout for layout in layouts if layout.fits]
    if fitting:
        return min(fitting, key=lambda layout: order.index(layout.recompute))
    return min(layouts, key=lambda layout: layout.memory.peak)


def table() -> list[list[str]]:
    """Rows of text: recipe, flags, and a cell for each card."""
    rows = [["recipe", "flags", *(f"{size} GB" for size in CARDS.values())]]
    for way in ways():
        cells = [fit(way, card).shown() for card in CARDS]
        rows.append([f"`{way.recipe}`", way.flags, *cells])
    return rows
