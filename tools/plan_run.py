"""Say what a pre-training run needs: memory by layout, days, GPU-hours, disk. No GPU is touched.

    python tools/plan_run.py lm-9b --tokens 1T --gpu H100 --gpus 256
    python tools/plan_run.py lm-9b --bf16 --fp8-format hybrid --fp8-recipe tensorwise --mfu 70
    python tools/plan_run.py lm-1.5b --gpu A100 --gpus 64 --measured-run runs/lm --output plan.json

Every shape, precision and layout flag of pretrain is one here too; a layout is proposed only if
pretrain would accept it. What is neither counted nor given is listed as assumed.
"""

from megatron_speech.starting import starting

with starting(__name__):
    from collections.abc import Callable, Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.cluster.plan import Plan, RunPlanConfig, make_plan, plan_recipes
    from megatron_speech.cluster.plan_report import print_plan
    from megatron_speech.files import write_json


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A plan and where to write it."""

    plan: RunPlanConfig
    output: Path | None = None
    """Also write the plan as JSON."""


def main(argv: Sequence[str] | None = None) -> Plan:
    """Print the plan of a recipe and return it."""
    recipes = {name: _arguments(recipe) for name, recipe in plan_recipes().items()}
    _, arguments = cli.parse_recipe(recipes, argv, __doc__ or "")
    plan = make_plan(arguments.plan)
    print_plan(plan)
    if arguments.output is not None:
        write_json(arguments.output, plan.plain())
        print(f"wrote {arguments.output}")
    return plan


def _arguments(recipe: Callable[[], RunPlanConfig]) -> Callable[[], Arguments]:
    def defaults() -> Arguments:
        return Arguments(plan=recipe())

    defaults.__doc__ = recipe.__doc__
    return defaults


if __name__ == "__main__":
    cli.run(main)
