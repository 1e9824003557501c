"""What every benchmark shares: paired timing, and results that name command, device and commit.

`make bench SIZE=smoke` (BENCHMARK_SIZE=smoke) runs them at sizes too small for figures: every check
is made, and what would be results goes to runs/benchmarks-smoke.
"""

import datetime
import gc
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from megatron_speech.data.indexed import token_dtype
from megatron_speech.io.files import write_json
from megatron_speech.text.vocab import SpeechTextVocab

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # a script here finds its own folder, and so not the tools
SMOKE = os.environ.get("BENCHMARK_SIZE") == "smoke"
RESULTS = ROOT / ("runs/benchmarks-smoke" if SMOKE else "benchmarks/results")


def sized(full: int, smoke: int) -> int:
    """How large to be in this run."""
    return smoke if SMOKE else full


def word_vocabulary(folder: Path, words: int, num_codes: int) -> SpeechTextVocab:
    """Text of `words` tokens, the end of a document, w1, w2, ..., and codes; `folder` is new."""
    ids = {"<|endoftext|>": 0} | {f"w{n}": n for n in range(1, words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return SpeechTextVocab.extend(folder, num_codes)


def time_pair(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Median seconds of both, run in turn after one warm-up, and peer / ours of each round.

    `time.process_time` as clock counts core-seconds, whatever else the machine is doing.
    """
    rounds = sized(rounds, 1)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for round_number in range(rounds + 1):
        for name, call in (("ours", ours), ("peer", peer)):
            started = clock()
            call()
            synchronize()
            if round_number:
                seconds[name].append(clock() - started)
    ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["peer"], strict=True))
    return {
        "ours_s": statistics.median(seconds["ours"]),
        "peer_s": statistics.median(seconds["peer"]),
        "speedup": statistics.median(ratios),
        "speedup_range": [ratios[0], ratios[-1]],
    }


def processor_seconds(call: Callable[[], Any]) -> float:
    """Seconds of this process's processors."""
    gc.collect()
    started = time.process_time()
    call()
    return time.process_time() - started


def write_one_by_one(prefix: Path, documents: Iterable[list[int]], vocab: SpeechTextVocab) -> None:
    """Write .bin and .idx as Megatron's tools do: its own builder, a document at a time."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=token_dtype(vocab.padded_size).type)
    for document in documents:
        builder.add_document(document, [len(document)])
    builder.finalize(f"{prefix}.idx")


def require_same_dataset(ours: Path, peer: Path) -> None:
    """End the program where the .bin or .idx of the two differ."""
    for suffix in (".bin", ".idx"):
        if Path(f"{ours}{suffix}").read_bytes() != Path(f"{peer}{suffix}").read_bytes():
            raise SystemExit(f"the two {suffix} files differ: no figures are shown")


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_extra_mib(call: Callable[[], Any]) -> float:
    """GPU memory that `call` needs beyond what is in use, its results included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def one_hot_sums(x: Tensor, codes: Tensor, rows: int, num_codes: int) -> tuple[Tensor, Tensor]:
    """Counts (K,) and sums (K, D) of vectors (N, D) by code (N,): a one-hot in fp32 and a product.

    So many rows at a time: the whole N x K would not fit.
    """
    counts = torch.zeros(num_codes, device=x.device)
    sums = torch.zeros(num_codes, x.shape[1], device=x.device)
    for part, chosen in zip(x.split(rows), codes.split(rows), strict=True):
        one_hot = torch.zeros(len(part), num_codes, device=x.device)
        one_hot.scatter_(1, chosen[:, None], 1.0)
        counts += one_hot.sum(dim=0)
        sums.addmm_(one_hot.t(), part.float())
    return counts, sums


def report(name: str, peer: str, figures: dict[str, Any]) -> None:
    """Print the figures and write results/NAME.json; at smoke size say that checks passed."""
    record = write_record(name, peer, figures)
    if SMOKE:
        return print(f"{name}: checks passed at smoke size, where times mean nothing")
    print(f"{name}, against {peer}, on {record['device']}:")
    for key, value in figures.items():
        print(f"  {key}: {value if not isinstance(value, float) else f'{value:,.4g}'}")


def write_record(name: str, peer: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Write figures with what they were measured by into results/NAME.json; returns that."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    packages = ("torch", "numpy", "transformers", "megatron-core")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    record = {
        "name": name,
        "command": shlex.join(["python", str(script), *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "peer": peer,
        "figures": figures,
        "device": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in packages},
        "commit": commit,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{name}.json", record)
    return record


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
