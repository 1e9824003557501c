"""A million documents through plan, generate and assemble; six novels through the real engine.

    pytest -s --override-ini addopts= tests/long/test_many_documents.py

The first takes its codes from a look-up engine, so that all but the model is at work. The second
needs a finished demo (DEMO, `runs/demo` unless set), and Jane Austen's novels from Debian's package
r-cran-janeaustenr. Both write what they counted into benchmarks/results/many_documents.json.
"""

import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.storyworld.generate import corpus_document
from examples.storyworld.world import make_world
from megatron_speech.datasets.verify import verify
from megatron_speech.interleaving.assemble import AssembleConfig, assemble
from megatron_speech.interleaving.generate import GenerateConfig, generate
from megatron_speech.interleaving.plan import PlanConfig, plan
from megatron_speech.interleaving.three_jobs import InterleavedConfig, build_interleaved
from megatron_speech.io.files import read_json, write_json
from megatron_speech.text.vocab import SpeechTextVocab
from tests.interleaving.samples import LookUpEngine, make_vocab, write_codes

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "many_documents.json"
DOCUMENTS = int(os.environ.get("DOCUMENTS", "1000000"))
FEW = 10_000
MOST_GROWTH_MIB = 1536
WORKERS = 2
BAD_LINES = ("{not json", '{"text": null}', '{"text": 7}', '{"words": "no text"}', '{"text": " "}')


def write_corpus(folder: Path, documents: int) -> int:
    """StoryWorld in files of 100,000, and one of lines that are no documents; their number."""
    folder.mkdir(parents=True)
    rng, world = random.Random("many"), make_world()
    texts = (corpus_document(rng, world) for _ in range(documents))
    number = 0
    while part := list(islice(texts, 100_000)):
        ids = [f"story-{number}-{row}" for row in range(len(part))]
        pq.write_table(pa.table({"id": ids, "text": part}), folder / f"{number:03d}.parquet")
        number += 1
    (folder / "bad.jsonl").write_text("".join(f"{line}\n" for line in BAD_LINES * 100))
    return len(BAD_LINES) * 100


