"""How well codes can be understood: read back by the speech tokenizer's own ASR.

Serves real codes and generated ones alike; a record without codes (rejected speech) counts as a
text of which nothing was understood. Real codes tell the tokenizer's quality, generated ones, on
the same texts, that of the text-to-token model (paper sections 2.5 and 4).
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.code_shards import CodeRecord, read_code_shards
from ..data.manifest import manifest_name
from ..errors import ConfigError, DataError, require_within
from ..training.devices import require_device
from .spans import draw_spans, read_spans, span_figures


@dataclass(frozen=True, kw_only=True)
class EvaluateCodesConfig:
    """Which codes to read, with which speech tokenizer."""

    speech_tokenizer: Path | None = None
    """Folder of the speech tokenizer, its recogniser included. Without it --codes are counted and
    not read."""
    codes: tuple[Path, ...] = ()
    """Code shards with text, or folders of them; each gets its own figures, by its name."""
    manifest: tuple[Path, ...] = ()
    """Recordings with texts (parquet, tsv, jsonl): read through their codes and past the codebook,
    in all and by language. A set is named by its file, or by the folder of a `manifest.*`."""
    whisper: Path | None = None
    """Released Whisper, a folder or an id of the Hugging Face hub, that reads the recordings of
    --manifest too, as it is."""
    whisper_silence_s: float = 30.0
    """Silence behind what that Whisper reads, at most as much as fills its window of 30 s."""
    output: Path | None = None
    """JSON file for the results."""
    limit: int | None = None
    """Records of each, from the start."""
    requests: Path | None = None
    """The plan's folder `requests`, where --codes is what the generate job made of it: adds word
    errors before and after the gates, and rejections, by content, length and place."""
    figure: Path | None = None
    """PNG of what --requests adds."""
    language: str = "en"
    """Language of the texts (ISO 639-1); of recordings, where they name none."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        require_device(self.device)
        names = [_name(path) for path in self.codes] + [manifest_name(p) for p in self.manifest]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"--codes and --manifest need one or more paths of different names, got {names}"
            )
        reads = self.requests is not None or (self.manifest and self.whisper is None)
        if self.speech_tokenizer is None and reads:
            raise ConfigError("--manifest and --requests need a --speech-tokenizer, or the former "
                              "a --whisper; give its folder")  # fmt: skip
        require_within(self, 1, "limit")
        if self.requests is not None and (len(names) > 1 or not self.codes):
            raise ConfigError("--requests belong to one folder of --codes")
        require_within(self, 0, "whisper_silence_s", most=30)
        if self.output is not None and self.output.is_dir():
            raise ConfigError(f"--output {self.output} is a folder; give a file")
        if self.figure is not None and self.figure.suffix != ".png":
            raise ConfigError(f"--figure {self.figure}: the name must end in .png")
        if self.figure is not None and self.requests is None:
            raise ConfigError("--figure shows what --requests adds; give both")


def evaluate_codes(config: EvaluateCodesConfig) -> dict[str, dict[str, Any]]:
    """For each set of codes: word error rate, counts, codebook use and perplexity, samples.

    Raises:
        DataError: shards that are missing, damaged, without text, or of another tokenizer.
        ConfigError: a speech tokenizer that cannot transcribe.
    """
    from ..speech_tokenizer.tokenizer import SpeechTokenizer

    tokenizer = whisper = None
    if config.speech_tokenizer is not None:
        tokenizer = SpeechTokenizer.from_pretrained(config.speech_tokenizer, config.device)
    found = {_name(path): _evaluate_set(tokenizer, path, config) for path in config.codes}
    if config.manifest:
        from ..speech_tokenizer.whisper import Whisper
        from .recordings import evaluate_recordings

        if config.whisper is not None:
            whisper = Whisper.from_pretrained(config.whisper, config.device)
        for path in config.manifest:
            figures, codes = evaluate_recordings(
                path, tokenizer, whisper, config.limit, config.whisper_silence_s, config.language
            )
            found[manifest_name(path)] = figures
            if tokenizer is not None:
                counts = code_counts(codes, tokenizer.num_codes)
                figures |= {"codes": int(counts.sum()), **codebook_figures(counts)}
    if config.requests is not None:
        figures = _evaluate_spans(tokenizer, config.codes[0], config.requests, config)
        found[_name(config.codes[0])]["spans"] = figures
        if config.figure is not None:
            draw_spans(figures, config.figure)
    return found


def _name(codes: Path) -> str:
    """What a set is called: its folder (a point in it is no suffix), or its file without suffix."""
    return codes.name if codes.is_dir() else codes.stem


def _evaluate_spans(
    tokenizer: Any, codes: Path, requests: Path, config: EvaluateCodesConfig
) -> dict[str, Any]:
    spans = read_spans(codes, requests, config.limit)
    languages = [config.language] * len(spans)
    readings = tokenizer.decode_text([span.codes for span in spans], languages)
    return span_figures(spans, readings, config.language)


def _evaluate_set(tokenizer: Any, path: Path, config: EvaluateCodesConfig) -> dict[str, Any]:
    info, stream = read_code_shards(path, None if tokenizer is None else tokenizer.fingerprint)
    records = list(islice(stream, config.limit))
    counts = code_counts([record.codes for record in records], info.num_codes)
    figures: dict[str, Any] = {
        "records": len(records),
        "without_codes": sum(not len(record.codes) for record in records),
        "codes": int(counts.sum()),
        **codebook_figures(counts),
    }
    if tokenizer is None:
        return figures
    return {"wer": _wer(tokenizer, records, path, config), **figures}


def _wer(
    tokenizer: Any, records: list[CodeRecord], path: Path, config: EvaluateCodesConfig
) -> float:
    from ..speech_tokenizer.transcription import word_error_rate

    unnamed = [record.id for record in records if not record.text]
    if unnamed or not records:
        raise DataError(
            f"{path} has {len(unnamed)} records without text among {len(records)}; the word error "
            "rate needs to know what was said"
        )
    languages = [config.language] * len(records)
    readings = tokenizer.decode_text([record.codes for record in records], languages)
    return word_error_rate([record.text or "" for record in records], readings, config.language)


def code_counts(codes: list[np.ndarray], num_codes: int) -> np.ndarray:
    """Occurrences (K,) of each code."""
    flat = np.concatenate([np.empty(0, dtype=np.int64), *codes])
    return np.bincount(flat, minlength=num_codes)


def codebook_figures(counts: np.ndarray) -> dict[str, float]:
    """Share of codes that occur, and the perplexity of their distribution, from counts (K,)."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return {
        "codebook_usage": float((counts > 0).mean()),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }
