"""The table of evaluation tasks.

To add one: write a file whose function takes an `EvaluationContext` and returns results, and add
one line to `TASKS`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigError
from . import asr_tts, cascade, cloze, qa
from .asr_tts import WordErrors
from .context import EvaluationContext, Result

Task = Callable[[EvaluationContext], Sequence[Result | WordErrors]]

TASKS: dict[str, Task] = {
    "cloze": cloze.evaluate,
    "qa": qa.evaluate,
    "cascade": cascade.evaluate,
    "asr": asr_tts.evaluate_asr,
    "tts": asr_tts.evaluate_tts,
}


def require_tasks(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not in the table."""
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise ConfigError(f"no evaluation task {unknown[0]!r}; there are {', '.join(TASKS)}")


def run_tasks(names: Sequence[str], context: EvaluationContext) -> list[Result | WordErrors]:
    """Run the named tasks in order; raises as `require_tasks`."""
    require_tasks(names)
    return [result for name in names for result in TASKS[name](context)]


def results_to_json(results: Sequence[Result | WordErrors]) -> dict[str, Any]:
    """Nested by task, part and direction."""
    nested: dict[str, Any] = {}
    for result in results:
        part = nested.setdefault(result.task, {}).setdefault(result.part, {})
        part[result.direction] = result.to_json()
    return nested
