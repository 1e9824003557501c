"""Stages of the language models: base, text-to-token, data, two arms, evaluation."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.quickstart import stages
from examples.quickstart.runner import Done, Figures, tool
from examples.real.run import NARRATOR, SHORT, RealDemo, material
from megatron_speech.io.files import read_json, write_json

RECIPE = "lm-debug"
"""Of the arms; shape and weights are the base's, the rest is set in sizes.py."""
BASE = "base"
_WINDOW = 512
_CURVE_DIRECTIONS = ("s2t", "t2s")


def base(demo: RealDemo, done: Done) -> Figures:
    """The released base model with rows for speech codes, as a checkpoint and as a folder."""
    imported = tool(
        "convert_checkpoint",
        "hf-to-megatron",
        hf=material(done, "base"),
        save=demo.path(BASE, "run"),
        speech_tokenizer=demo.speech_tokenizer,
        check_text=demo.path("text", "check.txt"),
    )
    folders = {"load": demo.path(BASE, "run"), "hf": demo.path(BASE, "hf")}
    tool("convert_checkpoint", "megatron-to-hf", **folders)
    loss = imported.text_loss
    return {
        "parameters": imported.parameters,
        "added_rows": imported.added_rows,
        "padded_size": imported.vocab.padded_size,
        "text_loss": None if loss is None else loss.before,
        "text_loss_with_codes": None if loss is None else loss.after,
        "new_rows_scale": None if loss is None else loss.scale,
    }


def text_to_token(demo: RealDemo, done: Done) -> Figures:
    """A small model from letters to the narrator's codes, with its own vocabulary; read back."""
    vocab = demo.path("text_to_token", "vocab")
    tool(
        "build_vocab",
        input=demo.path("text", "train.parquet"),
        train_bpe=demo.size.bpe_size,
        speech_tokenizer=demo.speech_tokenizer,
        output=vocab,
    )
    from megatron_speech.training.reporting import read_metrics

    flags = demo.size.text_to_token_flags
    real = demo.path("codes", NARRATOR)
    export = stages.train_text_to_token(
        demo,
        "t2t-debug",
        vocab,
        *flags,
        codes=narrated(demo),
        held_out=real,
        speech_tokenizer=demo.speech_tokenizer,
    )
    made = stages.generate_codes(demo, "made", demo.path("text", "test.parquet"), vocab)
    figures = tool("evaluate_codes", speech_tokenizer=demo.speech_tokenizer, codes=[made, real])
    held_out = read_metrics(demo.path("text_to_token", "run"), "valid")
    return {
        "made": figures["made"],
        "real": figures[NARRATOR],
        "held_out_loss": held_out[-1]["speech loss"],
        "parameters": export.parameters,
    }


def datasets(demo: RealDemo, done: Done) -> Figures:
    """Text, speech and pairs as indexed datasets, in the base's vocabulary."""
    people = sorted(path for path in demo.path("codes", "people").glob("*") if path.is_dir())
    neural = [demo.path("codes", path.parent.name) for path in demo.neural_training()]
    return stages.build_datasets(
        demo,
        vocab=base_vocab(demo),
        texts={name: demo.path("text", f"{name}.parquet") for name in ("train", "held-out")},
        speech={"speech": demo.path("codes", "passages")},
        pairs=[*narrated(demo), *neural, *people],
    )


def narrated(demo: RealDemo) -> list[Path]:
    """Codes of all transcribed speech of the narrator to train on."""
    return [demo.path("codes", name) for name in ("train", SHORT)]


def base_vocab(demo: RealDemo) -> Path:
    """The base model's vocabulary with speech tokens behind it."""
    return demo.path(BASE, "run", "vocab")


def interleaving(demo: RealDemo, done: Done) -> Figures:
    """Ordinary documents whose spans were replaced by generated codes."""
    text, read = demo.path("text", "interleaved.parquet"), min(400, 4 * demo.size.test_recordings)
    return stages.interleave(demo, text, base_vocab(demo), (), read)


