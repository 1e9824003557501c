"""The model card of an export: what the model is, what it was trained on and how much."""

from pathlib import Path
from typing import Any

import yaml

from ..files import read_json
from ..vocab import SpeechTextVocab, code_token
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


def model_card(
    name: str,
    run: Path,
    iteration: int,
    model: ModelConfig,
    vocab: SpeechTextVocab,
    parameters: int,
) -> str:
    """README.md of an export of the run's checkpoint after `iteration` steps.

    Says nothing of what the run's folder does not tell.
    """
    config = _read_config(run / RUN_CONFIG)
    lines = [_HEADER + f"# {name}", "", *_model_lines(model, vocab, parameters)]
    if "base" in config and iteration == 0:
        base = config["base"]
        lines += ["", "## Origin", "", f"Converted from `{base['hf']}`; not trained further."]
        if vocab.added:
            how = f"{base['new_rows']}, scale {base['new_rows_scale']}"
            lines += [
                f"Rows of {len(vocab.added):,} new tokens are drawn ({how}, seed "
                f"{base['new_rows_seed']}); text rows are the base's."
            ]
    elif {"batch", "data"} <= config.keys():
        lines += ["", "## Training", "", *_training_lines(config, run, iteration)]
        lines += ["", "## Data", "", *_data_lines(config["data"].get("data_path") or [])]
    return "\n".join([*lines, "", *_use_lines(vocab)]) + "\n"


def _read_config(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return content if isinstance(content, dict) else {}


def _model_lines(model: ModelConfig, vocab: SpeechTextVocab, parameters: int) -> list[str]:
    codes = f" and {vocab.num_codes:,} speech codes" if vocab.num_codes else ""
    lines = [
        f"A {model.family} language model of {parameters:,} parameters ({model.num_layers} layers, "
        f"width {model.hidden_size:,}) over {vocab.size - vocab.num_codes:,} text and special "
        f"tokens{codes}, made with megatron_speech.",
    ]
    if vocab.speech_tokenizer is not None:
        lines += ["", f"Its codes are those of speech tokenizer `{vocab.speech_tokenizer}`."]
    return lines


def _training_lines(config: dict[str, Any], run: Path, iteration: int) -> list[str]:
    batch, data = config["batch"], config["data"]
    windows = _consumed_samples(run / "metrics.jsonl", iteration)
    if windows is None:
        windows = iteration * batch["global_batch_size"]
    base = (config.get("base") or {}).get("pretrained_checkpoint")
    facts = {
        "recipe": config.get("recipe"),
        "started from": Path(base).name if base else "random weights",
        "steps": f"{iteration:,}",
        "tokens seen": f"{windows * data['seq_length']:,}",
        "sequence length": f"{data['seq_length']:,}",
        "sequences per step": f"{batch['global_batch_size']:,}",
        "learning rate": f"{batch['lr']:g} to {batch['min_lr']:g}, {batch['lr_decay_style']}",
        "precision": "bfloat16" if batch.get("bf16") else "float32",
        "seed": batch["seed"],
    }
    return [f"- {what}: {value}" for what, value in facts.items() if value is not None]


def _consumed_samples(metrics: Path, iteration: int) -> int | None:
    """Windows read up to a step, by the run's log, None if it does not tell."""
    import json

    if not metrics.exists():
        return None
    with open(metrics, encoding="utf-8") as stream:
        for line in stream:
            if '"consumed samples"' in line and f'"iteration": {iteration},' in line:
                return int(json.loads(line)["consumed samples"])
    return None


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
        facts = read_json(path) if path.is_file() else {}
        counts = (facts.get(key) for key in ("documents", "text_tokens", "speech_tokens"))
        shown = " | ".join(f"{n:,}" if isinstance(n, int) else "" for n in counts)
        lines.append(f"| {share} | {Path(prefix).name} | {facts.get('kind') or ''} | {shown} |")
    return lines


def _use_lines(vocab: SpeechTextVocab) -> list[str]:
    lines = [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("this folder")',
        'model = AutoModelForCausalLM.from_pretrained("this folder")',
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
