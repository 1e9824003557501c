"""What the doctor finds, and how it is shown on one screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "absent", "broken", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the screen."""

    group: str
    name: str
    state: State
    detail: str = ""
    advice: str = ""
    """What to do about it."""
    is_core: bool = False
    """Nothing works without it."""


_MARKS = {"ok": "ok", "absent": "--", "broken": "!!", "unknown": "??"}


def screen(findings: Sequence[Finding]) -> str:
    """The findings, and what to do next, as text of one screen."""
    lines, group = [], ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines.append(group)
        lines.append(f"  {_MARKS[finding.state]}  {finding.name:<22} {finding.detail}".rstrip())
    steps = [f for f in findings if f.state == "broken" and f.advice]
    steps += [f for f in findings if f.state == "absent" and f.advice]
    if steps:
        lines.append("next")
        lines += [f"  {finding.name}: {finding.advice}" for finding in steps]
    if any(finding.state == "unknown" for finding in findings):
        lines.append("  ?? were not answered in time: --seconds 60 waits longer")
    core = {
        state: [f.name for f in findings if f.is_core and f.state == state]
        for state in ("broken", "unknown")
    }
    if core["broken"]:
        lines.append(f"the core cannot work: {', '.join(core['broken'])}")
    elif core["unknown"]:
        lines.append(f"whether the core works is not known: {', '.join(core['unknown'])}")
    else:
        lines.append("the core can work")
    return "\n".join(lines)


def can_work(findings: Sequence[Finding]) -> bool:
    """False only if something is known to be broken that nothing works without."""
    return not any(finding.is_core and finding.state == "broken" for finding in findings)
