"""The README's stage-by-stage commands, as written, in one shell from the first to the last."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "runs/try"


def stage_commands(readme: str) -> str:
    """All bash blocks of the section "Stage by stage", in order."""
    section = readme.split("## Stage by stage", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return "\n".join(blocks)


def test_commands_of_the_readme_work_one_after_the_other(tmp_path):
    script = stage_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert script.count("python ") >= 15
    script = "set -eo pipefail\n" + script.replace(FOLDER, str(tmp_path))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "cloze" in (tmp_path / "results.json").read_text(encoding="utf-8")
