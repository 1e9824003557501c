"""Make the codes of a synthetic span again, from what the dataset recorded about it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.code_shards import find_shards, read_shard_info
from ..errors import ConfigError, DataError
from ..interleaving.generate import GenerateConfig
from ..io.parquet import read_parquet
from ..text.vocab import SpeechTextVocab
from ..text_to_token.choose_engine import make_engine
from ..text_to_token.engines import PromptEngine
from ..text_to_token.gates import Gates
from .trace import Origin, document_tokens, trace


@dataclass(frozen=True)
class Regenerated:
    """A span made again: `recorded` (n,) codes of the dataset, `codes` (m,) those made now.

    Of several samples (--best-of) `codes` are the one recorded, or the first if none equals it.
    """

    origin: Origin
    text: str
    recorded: np.ndarray
    codes: np.ndarray

    @property
    def equal(self) -> bool:
        """Whether not a single code differs."""
        return np.array_equal(self.recorded, self.codes)


def regenerate(
    prefix: Path, vocab: SpeechTextVocab, document: int, position: int, config: GenerateConfig
) -> Regenerated:
    """Replay the batches that made the span around a token, and only those.

    `config` must name the model, the engine settings and the plan that the span was made with; its
    request shard is decoded in the same batches, so the codes are the same bit for bit on the same
    device and library versions.

    Raises:
        DataError: the token is no synthetic speech, or the request shard is gone or another one.
        ConfigError: the model or the engine settings are not those that made the span.
    """
    origin = trace(prefix, vocab, document, position)
    if origin.kind != "speech" or not origin.generator_fingerprint:
        raise DataError(
            f"token {position} of document {document} of {prefix} is {origin.kind}"
            f"{' cut from a recording' if origin.kind == 'speech' else ''}; choose a token of a "
            "synthetic span (tools/inspect_dataset.py shows them)"
        )
    requests = config.plan / "requests" / str(origin.request_shard)
    table = read_parquet(requests, ("id", "text", "seed"))
    ids, texts, seeds = (table[name].to_pylist() for name in ("id", "text", "seed"))
    rows = [n for n, name in enumerate(ids) if name == origin.source_id]
    rows = [n for n in rows if seeds[n] == origin.seed]
    if not rows:
        raise DataError(f"{requests} does not hold {origin.source_id}; give the plan it came from")
    engine = make_engine(config.model, config.engine)
    generator = config.best.fingerprint(engine.fingerprint)
    if generator != origin.generator_fingerprint:
        raise ConfigError(
            f"the span was made by generator {origin.generator_fingerprint}; {config.model} with "
            f"these settings is {generator}: give the same model, --batch-size, --temperature, "
            "--dtype and --best-of as then"
        )
    if not isinstance(engine, PromptEngine):
        raise ConfigError(f"{type(engine).__name__} cannot replay a batch")
    info = read_shard_info(find_shards(config.like)[0])
    gates = Gates(config.gates, config.like, info.frame_rate_hz)
    span = document_tokens(prefix, document)[origin.run_start : origin.run_stop]
    recorded, samples = vocab.tokens_to_codes(span), []
    for sample in range(config.best.best_of):
        made = engine.generate(texts, seeds, gates.most_codes, only=rows[:1], sample=sample)
        samples.append(made[rows[0]].codes)
    codes = next((own for own in samples if np.array_equal(own, recorded)), samples[0])
    return Regenerated(origin, texts[rows[0]], recorded, codes)
