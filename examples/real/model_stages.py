"""Stages of the language models: base, text-to-token, data, two arms, evaluation."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.quickstart.runner import Done, Figures, require_finished, to_flags
from examples.quickstart.stages import engine_flags, generate_codes, pretrain_and_export
from examples.real.run import TRAINED_VOICES, RealDemo, material
from examples.real.sizes import BLENDS
from megatron_speech.io.files import read_json, write_json

RECIPE = "lm-debug"
"""Of the arms; shape and weights are the base's, the rest is set in sizes.py."""
BASE = "base"
_WINDOW = 512
_CURVE_DIRECTIONS = ("s2t", "t2s")


def base(demo: RealDemo, done: Done) -> Figures:
    """The released base model with rows for speech codes, as a checkpoint and as a folder."""
    from tools import convert_checkpoint

    imported = convert_checkpoint.main([
        "hf-to-megatron",
        *to_flags(
            hf=material(done, "base"),
            save=demo.path(BASE, "run"),
            num_codes=done["codes"]["num_codes"],
            check_text=demo.path("text", "check.txt"),
        ),
    ])  # fmt: skip
    flags = to_flags(load=demo.path(BASE, "run"), hf=demo.path(BASE, "hf"))
    convert_checkpoint.main(["megatron-to-hf", *flags])
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
    """A small model from letters to codes, with a vocabulary of its own; read back."""
    from tools import build_dataset, build_vocab, evaluate_codes

    size, vocab = demo.size, demo.path("text_to_token", "vocab")
    build_vocab.main(
        to_flags(
            input=demo.path("text", "train.parquet"),
            train_bpe=size.bpe_size,
            speech_tokenizer=demo.speech_tokenizer,
            output=vocab,
        )
    )
    train, data = demo.path("codes", "train"), demo.path("text_to_token", "data")
    build_dataset.main(["text-to-token", *to_flags(codes=train, vocab=vocab, output_prefix=data)])
    flags = to_flags(data_path=data, train_iters=size.text_to_token_steps)
    flags += size.text_to_token_flags
    export = pretrain_and_export(demo, "text_to_token", "t2t-debug", vocab, flags)
    made = generate_codes(demo, "made", demo.path("text", "test.parquet"), vocab)
    figures = evaluate_codes.main(
        to_flags(
            speech_tokenizer=demo.speech_tokenizer, codes=[made, demo.path("codes", TRAINED_VOICES)]
        )
    )
    return {
        "made": figures["made"],
        "real": figures[TRAINED_VOICES],
        "parameters": export.parameters,
    }


def datasets(demo: RealDemo, done: Done) -> Figures:
    """Text, speech and pairs as indexed datasets, in the base's vocabulary."""
    from tools import build_dataset, preprocess_data

    vocab, figures = base_vocab(demo), {}
    for name in ("train", "held-out"):
        flags = to_flags(
            input=demo.path("text", f"{name}.parquet"),
            tokenizer_model=vocab,
            output_prefix=demo.path("data", name),
        )
        (text,) = preprocess_data.main([*flags, "--append-eod"])
        figures[f"text_{name}"] = text.tokens
    flags = to_flags(
        codes=demo.path("codes", "passages"), vocab=vocab, output_prefix=demo.path("data", "speech")
    )
    figures["speech"] = build_dataset.main(["speech", *flags, "--join-segments"]).speech_tokens
    people = sorted(path for path in demo.path("codes", "people").glob("*") if path.is_dir())
    flags = to_flags(
        codes=[demo.path("codes", "train"), *people],
        vocab=vocab,
        output_prefix=demo.path("data", "pairs"),
    )
    for name, facts in build_dataset.main(["pairs", *flags]).items():
        figures[name] = facts.speech_tokens + facts.text_tokens
    return figures


def base_vocab(demo: RealDemo) -> Path:
    """The base model's vocabulary with speech tokens behind it."""
    return demo.path(BASE, "run", "vocab")


def interleaving(demo: RealDemo, done: Done) -> Figures:
    """Ordinary documents whose spans were replaced by generated codes."""
    from tools import build_dataset, evaluate_codes

    prefix = demo.path("interleaved", "data")
    flags = to_flags(
        input=demo.path("text", "interleaved.parquet"),
        vocab=base_vocab(demo),
        output_prefix=prefix,
    )
    facts = build_dataset.main(["interleaved", *flags, *engine_flags(demo)])
    read = evaluate_codes.main(
        to_flags(
            speech_tokenizer=demo.speech_tokenizer,
            codes=Path(f"{prefix}.work") / "codes",
            limit=min(400, 4 * demo.size.test_recordings),
        )
    )
    keys = ("documents", "speech_word_fraction", "text_tokens", "speech_tokens", "spans")
    return {**{key: facts[key] for key in keys}, "rejected": facts["rejected"],
            "wer": read["codes"]["wer"], "wer_n": read["codes"]["records"]}  # fmt: skip


def language_model(demo: RealDemo, done: Done, *, arm: str) -> Figures:
    """Trains one arm from the base, and exports it at every point of its curve."""
    from megatron_speech.training.checkpoint import latest_iteration
    from megatron_speech.training.reporting import read_metrics
    from tools import convert_checkpoint, pretrain

    run, size = demo.path(arm, "run"), demo.size
    for step in points(demo):
        if (latest_iteration(run) or 0) < step:
            result = pretrain.main([RECIPE, *_training_flags(demo, arm)])
            # at a point training saves and stops; elsewhere only a signal stops it
            require_finished(result.iteration >= step)
        if not checkpoint(demo, arm, step).exists():
            flags = to_flags(load=run, hf=checkpoint(demo, arm, step))
            convert_checkpoint.main(["megatron-to-hf", *flags])
    losses = read_metrics(run, "valid")[-1]
    windows = int(read_metrics(run)[-1]["consumed samples"])
    return {
        "text_loss": losses.get("text loss"),
        "tokens": windows * size.seq_length,
        "points": {str(step): step * size.windows_per_step * size.seq_length
                   for step in points(demo)},
    }  # fmt: skip


def _training_flags(demo: RealDemo, arm: str) -> list[str]:
    size = demo.size
    prefixes = {
        "text": demo.path("data", "train_text_document"),
        "interleaved": demo.path("interleaved", "data"),
        "speech": demo.path("data", "speech"),
        "asr": demo.path("data", "pairs-asr"),
        "tts": demo.path("data", "pairs-tts"),
    }
    flags = to_flags(
        pretrained_checkpoint=demo.path(BASE, "run"),
        save=demo.path(arm, "run"),
        data_path=[part for name, share in BLENDS[arm].items() for part in (share, prefixes[name])],
        valid_data_path=demo.path("data", "held-out_text_document"),
        train_iters=points(demo)[-1],
        exit_interval=size.steps_per_point,
        save_interval=size.steps_per_point,
        keep_last=1,
        eval_iters=2,
        seq_length=size.seq_length,
        micro_batch_size=min(2, size.windows_per_step),
        global_batch_size=size.windows_per_step,
    )
    return [*flags, *size.language_model_flags, *(["--bf16"] if demo.bf16 else [])]


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
    from tools import evaluate

    size, precision = demo.size, demo.machine["precision"]
    flags = to_flags(
        model=model,
        cloze=demo.path("cloze", "cloze.jsonl"),
        speech=demo.path("codes", "items"),
        output=output.with_suffix(".cloze.json"),
        precision=precision,
        limit=size.evaluation_limit if last else size.curve_limit,
    )
    flags += [] if last else to_flags(directions=_CURVE_DIRECTIONS)
    results = evaluate.main(flags)
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
