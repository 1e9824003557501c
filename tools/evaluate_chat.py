"""Evaluate a chat model on spoken questions: right answers, speech against text, latency.

    python tools/evaluate_chat.py --model runs/sft/hf --pretrained runs/lm/hf \\
        --speech-tokenizer runs/tokenizer --items runs/chat/eval.jsonl \\
        --questions runs/codes/chat --output runs/chat/results.json

With --decoder the sound is judged too, with --judge-url a language model grades the answers.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.evaluation.chat import EvaluateChatConfig, evaluate_chat
    from megatron_speech.evaluation.chat_table import print_tables
    from megatron_speech.io import files
    from megatron_speech.jobs.claims import exclusive


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Ask, print the tables, write and return the results."""
    config = cli.parse(EvaluateChatConfig, argv, __doc__)
    with exclusive(config.output):
        results = evaluate_chat(config)
        files.write_json(config.output, results)
    print_tables(results)
    print(f"results in {config.output}", flush=True)
    return results


if __name__ == "__main__":
    cli.run(main, starts_over=True)
