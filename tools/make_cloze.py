"""Make cloze items of four directions from held-out documents in any language.

    python tools/make_cloze.py --input held-out.jsonl --not-in training/*.parquet --language en \\
        --name prose --output-dir eval/prose --base SmolLM2-135M

Each item is consecutive sentences, the next one, and a wrong one about as long: of another document
(topic) or of the same one further on (story). Speak texts.jsonl (tools/make_speech.py), tokenize it
(tools/tokenize_speech.py), and give cloze.jsonl to tools/evaluate.py, beside others if you like.
With --base, a text model from before any training on speech does the items as text.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.evaluation.make_cloze import MakeClozeConfig, make_cloze


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Make the items, say what was made and how hard it is."""
    config = cli.parse(MakeClozeConfig, argv, __doc__ or "")
    report = make_cloze(config)
    counts = ", ".join(f"{count} {task}" for task, count in report["items"].items())
    unused = ", ".join(f"{count:,} {reason}" for reason, count in report["not_used"].items())
    print(f"{config.output_dir}: {counts}; of {report['documents']:,} documents")
    print(f"not used: {unused}")
    for task, figures in report.get("base", {}).items():
        if task != "model":
            shown = " ".join(
                f"{rule} {figure['accuracy']:.3f}±{figure['stderr']:.3f}"
                for rule, figure in figures["t2t"].items()
            )
            print(f"{task} t2t of {report['base']['model']}: {shown}")
    if not config.not_in:
        print("not compared with any training text: give --not-in for a figure that counts")
    return report


if __name__ == "__main__":
    cli.run(main, starts_over=True)