def measured(job: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """What a job returns, its seconds, and the most MiB that it or one worker of it held.

    An upper bound: Linux lets a process begin with what its parent held.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, job, arguments))
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


def _measure(pipe: Any, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    started = time.monotonic()
    result = job(*arguments)
    seconds = time.monotonic() - started
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    pipe.send((result, seconds, peak / 1024))


def generate_by_look_up(config: GenerateConfig) -> dict[str, Any]:
    return generate(config, LookUpEngine())


def run(folder: Path, documents: int) -> dict[str, Any]:
    """All three jobs over `documents` stories; their counts, seconds and memory."""
    bad = write_corpus(folder / "corpus", documents)
    vocab = make_vocab(folder)
    write_codes(folder / "like" / "a.parquet")
    planned, *plan_cost = measured(
        plan,
        PlanConfig(
            input=(str(folder / "corpus"),),
            vocab=folder / "vocab",
            output=folder / "plan",
            tasks=16,
            workers=WORKERS,
        ),
    )
    generated, *generate_cost = measured(
        generate_by_look_up,
        GenerateConfig(
            plan=folder / "plan", model=folder, like=folder / "like", output=folder / "codes"
        ),
    )
    prefix = folder / "out"
    facts, *assemble_cost = measured(
        assemble,
        AssembleConfig(
            plan=folder / "plan",
            codes=folder / "codes",
            vocab=folder / "vocab",
            output_prefix=prefix,
            workers=WORKERS,
        ),
    )
    check_counts(planned, generated, facts, prefix, vocab)
    assert planned["documents"] == documents
    assert sum(planned["rejected"].values()) == bad
    costs = {"plan": plan_cost, "generate": generate_cost, "assemble": assemble_cost}
    return {
        "documents": facts["documents"],
        "set_aside": planned["rejected"],
        "spans": facts["spans"],
        "spans_rejected": facts["rejected"],
        "tokens": facts["text_tokens"] + facts["speech_tokens"],
        "seconds": {job: round(cost[0], 1) for job, cost in costs.items()},
        "peak_mib": {job: round(cost[1]) for job, cost in costs.items()},
    }


def check_counts(planned: dict, generated: dict, facts: dict, prefix: Path, vocab: Any) -> None:
    """Every document and every span is out, or set aside with a reason."""
    assert facts["documents"] == planned["documents"]
    assert generated["requests"] == planned["requests"]
    assert facts["spans"] + sum(facts["rejected"].values()) == planned["requests"]
    assert facts["rejected"] == generated["rejected"]
    found = verify(prefix, vocab)
    assert not found.problems
    assert found.documents == facts["documents"]
    listed = Counter(
        json.loads(line)["reason"]
        for line in Path(f"{prefix}.rejected.jsonl").read_text().splitlines()
    )
    assert dict(listed) == facts["rejected"]


def add_result(name: str, figures: dict[str, Any]) -> None:
    record = read_json(RESULTS) if RESULTS.exists() else {}
    print(json.dumps({name: figures}, indent=1))
    write_json(RESULTS, {**record, name: figures})


def test_a_million_documents_are_all_out_or_set_aside(tmp_path):
    few, many = run(tmp_path / "few", FEW), run(tmp_path / "many", DOCUMENTS)
    add_result("look-up engine", {"few": few, "many": many})
    for job, peak in many["peak_mib"].items():
        assert peak <= few["peak_mib"][job] + MOST_GROWTH_MIB, job


def write_novels(folder: Path, stories: int) -> None:
    """Six novels, one document each, and StoryWorld's first stories."""
    if shutil.which("Rscript") is None:
        pytest.fail("this needs Debian's r-cran-janeaustenr: apt-get install r-cran-janeaustenr")
    script = (
        "b <- janeaustenr::austen_books(); for (n in levels(b$book)) "
        'writeLines(b$text[b$book == n], file.path(commandArgs(TRUE), paste0(n, ".txt")))'
    )
    texts = folder / "texts"
    texts.mkdir(parents=True)
    subprocess.run(["Rscript", "-e", script, str(texts)], check=True)
    rows = [(path.stem, path.read_text()) for path in sorted(texts.glob("*.txt"))]
    assert len(rows) == 6
    rng, world = random.Random("many"), make_world()
    rows += [(f"story-{number}", corpus_document(rng, world)) for number in range(stories)]
    ids, contents = zip(*rows, strict=True)
    pq.write_table(pa.table({"id": ids, "text": contents}), folder / "corpus.parquet")


def test_novels_and_stories_pass_the_real_engine(tmp_path):
    demo = Path(os.environ.get("DEMO", ROOT / "runs" / "demo"))
    stories = int(os.environ.get("STORIES", "2000"))
    write_novels(tmp_path, stories)
    prefix = tmp_path / "out"
    started = time.monotonic()
    facts = build_interleaved(
        InterleavedConfig(
            input=(str(tmp_path / "corpus.parquet"),),
            vocab=demo / "vocab",
            model=demo / "text_to_token" / "hf",
            like=demo / "codes" / "train",
            output_prefix=prefix,
            workers=WORKERS,
        )
    )
    seconds = time.monotonic() - started
    planned = read_json(Path(f"{prefix}.work") / "plan" / "plan.json")
    vocab = SpeechTextVocab.from_pretrained(demo / "vocab")
    check_counts(planned, facts["generation"], facts, prefix, vocab)
    assert planned["documents"] == 6 + stories
    figures = {
        "documents": facts["documents"],
        "words": facts["words"],
        "spans": facts["spans"],
        "spans_rejected": facts["rejected"],
        "codes": facts["generation"]["codes"],
        "seconds": round(seconds),
    }
    add_result("six novels and stories, real engine", figures)
