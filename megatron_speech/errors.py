"""Errors that speak to a person. Each says what came, what was expected and what to do."""

import math


class MegatronSpeechError(ValueError):
    """Base of every error this package raises on purpose; tools print it without a traceback."""


class ConfigError(MegatronSpeechError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(MegatronSpeechError):
    """A file or record that is missing, damaged or not what its name promises."""


class AudioError(DataError):
    """A recording that cannot be read or carries no usable sound.

    `reason` is a short code by which rejected recordings are counted.
    """

    def __init__(self, message: str, reason: str = "audio"):
        super().__init__(message)
        self.reason = reason


class VocabularyError(MegatronSpeechError):
    """A code, token or tokenizer that does not belong to the vocabulary in use."""


class CheckpointError(MegatronSpeechError):
    """A checkpoint or exported model that is incomplete or of another shape than asked for."""


class ServiceError(MegatronSpeechError):
    """A server that this program relies on does not answer, or not as it should."""


class TrainingError(MegatronSpeechError):
    """A run that must not go on: its numbers are unsound and its policy is to stop."""


class InUseError(MegatronSpeechError):
    """An output that another process is writing."""


def flag(field_name: str) -> str:
    """The command line spelling of a config field."""
    return "--" + field_name.replace("_", "-")


def require_within(config: object, least: float, *names: str, most: float = math.inf) -> None:
    """Refuse fields of a config below `least` or above `most`; None is not given, and passes.

    Raises:
        ConfigError: names the flag of the first.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not (least <= value <= most and value < math.inf):
            expected = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise ConfigError(f"{flag(name)} is {value}; expected {expected}")
