"""Word errors of spans where the best of n samples is kept, and what that costs.

    python benchmarks/best_of_n.py --model runs/try/text_to_token/hf --like runs/try/codes/train \\
        --speech-tokenizer runs/try/speech_tokenizer/export --texts runs/try/codes/windows

Each text is sampled as often as the largest number says; the best of fewer are the best of the
first ones, as `build_dataset.py generate --best-of` makes them. Figures are of all texts: of what
the gates reject nothing is understood. The recogniser that chooses is the one that counts, so its
errors fall further than what is said gets better. --reader, a language model trained to transcribe
codes (`pairs`), reads what was kept with weights of its own, and had no part in choosing.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import report

from megatron_speech import cli
from megatron_speech.data.code_shards import (
    CodeRecord,
    CodeShardInfo,
    find_shards,
    read_code_shards,
    read_shard_info,
    write_code_shard,
)
from megatron_speech.errors import DataError
from megatron_speech.evaluation.asr_tts import WordErrors, evaluate_asr
from megatron_speech.evaluation.context import EvaluationContext
from megatron_speech.evaluation.scoring import LanguageModel
from megatron_speech.interleaving.best_of import Attempt, choose
from megatron_speech.jobs.randomness import document_keys
from megatron_speech.speech_tokenizer.transcription import word_errors
from megatron_speech.text_to_token.engines import EngineConfig
from megatron_speech.text_to_token.gates import GateConfig, Gates
from megatron_speech.text_to_token.self_check import SelfCheck
from megatron_speech.text_to_token.transformers_engine import TransformersEngine


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig:
    """What speaks, what is said, and who listens."""

    model: Path
    """Exported text-to-token model."""
    like: Path
    """Code shards of the speech it was trained on."""
    speech_tokenizer: Path
    """Its recogniser chooses, and counts."""
    texts: tuple[Path, ...]
    """Code shards of recordings of the texts to be said; their own codes are read as well."""
    reader: Path | None = None
    """Exported language model that transcribes codes."""
    limit: int = 400
    """Texts, from the start."""
    samples: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of samples."""
    temperature: float = 0.7
    """Of the samples; `greedy` is without."""
    seed: int = 0
    """Of the samples, with the records' ids."""
    threads: int = 1
    """Of torch."""
    name: str = "best_of_n"
    """The results are benchmarks/results/NAME.json."""


