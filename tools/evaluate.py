"""Evaluate an exported language model: cloze, spoken QA, recognition, published benchmarks by name.

    python tools/evaluate.py --model runs/demo/model/hf --speech-tokenizer runs/demo/tokenizer \\
        --cloze eval/cloze.jsonl --qa eval/qa.jsonl --speech eval/codes --output results.json

    python tools/evaluate.py --model runs/demo/model/hf --speech-tokenizer runs/demo/tokenizer \\
        --benchmark topic-storycloze --benchmark-path data/tSC --output scores.json

Directions are written t2t, s2t, s2s, t2s: what the context is, then what the ending is.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.evaluation.run import EvaluateConfig, evaluate_model
    from megatron_speech.io import files
    from megatron_speech.jobs.claims import exclusive


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the tasks, print the table, write and return the results."""
    config = cli.parse(EvaluateConfig, argv, __doc__)
    with exclusive(config.output):
        results = evaluate_model(config)
        files.write_json(config.output, results)
    print(f"results in {config.output}", flush=True)
    return results


if __name__ == "__main__":
    cli.run(main, starts_over=True)
