"""config.json of a Hugging Face folder to and from our model's settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..io.files import read_json_object
from ..io.model_folders import is_chatglm, refuse_code
from .chatglm import MODEL_TYPE, glm_settings, open_chatglm
from .config import ModelConfig
from .families import FAMILIES, Family, get_family
from .safetensors_folder import SafetensorsFolder

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig

_FIELDS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "max_position_embeddings": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
}
_LLAMA3_SCALING = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What core fixes of Llama 3.1's stretched rotary frequencies; only the factor is a setting."""


def read_config(folder: Path) -> "PretrainedConfig":
    """config.json of a folder, as its family's class; no code of the folder is ever run.

    Raises:
        CheckpointError: missing, of a model type that is no family here, with a setting of the
            wrong kind, or with code of its own.
        DataError: config.json is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is no Hugging Face model folder: config.json is missing")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        content = read_json_object(path)
        if is_chatglm(folder):
            content = glm_settings(content, path)
        else:
            refuse_code(folder)
        model_type = content.get("model_type")
        if model_type in FAMILIES:
            return CONFIG_MAPPING[model_type].from_dict(content)
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{path} is damaged or has a setting of the wrong kind: {' '.join(str(error).split())}"
        ) from None
    known = ", ".join([*FAMILIES, MODEL_TYPE])
    raise CheckpointError(
        f"{path} is of model type {model_type!r}; known here: {known}. Convert the "
        "folder to one of them with transformers, or add its family (CONTRIBUTING.md)"
    )


def open_weights(folder: Path, model: ModelConfig, rows: int) -> SafetensorsFolder:
    """The tensors of a folder under the names of the model's family; `rows` of its embedding.

    Raises:
        CheckpointError: as `SafetensorsFolder`.
    """
    if is_chatglm(folder):
        return open_chatglm(folder, model, rows)
    return SafetensorsFolder(folder)


def read_generation_ids(folder: Path, config: "PretrainedConfig") -> "GenerationConfig":
    """The ids by which a base begins, ends and pads; not how it was meant to be sampled from.

    Raises:
        DataError: generation_config.json is damaged.
    """
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    base = read_json_object(path) if path.exists() else config.to_dict()
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: base.get(name) for name in ids})


def model_from_config(config: "PretrainedConfig", source: Path) -> ModelConfig:
    """Our settings of the model that a config describes; `source` is named in errors.

    Raises:
        CheckpointError: the config asks for what is not built here.
    """
    family = FAMILIES[config.model_type]
    rope = dict(config.rope_parameters or {})
    _require_known(config, family, rope, source)
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    percent = rope.get("partial_rotary_factor", 1.0) if family.partial_rotary else 1.0
    factor = float(rope["factor"]) if rope.get("rope_type") == "llama3" else None
    return ModelConfig(
        **{ours: getattr(config, theirs) for ours, theirs in _FIELDS.items()},
        **family.traits,
        kv_channels=head_size,
        rotary_base=int(rope["rope_theta"]),
        rotary_percent=percent,
        rope_scaling_factor=factor,
        untie_embeddings_and_output_weights=not config.tie_word_embeddings,
        family=config.model_type,
    )


def _require_known(
    config: "PretrainedConfig", family: Family, rope: dict[str, Any], source: Path
) -> None:
    """Refuse settings that would train another model than the folder's."""
    wanted = {"hidden_act": "silu", **family.settings}
    found = {name: getattr(config, name, value) for name, value in wanted.items()}
    if rope.get("rope_type") == "llama3":
        wanted |= _LLAMA3_SCALING
        found |= {name: rope.get(name) for name in _LLAMA3_SCALING}
    elif rope.get("rope_type", "default") != "default":
        wanted["rope_type"], found["rope_type"] = "default or llama3", rope["rope_type"]
    if rope["rope_theta"] != int(rope["rope_theta"]):
        wanted["rope_theta"], found["rope_theta"] = "a whole number", rope["rope_theta"]
    for name, value in wanted.items():
        if found[name] != value:
            raise CheckpointError(
                f"{source / 'config.json'} sets {name} to {found[name]!r}, but {config.model_type} "
                f"models here have {value!r}; this base cannot be trained faithfully"
            )


def config_from_model(model: ModelConfig, vocab_size: int, **settings: Any) -> "PretrainedConfig":
    """The config that makes transformers build the same model, with `vocab_size` rows.

    `settings` are others of transformers', as the ids by which generation ends.

    Raises:
        ConfigError: the family cannot express the model.
    """
    from transformers import AutoConfig

    family = get_family(model)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(model.rotary_base)}
    if family.partial_rotary:
        rope["partial_rotary_factor"] = model.rotary_percent
    if model.rope_scaling_factor is not None:
        rope |= {"rope_type": "llama3", "factor": model.rope_scaling_factor, **_LLAMA3_SCALING}
    return AutoConfig.for_model(
        model.family,
        **{theirs: getattr(model, ours) for ours, theirs in _FIELDS.items()},
        **family.settings,
        architectures=[family.architecture],
        vocab_size=vocab_size,
        head_dim=model.head_size,
        hidden_act="silu",
        tie_word_embeddings=not model.untie_embeddings_and_output_weights,
        rope_parameters=rope,
        **settings,
    )
