"""What LoRA learns of chat beside training of all weights: spoken questions answered right.

    python benchmarks/lora_chat.py --demo runs/demo --output runs/lora_chat

Dialogues of StoryWorld are built and spoken as `make voice-demo` does it; the demo's language model
is fine-tuned on them in both ways, for equally many steps unless --lora-steps says otherwise. The
same command continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import report, sized

from examples.quickstart.machine import measure_machine, use_cores
from examples.quickstart.runner import tool, train
from examples.voice import stages
from examples.voice.sizes import MODES, SHARES, SIZES
from megatron_speech import cli

_ASKED = "all of one turn"
"""Questions that the model before can be asked as well."""


@dataclass(frozen=True, kw_only=True)
class LoraChatConfig:
    """What is fine-tuned, for how long, by how wide adapters."""

    demo: Path = Path("runs/demo")
    """A finished `make demo`."""
    output: Path = Path("runs/lora_chat")
    steps: int = 1_000
    """Of all weights."""
    lora_steps: int | None = None
    """Of LoRA; as many if not given."""
    lora_rank: tuple[int, ...] = (16, 32, 64, 128)
    """A training each; alpha is twice the rank."""
    lr: float = 1e-3
    """Of LoRA; a tenth of it in the end. Training of all weights has the recipe's."""
    train_embedding: bool = True
    """Whether LoRA also trains the rows of specials and codes."""
    limit: int | None = None
    """Questions of each kind; none asks all."""
    modes: tuple[str, ...] = ("text", "guided")
    """Ways of answering that are judged."""
    threads: int = 1
    """Of torch."""
    name: str = "lora_chat"
    """The results are benchmarks/results/NAME.json."""

    def arms(self) -> dict[str, dict[str, Any]]:
        """Settings of each training, by the name of its folder."""
        steps = self.lora_steps or self.steps
        adapters = {
            f"lora-{rank}-{steps}": {
                "train_iters": steps,
                "lora_rank": rank,
                "lora_alpha": 2 * rank,
                "lora_train_embedding": self.train_embedding,
                "lr": self.lr,
                "min_lr": self.lr / 10,
            }
            for rank in self.lora_rank
        }
        return {"full": {"train_iters": self.steps}} | adapters


def dialogues(demo: stages.VoiceDemo) -> None:
    """Dialogues for training, and spoken questions, unless they are there."""
    if not demo.path("dialogues", f"data-{MODES[-1]}.json").exists():
        stages.dialogues(demo, {})
    if not list(demo.path("codes").glob("*.parquet")):
        questions = demo.path("dialogues", "texts", "utterances.parquet")
        tool("make_speech", texts=questions, output_dir=demo.path("speech"))
        spoken = demo.path("speech", "manifest.parquet")
        tool("tokenize_speech", input=spoken, speech_tokenizer=demo.speech_tokenizer,
             output=demo.path("codes"))  # fmt: skip


def fine_tune(demo: stages.VoiceDemo, config: LoraChatConfig, arm: str) -> Path:
    """Train one arm to the end; returns its export."""
    run, hf = demo.path(arm, "run"), demo.path(arm, "hf")
    data = [
        part for mode in MODES for part in (SHARES[mode], demo.path("dialogues", f"data-{mode}"))
    ]
    train("pretrain", demo.size.recipes[3], save=run, bf16=demo.bf16,
          pretrained_checkpoint=demo.language_model() / "run", data_path=data,
          **config.arms()[arm])  # fmt: skip
    if not hf.exists():
        tool("convert_checkpoint", "megatron-to-hf", load=run, hf=hf)
    return hf


def answers(demo: stages.VoiceDemo, config: LoraChatConfig, arm: str) -> Any:
    """What tools/evaluate_chat.py says of one arm, and of the model before."""
    return tool(
        "evaluate_chat",
        model=fine_tune(demo, config, arm),
        pretrained=demo.language_model() / "hf",
        speech_tokenizer=demo.speech_tokenizer,
        items=demo.path("dialogues", "texts", "eval.jsonl"),
        questions=demo.path("codes"),
        modes=config.modes,
        limit=config.limit,
        max_new_tokens=demo.size.longest_answer,
        output=demo.path(f"{arm}.json"),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune both ways, ask, and write results/NAME.json."""
    config = cli.parse(LoraChatConfig, argv, __doc__ or "")
    use_cores(config.threads)
    size = SIZES[("demo", "smoke")[sized(0, 1)]]
    config.output.mkdir(parents=True, exist_ok=True)
    machine = measure_machine(config.output / "machine.json")
    demo = stages.VoiceDemo(size=size, output=config.output, machine=machine, base=config.demo)
    dialogues(demo)
    figures: dict[str, Any] = {"steps": config.steps}
    for arm in config.arms():
        results = answers(demo, config, arm)
        figures["before"] = results["pretrained"]["s2t"][_ASKED]
        figures[arm] = {mode: results["modes"][mode]["s2t"][_ASKED] for mode in config.modes}
    for arm in config.arms():
        figures[arm]["share_of_gain"] = {mode: _gain(figures, arm, mode) for mode in config.modes}
    report(config.name, "training of all weights", figures)


def _gain(figures: dict[str, Any], arm: str, mode: str) -> float:
    """What an arm gains over the model before, as a share of what training of all weights does."""
    before = figures["before"]["accuracy"]
    whole = figures["full"][mode]["accuracy"] - before
    return (figures[arm][mode]["accuracy"] - before) / whole if whole else float("nan")


if __name__ == "__main__":
    cli.run(main)
