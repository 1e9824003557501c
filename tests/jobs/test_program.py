import errno
import os
import runpy
import signal
import subprocess
import sys
from io import UnsupportedOperation
from pathlib import Path

import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.jobs import program

ROOT = Path(__file__).resolve().parents[2]


NO_FILE = OSError(errno.EIO, "Input/output error")
NO_FILE.add_note("while a.parquet was written")
TRANSFORMERS = OSError("/m does not appear to have a file named config.json")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("--x is 3"), 2, "error: --x is 3"),
        (OSError(errno.ENOSPC, "No space left"), 2, "no disk space left"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
        (program.Terminated(), 143, "terminated; run the same command again"),
        (PermissionError(13, "Permission denied", "/a/b"), 2, "/a/b: Permission denied; look at"),
        (NotADirectoryError(20, "", b"/a/b"), 2, "error: /a/b: Not a directory; a part of that"),
        (FileExistsError(17, "", Path("f")), 2, "error: f: File exists; a part of that path is a"),
        (IsADirectoryError(21, "", "d"), 2, "error: d: Is a directory; a folder stands where"),
        (OSError(errno.EROFS, "", "r"), 2, "error: r: Read-only file system; it is mounted"),
        (OSError(errno.ENAMETOOLONG, "", "n"), 2, "error: n: File name too long; give a shorter"),
        (OSError(errno.ELOOP, "", "l"), 2, "error: l: Too many levels of symbolic links; symbolic"),
        (OSError(errno.EMFILE, "", "m"), 2, "error: m: Too many open files; raise the limit"),
        (OSError(errno.EIO, "", "i"), 2, "error: i: Input/output error; the disk or network"),
        (NO_FILE, 2, "dmesg, then run the same command again (while a.parquet was written)"),
        (FileNotFoundError(2, "", "x", None, "y"), 2, "error: x: No such file or directory"),
        (PermissionError(13, "", 7), 2, "error: 7: Permission denied"),
        (ConnectionRefusedError(111, ""), 2, "error: Connection refused"),
        (TRANSFORMERS, 2, "error: /m does not appear to have a file named config.json"),
        (ConfigError(f"--x is {'9' * 10**6}; give less"), 2, "9; give less"),
    ],
)
def test_run_speaks_to_a_person(error, code, said, capsys):
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        program.run(fail)
    assert stopped.value.code == code
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed) < 2100


@pytest.mark.parametrize(
    "error",
    [KeyError("bug"), TypeError("bug"), AssertionError("bug"), UnsupportedOperation("bug")],
)
def test_bugs_keep_their_traceback(error):
    def fail() -> None:
        raise error

    with pytest.raises(type(error), match="bug"):
        program.run(fail)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("tokenize_speech", "; run the same command again to continue\n"),
        ("transcribe_speech", "; the same command starts over\n"),
        ("build_dataset plan", "; run the same command again to continue\n"),
        ("build_dataset speech", "; the same command starts over\n"),
    ],
)
def test_who_is_stopped_hears_whether_work_is_kept(tool, said, capsys, monkeypatch):
    def stopped(*given) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("megatron_speech.cli.parse", stopped)
    monkeypatch.setattr(sys, "argv", tool.split())
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / f"tools/{tool.split()[0]}.py"), run_name="__main__")
    assert capsys.readouterr().err == f"interrupted{said}"


def test_of_many_processes_one_speaks_of_a_stop(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")

    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        program.run(stopped)
    assert capsys.readouterr().err == ""


PROGRAM = """
from megatron_speech.jobs.starting import starting
with starting(__name__):
    import sys, time
    from megatron_speech.jobs import program
def main():
    {main}
if __name__ == "__main__":
    program.run(main)
"""


def shell(tmp_path, main: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a pipeline of bash; its status is that of the program."""
    (tmp_path / "program.py").write_text(PROGRAM.format(main=main))
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, tmp_path / "program.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    "main",
    [
        "[print(n) for n in range(10**6)]",  # breaks while it prints
        "print(1); sys.stdout.flush(); time.sleep(1); print(2)",  # and at the end
        "print(1); sys.stdout.flush(); time.sleep(1); print(2); raise SystemExit(0)",
    ],
)
def test_a_reader_that_went_away_is_no_error(tmp_path, main):
    done = shell(tmp_path, main, '"$1" "$2" | head -n 1; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout in ("0\n", "1\n")


def test_another_pipe_that_breaks_is_an_error(tmp_path):
    main = 'raise BrokenPipeError(32, "Broken pipe")'
    done = shell(tmp_path, main, '"$1" "$2" | cat; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stderr) == (2, "error: Broken pipe\n")


def test_a_full_disk_under_what_is_printed(tmp_path):
    done = shell(tmp_path, "print(1)", '"$1" "$2" > /dev/full')
    assert done.returncode == 2
    assert done.stderr.startswith("error: no disk space left while writing")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_under_way_cleans_up(tmp_path, number, status):
    main = f"""import os
    try:
        os.kill(os.getpid(), {number.value}); time.sleep(9)
    finally:
        os.kill(os.getpid(), {signal.SIGTERM.value}); time.sleep(0.2); print("cleaned")"""
    if number == signal.SIGINT:
        main = main.replace(f"os.kill(os.getpid(), {signal.SIGTERM.value}); ", "")
    done = shell(tmp_path, main, '"$1" "$2"')
    assert (done.returncode, done.stdout) == (status, "cleaned\n")
    assert done.stderr.endswith("; run the same command again to continue\n")
    assert len(done.stderr.splitlines()) == 1
