"""Make the codes of a synthetic span again and compare them with those in the dataset.

    python tools/regenerate_span.py data/interleaved --vocab runs/vocab --document 3 --token 17 \\
        --plan data/interleaved.work/plan --model runs/t2t/hf --like codes/train

Give the model and the engine settings that generated it; the recorded request shard and batch are
replayed. Ends with exit code 2 if a single code differs.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    import tyro

    from megatron_speech import cli
    from megatron_speech.datasets.regenerate import Regenerated, regenerate
    from megatron_speech.errors import DataError
    from megatron_speech.interleaving.best_of import BestOfConfig
    from megatron_speech.interleaving.generate import GenerateConfig
    from megatron_speech.text.vocab import SpeechTextVocab
    from megatron_speech.text_to_token.engines import EngineConfig
    from megatron_speech.text_to_token.gates import GateConfig


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A span, and what made it."""

    prefix: tyro.conf.Positional[Path]
    """The interleaved dataset: its path without .bin or .idx."""
    vocab: Path
    """Vocabulary folder the dataset was made with."""
    document: int
    """Number of the document."""
    token: int
    """A token of the span, counted from the document's first."""
    plan: Path
    """Folder written by the plan job."""
    model: Path
    """Exported text-to-token model that generated it."""
    like: Path
    """The code shard (or folder of them) given when generating."""
    engine: EngineConfig
    gates: GateConfig
    best: BestOfConfig


def main(argv: Sequence[str] | None = None) -> Regenerated:
    """Regenerate the span and return it with the codes the dataset holds.

    Raises:
        DataError: the codes differ.
    """
    config = cli.parse(Arguments, argv, __doc__ or "")
    names = ("plan", "model", "like", "engine", "gates", "best")
    given = {name: getattr(config, name) for name in names}
    settings = GenerateConfig(output=config.plan, **given)  # nothing is written
    vocab = SpeechTextVocab.from_pretrained(config.vocab)
    made = regenerate(config.prefix, vocab, config.document, config.token, settings)
    at = made.origin
    print(f"{at.source_id}, shard {at.request_shard}, batch {at.batch}: {made.text!r}")
    print(" ".join(map(str, made.codes.tolist())))
    if not made.equal:
        raise DataError(
            f"{len(made.codes)} codes made now differ from the {len(made.recorded)} recorded, "
            f"{made.recorded.tolist()}; another device or library version rounds differently"
        )
    print("equal to the codes in the dataset")
    return made


if __name__ == "__main__":
    cli.run(main, starts_over=True)
