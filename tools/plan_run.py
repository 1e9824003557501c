"""Say what a pre-training run needs: memory by layout, days, GPU-hours, disk. No GPU is touched.

    python tools/plan_run.py lm-9b --tokens 1T --gpu H100 --gpus 256
    python tools/plan_run.py lm-9b --bf16 --fp8-format hybrid --fp8-recipe tensorwise --mfu 70
    python tools/plan_run.py lm-1.5b --gpu A100 --gpus 64 --measured-run runs/lm --output plan.json

Every shape, precision and layout flag of pretrain is one here too; a layout is proposed only if
pretrain would accept it. Other flags of Megatron-LM's are taken or answered as by pretrain. What is
neither counted nor given is listed as assumed.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.cluster.plan import RunPlan, RunPlanConfig, make_plan, plan_of
    from megatron_speech.cluster.plan_report import print_plan
    from megatron_speech.io.files import write_json
    from megatron_speech.recipes.lm_recipes import RECIPES
    from megatron_speech.recipes.megatron_flags import PLAN_FLAGS


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A plan and where to write it."""

    plan: RunPlanConfig
    output: Path | None = None
    """Also write the plan as JSON."""


def main(argv: Sequence[str] | None = None) -> RunPlan:
    """Print the plan of a recipe and return it."""
    given = cli.translate(argv, PLAN_FLAGS, "Megatron-LM")
    _, arguments = cli.parse_recipe(
        RECIPES, given, __doc__, lambda run: Arguments(plan=plan_of(run))
    )
    plan = make_plan(arguments.plan)
    print_plan(plan)
    if arguments.output is not None:
        write_json(arguments.output, plan.plain())
        print(f"wrote {arguments.output}")
    return plan


if __name__ == "__main__":
    cli.run(main, starts_over=True)
