"""Speech decoder: codes back to a voice, whole or block by block, and its training."""

from typing import Any

__all__ = ["SpeechDecoder", "SpeechDecoderConfig"]


def __getattr__(name: str) -> Any:
    """Import on first use: transformers takes seconds."""
    if name == "SpeechDecoder":
        from .decoder import SpeechDecoder

        return SpeechDecoder
    if name == "SpeechDecoderConfig":
        from .config import SpeechDecoderConfig

        return SpeechDecoderConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