class Bench:
    """The texts, and all that turns them into codes and back."""

    def __init__(self, config: BestOfNConfig):
        info, records = read_code_shards(config.texts)
        usable = [record for record in records if len(record.codes) and record.text]
        self.config, self.records = config, usable[: config.limit]
        self.texts = [str(record.text).strip() for record in self.records]
        if not self.texts:
            raise DataError(f"no record with text and codes in {config.texts}")
        self.info: CodeShardInfo = read_shard_info(find_shards(config.like)[0])
        self.seeds = document_keys(
            config.seed, [record.id for record in self.records]
        ) >> np.uint64(1)
        self.nothing = [(words, words) for words in map(_words, self.texts)]
        self.gates = Gates(GateConfig(), config.like, info.frame_rate_hz)
        fingerprint = self.info.tokenizer_fingerprint
        self.check = SelfCheck(config.speech_tokenizer, fingerprint, "en", "cpu")

    def attempt(self, engine: TransformersEngine, sample: int, cost: dict[str, float]) -> Attempt:
        """One sample of each text; what it took is added to `cost`."""
        started = time.process_time()
        seeds = self.seeds.tolist()
        results = engine.generate(self.texts, seeds, self.gates.most_codes, sample=sample)
        cost["generate_core_s"] += time.process_time() - started
        codes = [result.codes for result in results]
        cost["codes"] += sum(map(len, codes))
        reasons = self.gates.reasons(self.texts, codes, [result.ended for result in results])
        heard: list[tuple[int, int] | None] = [None] * len(codes)
        good = [n for n, reason in enumerate(reasons) if reason is None]
        started = time.process_time()
        counts = self.check.word_errors([self.texts[n] for n in good], [codes[n] for n in good])
        cost["read_core_s"] += time.process_time() - started
        for n, count in zip(good, counts, strict=True):
            heard[n] = count
        return Attempt(results, reasons, heard)

    def figures(self, attempts: Sequence[Attempt]) -> dict[str, Any]:
        """Of the best of some samples."""
        kept = choose(self.texts, attempts, self.gates)
        heard = [attempts[sample].heard[n] for n, sample in enumerate(kept)]
        counts = [self.nothing[n] if own is None else own for n, own in enumerate(heard)]
        found: dict[str, Any] = {
            **_rates(counts),
            "without_errors": sum(own is not None and not own[0] for own in heard) / len(kept),
            "rejected": sum(own is None for own in heard) / len(kept),
            "changed": float(np.mean([sample != 0 for sample in kept])),
        }
        if self.config.reader is not None:
            said = [attempts[sample].results[n].codes for n, sample in enumerate(kept)]
            found["reader"] = self.read(
                [None if own is None else codes for own, codes in zip(heard, said, strict=True)]
            )
        return found

    def read(self, codes: Sequence[np.ndarray | None]) -> dict[str, Any]:
        """Word errors by --reader; of texts without codes nothing is understood."""
        assert self.config.reader is not None
        silent = [self.nothing[n] for n, own in enumerate(codes) if own is None]
        if len(silent) == len(codes):
            return _rates(silent)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kept.parquet"
            records = [
                CodeRecord(id=record.id, codes=own, text=text)
                for record, text, own in zip(self.records, self.texts, codes, strict=True)
                if own is not None
            ]
            write_code_shard(path, records, self.info)
            model = LanguageModel.from_pretrained(self.config.reader)
            context = EvaluationContext(model=model, utterances=None, speech_paths=(path,))
            counts = list(evaluate_asr(context)[0].counts)
        return _rates(counts + silent)


def _words(text: str) -> int:
    return sum(words for _, words in word_errors([text], [""]))


def _rates(counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    found = WordErrors(task="spans", part="all", direction="t2s", counts=counts)
    return {"wer": found.rate, "stderr": found.stderr}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the figures."""
    config = cli.parse(BestOfNConfig, argv, __doc__ or "")
    torch.set_num_threads(config.threads)
    bench = Bench(config)
    engine = EngineConfig(device="cpu")
    figures: dict[str, Any] = {"texts": len(bench.texts), "temperature": config.temperature}
    real = [record.codes for record in bench.records]
    figures["recordings"] = _rates(bench.check.word_errors(bench.texts, real))
    if config.reader is not None:
        figures["recordings"]["reader"] = bench.read(real)
    cost = {"generate_core_s": 0.0, "read_core_s": 0.0, "codes": 0.0}
    greedy = bench.attempt(TransformersEngine(config.model, engine), 0, cost)
    figures["greedy"] = bench.figures([greedy]) | cost
    sampler = TransformersEngine(config.model, replace(engine, temperature=config.temperature))
    attempts: list[Attempt] = []
    cost = {"generate_core_s": 0.0, "read_core_s": 0.0, "codes": 0.0}
    for number in range(1, max(config.samples) + 1):
        attempts.append(bench.attempt(sampler, number - 1, cost))
        if number not in config.samples:
            continue
        found = figures[f"best_of_{number}"] = bench.figures(attempts) | cost
        seconds = cost["generate_core_s"] + cost["read_core_s"]
        found["kept_codes_per_core_s"] = cost["codes"] / number / seconds
        for name in ("greedy", f"best_of_{config.samples[0]}"):
            found[f"fewer_errors_than_{name}"] = 1 - found["wer"] / figures[name]["wer"]
        print(f"best of {number}: {found['wer']:.1%} word errors", flush=True)
    report(config.name, "one sample, and the likeliest codes, of the same texts", figures)
    return figures


if __name__ == "__main__":
    cli.run(main, starts_over=True)
