"""Damaged files against the readers, each in a process with bounded memory and time.

python -m tests.fuzz.campaign                    all readers, all seeds; writes the result
python -m tests.fuzz.campaign READER SEED DIR    one input, its traceback; its files go to DIR
"""

import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from megatron_speech.errors import MegatronSpeechError
from tests.fuzz.reader import Reader
from tests.fuzz.readers import READERS

SEEDS = Path(__file__).with_name("seeds.txt")
RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "fuzzed_readers.json"
MEMORY_BYTES = 1 << 30
"""What one input may take beyond what is imported."""
CPU_S = 10.0
WALL_S = 120.0
"""Longer than CPU_S, for a machine that is busy with other things."""


@dataclass
class Result:
    """What became of the inputs of one reader."""

    inputs: int = 0
    refused: int = 0
    """Inputs that were refused as a whole, with an error that says why."""
    read: int = 0
    """Inputs of which something was read."""
    items: int = 0
    set_aside: int = 0
    slowest_s: float = 0.0
    """CPU seconds."""
    faults: dict[str, str] = field(default_factory=dict)
    """What went wrong, by seed."""


def committed_seeds() -> list[int]:
    """The seeds of the campaign, in order."""
    return [int(line) for line in SEEDS.read_text().split()]


def damaged_copy(reader: Reader, seed: int, sample: Path, folder: Path) -> None:
    """The input that a seed stands for."""
    shutil.copytree(sample, folder)
    reader.damage(random.Random(f"{reader.name} {seed}"), folder)


def fuzz(reader: Reader, seeds: Sequence[int]) -> Result:
    """Give a reader one damaged input for each seed."""
    result, left = Result(), list(seeds)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample"
        sample.mkdir()
        reader.make(sample)
        whole = reader.read(sample)
        assert whole.items, f"{reader.name}: nothing is read of valid files"
        assert not whole.set_aside, f"{reader.name}: {whole.set_aside} of valid files"
        while left:
            ours, theirs = context.Pipe(duplex=False)
            work = Path(folder) / f"from {len(left)}"
            process = context.Process(target=_child, args=(reader.name, left, sample, work, theirs))
            process.start()
            theirs.close()
            while left and _next(ours, result, left[0]):
                left.pop(0)
            if left:
                process.kill()
                process.join()
                fault = f"died of signal {-(process.exitcode or 0)}: no answer in time, or a crash"
                result.faults[str(left.pop(0))] = fault
                result.inputs += 1
            process.join()
            shutil.rmtree(work, ignore_errors=True)
    return result


def _next(ours: Connection, result: Result, seed: int) -> bool:
    """Take the answer about one input; False if none comes."""
    try:
        if not ours.poll(WALL_S):
            return False
        items, set_aside, seconds, fault = ours.recv()
    except EOFError:
        return False
    result.inputs += 1
    if items is None:
        result.refused += 1
    else:
        result.read += 1
        result.items += items
        result.set_aside += set_aside
    result.slowest_s = max(result.slowest_s, round(seconds, 2))
    if seconds > CPU_S:
        fault = f"took {seconds:.1f} s. {fault}"
    if fault:
        result.faults[str(seed)] = fault
    return True


def _child(name: str, seeds: Sequence[int], sample: Path, work: Path, pipe: Connection) -> None:
    reader = READERS[name]
    reader.read(sample)  # late imports and memory pools are not of the inputs
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    work.mkdir()
    for seed in seeds:
        folder = work / str(seed)
        damaged_copy(reader, seed, sample, folder)
        began = time.process_time()
        hang = int(began + 2 * CPU_S) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (hang, resource.RLIM_INFINITY))
        pipe.send(answer(reader, sample, folder, began))
        shutil.rmtree(folder, ignore_errors=True)


def answer(
    reader: Reader, sample: Path, folder: Path, began: float
) -> tuple[int | None, int, float, str]:
    """Items (None if all was refused), number set aside, CPU seconds, and what went wrong."""
    found, seconds = None, 0.0
    try:
        try:
            found = reader.read(folder)
        except MegatronSpeechError as error:
            str(error)
        finally:
            seconds = time.process_time() - began
        fault = "; ".join(reader.complaints(sample, folder, found))
    except BaseException as error:  # whatever it is, it is the finding
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "megatron_speech" in frame.filename] or place[-1:]
        fault = (
            f"{type(error).__name__}: {str(error)[:200]!r} at {ours[-1].filename}:{ours[-1].lineno}"
        )
    if found is None:
        return None, 0, seconds, fault
    return len(found.items), len(found.set_aside), seconds, fault


def main(arguments: list[str]) -> None:
    """See above."""
    if len(arguments) == 3:
        name, seed, folder = arguments[0], int(arguments[1]), Path(arguments[2])
        sample = folder / "sample"
        sample.mkdir(parents=True)
        READERS[name].make(sample)
        damaged_copy(READERS[name], seed, sample, folder / "damaged")
        found = READERS[name].read(folder / "damaged")
        print(found, *READERS[name].complaints(sample, folder / "damaged", found), sep="\n")
        return
    seeds, results = committed_seeds(), {}
    for name, reader in READERS.items():
        if not arguments or name in arguments:
            results[name] = fuzz(reader, seeds)
            print(name, results[name], flush=True)
    if not arguments:
        write_result(results)


def write_result(results: dict[str, Result]) -> None:
    """Put the result where it is committed."""
    record = {"seeds": SEEDS.name, "readers": {name: asdict(r) for name, r in results.items()}}
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
