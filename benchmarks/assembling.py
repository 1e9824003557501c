"""Plans and codes to interleaved .bin/.idx, files to files, on one processor.

python benchmarks/assembling.py

Documents of about 900 text tokens with the interleaver's spans, 3.8 codes for a text token; tokens,
words and codes are random. No peer does this; the index's own writer, fed the finished tokens
document by document, is timed beside it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import processor_seconds, report, sized, word_vocabulary, write_one_by_one

from megatron_speech.data.code_shards import CodeRecord, CodeShardInfo, write_code_shard
from megatron_speech.data.indexed import open_tokens
from megatron_speech.datasets.verify import verify
from megatron_speech.interleaving.assemble import AssembleConfig, assemble
from megatron_speech.interleaving.plan import PLAN_SCHEMA
from megatron_speech.interleaving.plan_folder import plan_path
from megatron_speech.interleaving.spans import SpanConfig, sample_word_spans
from megatron_speech.io.files import write_json
from megatron_speech.io.parquet import write_parquet
from megatron_speech.jobs.randomness import document_keys
from megatron_speech.text.vocab import SpeechTextVocab

DOCUMENTS, WORDS, CODES_PER_WORD, SHARD = sized(3000, 100), 690, 5, 20_000
ROUNDS = sized(5, 1)
INFO = CodeShardInfo(frame_rate_hz=12.5, num_codes=16_384, tokenizer_fingerprint="random")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocab = word_vocabulary(folder / "base", 50_000, 16_384)
        vocab.save_pretrained(folder / "vocab")
        write_inputs(folder, vocab)
        config = AssembleConfig(
            plan=folder / "plan",
            codes=folder / "codes",
            vocab=folder / "vocab",
            output_prefix=folder / "out",
        )
        facts = assemble(config)
        if problems := verify(config.output_prefix, vocab).problems:
            raise SystemExit(f"{problems[0]}: no times are shown")
        index, tokens = open_tokens(config.output_prefix)
        documents = [
            tokens[start : start + length].tolist()
            for start, length in zip(index.starts, index.lengths, strict=True)
        ]
        ours = _median_seconds(lambda: assemble(config))
        peer = _median_seconds(lambda: write_one_by_one(folder / "peer", documents, vocab))
    figures = {
        "tokens": len(tokens),
        "spans": facts["spans"],
        "assemble_mtok_per_core_s": len(tokens) / ours / 1e6,
        "index_alone_one_by_one_mtok_per_core_s": len(tokens) / peer / 1e6,
    }
    report("assembling", "IndexedDatasetBuilder.add_document of finished documents", figures)


def _median_seconds(call: Callable[[], Any]) -> float:
    return float(np.median([processor_seconds(call) for _ in range(ROUNDS)]))


def write_inputs(folder: Path, vocab: SpeechTextVocab) -> None:
    """The files that plan and generate would leave, as one task."""
    random = np.random.default_rng(0)
    words = random.poisson(WORDS, DOCUMENTS)
    names = [f"<urn:uuid:{number:032x}>" for number in range(DOCUMENTS)]
    spans = sample_word_spans(words, document_keys(0, names), SpanConfig())
    edges = np.searchsorted(spans.document, np.arange(DOCUMENTS + 1))
    rows: dict[str, list[Any]] = {name: [] for name in PLAN_SCHEMA.names}
    records = []
    for number, count in enumerate(words.tolist()):
        own = slice(edges[number], edges[number + 1])
        start, stop = spans.start[own], spans.stop[own]
        size = round(1.3 * count)  # tokens; every word begins with one
        begins = np.sort(random.choice(np.arange(1, size), count - 1, replace=False))
        borders = np.concatenate([[0], begins, [size]])
        row = {
            "document_id": names[number],
            "tokens": random.integers(1, 50_000, size),
            "words": count,
            "characters": 6 * count,
            "token_start": borders[start],
            "token_stop": borders[stop],
            "character_start": 6 * start,
            "character_stop": 6 * stop - 1,
            "span_words": stop - start,
            "seed": random.integers(0, 1 << 62, len(start)),
        }
        for name, value in row.items():
            rows[name].append(value)
        records += [
            CodeRecord(
                id=f"{names[number]}/{span:03d}",
                codes=random.integers(0, INFO.num_codes, CODES_PER_WORD * length),
                text="words " * length,
            )
            for span, length in enumerate((stop - start).tolist())
        ]
    write_parquet(plan_path(folder / "plan", 0), pa.Table.from_pydict(rows, PLAN_SCHEMA))
    shards = []
    for first in range(0, len(records), SHARD):
        shards.append(f"00000-{len(shards):05d}.parquet")
        part = records[first : first + SHARD]
        write_code_shard(folder / "codes" / shards[-1], part, INFO)
        asked = pa.table({"id": [record.id for record in part]})
        write_parquet(folder / "plan" / "requests" / shards[-1], asked)
    facts: dict[str, Any] = {"vocab_fingerprint": vocab.fingerprint, "tasks": 1, "not_speakable": 0}
    facts |= {
        "documents": DOCUMENTS,
        "text_tokens": round(1.3 * int(words.sum())),
        "requests": len(records),
        "rejected": {},
    }
    facts |= {"request_shards": shards, "spans": asdict(SpanConfig())}
    write_json(folder / "plan" / "plan.json", facts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
