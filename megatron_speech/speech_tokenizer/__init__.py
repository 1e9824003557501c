"""Whisper-VQ speech tokenizer: audio to codes of 12.5 Hz, and its training."""

from typing import Any

__all__ = ["SpeechTokenizer", "SpeechTokenizerConfig"]


def __getattr__(name: str) -> Any:
    """Import on first use: transformers takes seconds."""
    if name == "SpeechTokenizer":
        from .tokenizer import SpeechTokenizer

        return SpeechTokenizer
    if name == "SpeechTokenizerConfig":
        from .config import SpeechTokenizerConfig

        return SpeechTokenizerConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