def language_model(demo: RealDemo, done: Done, *, arm: str) -> Figures:
    """Trains one arm from the base, and exports it at every point of its curve."""
    from megatron_speech.training.checkpoint import latest_iteration
    from megatron_speech.training.reporting import read_metrics

    run, size = demo.path(arm, "run"), demo.size
    for step in points(demo):
        if (latest_iteration(run) or 0) < step:
            result = tool("pretrain", RECIPE, *size.language_model_flags, **_settings(demo, arm))
            # at a point training saves and stops; elsewhere only a signal stops it
            if result.iteration < step:
                raise KeyboardInterrupt
        if not checkpoint(demo, arm, step).exists():
            folder = checkpoint(demo, arm, step)
            tool("convert_checkpoint", "megatron-to-hf", load=run, hf=folder)
    losses = read_metrics(run, "valid")[-1]
    windows = int(read_metrics(run)[-1]["consumed samples"])
    return {
        "text_loss": losses.get("text loss"),
        "tokens": windows * size.seq_length,
        "points": {str(step): step * size.windows_per_step * size.seq_length
                   for step in points(demo)},
    }  # fmt: skip


def _settings(demo: RealDemo, arm: str) -> dict[str, Any]:
    """Of an arm's training, beside the flags of the size."""
    size = demo.size
    return {
        "pretrained_checkpoint": demo.path(BASE, "run"),
        "save": demo.path(arm, "run"),
        "data_path": stages.blend(demo, arm),
        "valid_data_path": demo.path("data", "held-out_text_document"),
        "train_iters": points(demo)[-1],
        "exit_interval": size.steps_per_point,
        "save_interval": max(1, size.steps_per_point // 4),
        "keep_last": 1,
        "eval_iters": 8,
        "seq_length": size.seq_length,
        "micro_batch_size": min(2, size.windows_per_step),
        "global_batch_size": size.windows_per_step,
        "bf16": demo.bf16,
    }


def points(demo: RealDemo) -> list[int]:
    """Steps at which an arm is evaluated."""
    return [n * demo.size.steps_per_point for n in range(1, demo.size.points + 1)]


def checkpoint(demo: RealDemo, arm: str, step: int) -> Path:
    """Folder of an arm as exported at a step; the base has one."""
    return demo.path(BASE, "hf") if arm == BASE else demo.path(arm, f"hf-{step}")


def evaluation(demo: RealDemo, done: Done, *, arm: str) -> Figures:
    """Cloze in four directions and the loss on held-out text; earlier points on fewer items."""
    steps = [0] if arm == BASE else points(demo)
    figures: dict[str, Any] = {}
    for step in steps:
        output = demo.path(f"evaluation-{arm}", f"{step}.json")
        if not output.exists():  # else it was finished before a stop
            _evaluate(demo, checkpoint(demo, arm, step), step == steps[-1], output)
        figures[str(step)] = read_json(output)
    return figures


def _evaluate(demo: RealDemo, model: Path, last: bool, output: Path) -> None:
    size, precision = demo.size, demo.machine["precision"]
    results = tool(
        "evaluate",
        model=model,
        cloze=demo.path("cloze", "cloze.jsonl"),
        speech=demo.path("codes", "items"),
        output=output.with_suffix(".cloze.json"),
        precision=precision,
        limit=size.evaluation_limit if last else size.curve_limit,
        directions=None if last else _CURVE_DIRECTIONS,
    )
    loss, tokens = held_out_loss(model, demo.path("text", "held-out.parquet"), size.loss_windows,
                                 precision)  # fmt: skip
    figures = {"cloze": results["cloze"], "text_loss": loss, "text_loss_tokens": tokens}
    write_json(output, figures)


def held_out_loss(folder: Path, corpus: Path, windows: int, precision: Any) -> tuple[float, int]:
    """Mean loss in nats over the first windows of documents, and over how many tokens."""
    import numpy as np

    from megatron_speech.evaluation.scoring import LanguageModel, Query

    model = LanguageModel.from_pretrained(folder, precision)
    texts = pq.read_table(corpus)["text"].to_pylist()[:windows]
    ids = [np.array(model.vocab.text.encode(text))[:_WINDOW] for text in texts]
    start = np.array([model.vocab.eod_id])
    scores = model.score([Query(context=start, endings=(tokens,)) for tokens in ids], "text loss")
    tokens = sum(map(len, ids))
    return -float(sum(score[0] for score in scores)) / tokens, tokens
