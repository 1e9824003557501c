"""Make training documents of spoken dialogues from text dialogues.

    python tools/build_dialogues.py --input dialogues.jsonl --vocab runs/lm/vocab \\
        --model runs/t2t/hf --like codes/train --output-prefix data/dialogues
    python tools/pretrain.py sft-debug --pretrained-checkpoint runs/lm --save runs/sft \\
        --data-path data/dialogues-streaming data/dialogues-text

One dialogue a line: {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}.
Turns are spoken by a text-to-token model, or are recordings (--user-codes, --assistant-codes: code
shards with ids <dialogue>/<turn>). Everything can be stopped and run again.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.chat.build import build_dialogues
    from megatron_speech.chat.config import DialoguesConfig
    from megatron_speech.io.files import json_text


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Build the datasets, print what they hold as JSON and return it."""
    result = build_dialogues(cli.parse(DialoguesConfig, argv, __doc__))
    print(json_text(result, indent=2))
    return result


if __name__ == "__main__":
    cli.run(main)
