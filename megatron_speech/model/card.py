"""The model card of an export: what the model is, what it was trained on and how much."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.files import read_json_object, read_yaml_object
from ..text.vocab import SpeechTextVocab, code_token
from .config import ModelConfig

RUN_CONFIG = "run_config.yaml"
"""What a run was told, kept in its folder."""

_HEADER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- speech
- megatron-core
---
"""


@dataclass(frozen=True)
class Facts:
    """What the checkpoint itself tells."""

    name: str
    iteration: int
    windows: int | None
    """Sequences seen in training, None if it does not tell."""
    parameters: int
    adapters: bool = False
    """Whether the folder holds adapters alone, in peft's layout."""


def model_card(facts: Facts, run_config: Path, model: ModelConfig, vocab: SpeechTextVocab) -> str:
    """README.md of an export; says nothing of what checkpoint and run config do not tell."""
    config = read_yaml_object(run_config) if run_config.exists() else {}
    header = _HEADER.replace("transformers", "peft") if facts.adapters else _HEADER
    lines = [header + f"# {facts.name}", "", *_model_lines(model, vocab, facts)]
    if "hf" in (config.get("base") or {}):
        lines += ["", "## Origin", "", *_origin_lines(config["base"])]
    elif {"batch", "data"} <= config.keys():
        lines += ["", "## Training", "", *_training_lines(config, facts)]
        lines += ["", "## Data", "", *_data_lines(config["data"].get("data_path") or [])]
    return "\n".join([*lines, "", *_use_lines(vocab, facts.adapters)]) + "\n"


def _origin_lines(base: dict[str, Any]) -> list[str]:
    lines = [f"Converted from `{base['hf']}`; not trained further."]
    loss = base.get("text_loss")
    if base.get("added_rows"):
        how = base["new_rows"]
        if loss:
            how += f", scale {loss['scale']:g}, without {loss['directions']} directions, "
            how += f"lowered by {loss['shift']:g} nats"
        if "codebook_of" in base:
            how += f", codes near each other as in speech tokenizer {base['codebook_of']}"
        lines += [
            f"Rows of {base['added_rows']:,} new tokens are drawn ({how}, seed "
            f"{base['new_rows_seed']}); text rows are the base's."
        ]
    if loss:
        lines += [
            f"Loss of a text of {loss['tokens']:,} tokens: {loss['before']:.4f} before and "
            f"{loss['after']:.4f} after they were added."
        ]
    return lines


def _model_lines(model: ModelConfig, vocab: SpeechTextVocab, facts: Facts) -> list[str]:
    codes = f" and {vocab.num_codes:,} speech codes" if vocab.num_codes else ""
    what = f"Adapters of {facts.parameters:,} parameters for a {model.family} language model"
    if not facts.adapters:
        what = f"A {model.family} language model of {facts.parameters:,} parameters"
    lines = [
        f"{what} ({model.num_layers} layers, "
        f"width {model.hidden_size:,}) over {vocab.size - vocab.num_codes:,} text and special "
        f"tokens{codes}, made with megatron_speech.",
    ]
    if vocab.speech_tokenizer is not None:
        lines += ["", f"Its codes are those of speech tokenizer `{vocab.speech_tokenizer}`."]
    return lines


def _training_lines(config: dict[str, Any], facts: Facts) -> list[str]:
    batch, length = config["batch"], config["data"]["seq_length"]
    base = (config.get("base") or {}).get("pretrained_checkpoint")
    precision = config.get("precision") or {}
    told = {
        "recipe": config.get("recipe"),
        "started from": Path(base).name if base else "random weights",
        "steps": f"{facts.iteration:,}",
        "tokens seen": None if facts.windows is None else f"{facts.windows * length:,}",
        "sequence length": f"{length:,}",
        "sequences per step": f"{batch['global_batch_size']:,}",
        "learning rate": f"{batch['lr']:g} to {batch['min_lr']:g}, {batch['lr_decay_style']}",
        "precision": "bfloat16" if precision.get("bf16") else "float32",
        "seed": batch["seed"],
        "adapters": _adapters(config.get("lora") or {}),
    }
    return [f"- {what}: {value}" for what, value in told.items() if value is not None]


def _adapters(lora: dict[str, Any]) -> str | None:
    if lora.get("lora_rank") is None:
        return None
    targets = ", ".join(lora["lora_targets"])
    return f"LoRA of rank {lora['lora_rank']}, alpha {lora['lora_alpha']:g}, on {targets}"


def _data_lines(data_path: list[str]) -> list[str]:
    """The blend as a table, with what each dataset's `<prefix>.json` says of it."""
    try:
        weights, prefixes = [float(w) for w in data_path[::2]], data_path[1::2]
    except ValueError:
        weights, prefixes = [], list(data_path)
    lines = ["| share | dataset | kind | documents | text tokens | speech tokens |"]
    lines += ["|---|---|---|---|---|---|"]
    for index, prefix in enumerate(prefixes):
        share = f"{weights[index] / sum(weights):.1%}" if weights else "by size"
        path = Path(f"{prefix}.json")
        facts = read_json_object(path) if path.is_file() else {}
        counts = (facts.get(key) for key in ("documents", "text_tokens", "speech_tokens"))
        shown = " | ".join(f"{n:,}" if isinstance(n, int) else "" for n in counts)
        lines.append(f"| {share} | {Path(prefix).name} | {facts.get('kind') or ''} | {shown} |")
    return lines


def _use_lines(vocab: SpeechTextVocab, adapters: bool) -> list[str]:
    folder, more = "this folder", []
    if adapters:
        folder, more = (
            "folder of the base",
            ['model = PeftModel.from_pretrained(model, "this folder")'],
        )
    lines = [
        "## Use",
        "",
        "```python",
        *["from peft import PeftModel"] * adapters,
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("this folder")',
        f'model = AutoModelForCausalLM.from_pretrained("{folder}")',
        *more,
        "```",
    ]
    if vocab.num_codes:
        lines += [
            "",
            f"Speech is the tokens `{code_token(0)}` .. `{code_token(vocab.num_codes - 1)}`, ids "
            f"{vocab.code_offset} .. {vocab.code_offset + vocab.num_codes - 1}, between "
            "`<|begin_of_audio|>` and `<|end_of_audio|>`.",
        ]
    return lines
