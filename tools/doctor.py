"""Say on one screen what works here, what is missing, what that costs, what to install next.

    python tools/doctor.py
    python tools/doctor.py --folder /scratch/runs --vllm-python vllm/bin/python --seconds 60

Takes less than five seconds, also where packages are half-installed or hang. Ends with code 1 only
if the core cannot work. Needs nothing but Python.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works before anything is installed

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import argparse
    from collections.abc import Sequence

    from megatron_speech.cluster.doctor import can_work, examine, screen
    from megatron_speech.jobs.program import run


def main(argv: Sequence[str] | None = None) -> int:
    """Print the screen and return the exit code."""
    # argparse: the doctor must also speak where tyro is missing
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where runs are written")
    parser.add_argument("--seconds", type=float, default=4.0, help="wait at most this long")
    parser.add_argument("--vllm-python", type=Path, help="Python of an environment with vLLM")
    arguments = parser.parse_args(argv)
    findings = examine(arguments.folder, arguments.seconds, arguments.vllm_python)
    print(screen(findings))
    return 0 if can_work(findings) else 1


if __name__ == "__main__":
    run(lambda: sys.exit(main()), starts_over=True)
