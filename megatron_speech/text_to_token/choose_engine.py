"""The engine a config names."""

from pathlib import Path

from .engines import Engine, EngineConfig


def make_engine(model: Path, config: EngineConfig) -> Engine:
    """The engine the config names, with the model of an exported folder.

    Raises:
        CheckpointError: the folder holds no model.
        VocabularyError: the folder holds no speech-text vocabulary.
        ConfigError: vLLM does not start in the environment named.
    """
    if config.engine == "vllm":
        from .vllm_engine import VllmEngine

        return VllmEngine(model, config)
    from .transformers_engine import TransformersEngine

    return TransformersEngine(model, config)
