"""The chain from unit sequences of another project to cloze figures, by its public tools."""

import json
from pathlib import Path
from typing import Any

from megatron_speech.data.code_shards import read_code_shards
from tools import build_dataset, build_vocab, convert_checkpoint, evaluate, import_codes, pretrain

TINY = (
    "--num-layers 1 --hidden-size 32 --ffn-hidden-size 48 --num-attention-heads 4 "
    "--num-query-groups 2 --seq-length 128 --global-batch-size 2 --micro-batch-size 2 "
    "--eval-iters 1 --train-iters 4 --lr-decay-iters 4 --lr-warmup-iters 1 --log-interval 2 "
    "--no-tensorboard"
).split()


def flags(**given: Any) -> list[str]:
    """`a_b=c` as `--a-b c`; lists become several values."""
    found: list[str] = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return found


def train(recipe: str, vocab: Path, data: Path | list[Any], save: Path) -> Path:
    """A few steps; returns the exported folder."""
    result = pretrain.main([recipe, *TINY, *flags(vocab=vocab, data_path=data, save=save)])
    assert result.finished
    assert result.metrics["speech loss"] > 0
    convert_checkpoint.main(["megatron-to-hf", *flags(load=save, hf=save / "hf")])
    return save / "hf"


def run_chain(
    folder: Path,
    source: list[str],
    corpus: Path,
    stories: list[tuple[list[str], str, str]],
    num_codes: int,
    rate_hz: float,
) -> dict[str, Any]:
    """Import, vocabulary, text-to-token, interleaving, training, cloze; returns the figures.

    `source` are flags of import_codes beyond name, rate and size; `stories` are contexts with their
    right and wrong endings, all spoken among the units.
    """
    units = flags(name="units of a test", frame_rate_hz=rate_hz, num_codes=num_codes)
    import_codes.main([*source, *units, *flags(output=folder / "codes")])
    vocab, codes = folder / "vocab", folder / "codes"
    sizes = flags(train_bpe=300, num_codes=num_codes)
    build_vocab.main([*flags(input=corpus, output=vocab), *sizes])
    common = flags(codes=codes, vocab=vocab)
    build_dataset.main(["text-to-token", *common, *flags(output_prefix=folder / "t2t")])
    speaker = train("t2t-smoke", vocab, folder / "t2t", folder / "run-t2t")
    bounds = flags(least_seconds_per_character=0, most_seconds_per_character=0.02, extra_seconds=0)
    build_dataset.main(
        ["interleaved", *flags(input=corpus, vocab=vocab, model=speaker, like=codes, tasks=1),
         *flags(output_prefix=folder / "mixed", batch_size=64), *bounds]
    )  # fmt: skip
    synthetic, _ = read_code_shards(folder / "mixed.work" / "codes")
    given, _ = read_code_shards(codes)
    assert synthetic == given  # rate, size and fingerprint go through
    build_dataset.main(["speech", *common, *flags(output_prefix=folder / "speech")])
    blend = [folder / "mixed", folder / "speech"]
    model = train("lm-smoke", vocab, ["0.5", blend[0], "0.5", blend[1]], folder / "run-lm")
    items = [
        {"id": str(n), "task": "story", "context": context, "right": right, "wrong": wrong}
        for n, (context, right, wrong) in enumerate(stories)
    ]
    (folder / "cloze.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return evaluate.main(
        flags(model=model, cloze=folder / "cloze.jsonl", speech=codes, output=folder / "out.json")
    )
