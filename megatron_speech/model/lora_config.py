"""Settings of LoRA: low-rank adapters of frozen linear layers, and rows trained beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError, require_within
from ..text.vocab import SpeechTextVocab
from ..training.megatron.checkpoint_check import LORA_KEY
from .config import ModelConfig
from .families import Rule, get_family, shape_in_megatron

Target = Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
TARGETS: tuple[Target, ...] = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Train low-rank adapters beside frozen weights (arXiv 2106.09685)."""

    lora_rank: int | None = None
    """Rank of the adapters; without it all weights are trained."""
    lora_alpha: float = 32.0
    """An adapter's output is multiplied by alpha / rank."""
    lora_dropout: float = 0.0
    """Dropout on the input of adapters."""
    lora_targets: tuple[Target, ...] = TARGETS
    """Linear layers with adapters, in core's names: of attention linear_qkv and linear_proj, of the
    feed-forward part linear_fc1 (gate and up) and linear_fc2 (down)."""
    lora_rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead (arXiv 2312.03732), for high ranks."""
    lora_train_embedding: bool = False
    """Also train the rows of speech and special tokens that were added to the base's vocabulary, in
    the embedding and in an output layer of its own; of a base that came with codes, those."""

    def __post_init__(self) -> None:
        if self.lora_rank is None:
            for name in ("lora_rslora", "lora_train_embedding", "lora_dropout"):
                if getattr(self, name):
                    flag = "--" + name.replace("_", "-")
                    raise ConfigError(f"{flag} belongs to --lora-rank; drop it or set both")
            return
        require_within(self, 1, "lora_rank")
        if not 0 < self.lora_alpha < float("inf"):
            raise ConfigError(f"--lora-alpha is {self.lora_alpha}; give more than 0")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"--lora-dropout is {self.lora_dropout}; give 0 or more, below 1")
        if not self.lora_targets:
            raise ConfigError(f"--lora-targets is empty; choose of {', '.join(TARGETS)}")

    @property
    def rank(self) -> int:
        """The rank, 0 without LoRA."""
        return self.lora_rank or 0

    @property
    def scale(self) -> float:
        """Factor of an adapter's output."""
        assert self.lora_rank is not None
        return self.lora_alpha / self.lora_rank ** (0.5 if self.lora_rslora else 1.0)

    def describe(self, model: ModelConfig, rows: tuple[int, int] | None) -> str:
        """One line for the log."""
        count = self.num_parameters(model)
        line = f"LoRA: rank {self.lora_rank}, {count:,} parameters in adapters"
        if rows is not None:
            tables = 1 + model.untie_embeddings_and_output_weights
            trained = tables * (rows[1] - rows[0]) * model.hidden_size
            line += f", {trained:,} in rows {rows[0]}..{rows[1] - 1}"
        return f"{line}; all others are frozen"

    def identity(self, vocab: SpeechTextVocab) -> dict[str, Any]:
        """What a checkpoint of adapters must agree on with the run that loads it."""
        if self.lora_rank is None:
            return {LORA_KEY: None}
        rows = rows_to_train(self, vocab)
        facts = {
            "rank": self.lora_rank,
            "alpha": float(self.lora_alpha),
            "rslora": self.lora_rslora,
            "targets": sorted(self.lora_targets),
            "rows": list(rows) if rows else None,
        }
        return {LORA_KEY: facts}

    @classmethod
    def of_identity(cls, facts: dict[str, Any]) -> "LoRAConfig":
        """The settings a checkpoint's identity tells."""
        return cls(
            lora_rank=facts["rank"],
            lora_alpha=facts["alpha"],
            lora_targets=tuple(facts["targets"]),
            lora_rslora=facts["rslora"],
            lora_train_embedding=facts["rows"] is not None,
        )

    def num_parameters(self, model: ModelConfig) -> int:
        """Numbers in all adapters; trained rows are not among them."""
        total = 0
        for _, _, rule in self.targets(model):
            rows, width = shape_in_megatron(rule, model)
            total += self.rank * (rows + width * len(rule.huggingface))
        return model.num_layers * total

    def targets(self, model: ModelConfig) -> Iterator[tuple[str, str, Rule]]:
        """Parent, name and layout of the linear layers of a transformer layer with adapters.

        Raises:
            ConfigError: the model's family is not known, or cannot express it.
        """
        for rule in get_family(model).layer:
            parent, target, name = rule.megatron.split(".")
            if name == "weight" and target in self.lora_targets:
                yield parent, target, rule

    def train_flops_per_token(
        self, model: ModelConfig, seq_length: int, padded_vocab_size: int
    ) -> float:
        """As `ModelConfig.train_flops_per_token`, without the gradients of frozen weights."""
        whole = model.train_flops_per_token(seq_length, padded_vocab_size)
        if self.lora_rank is None:
            return whole
        attention = model.num_layers * model.num_attention_heads * model.head_size * seq_length
        return (whole - 6.0 * attention) * 2 / 3 + 6.0 * (attention + self.num_parameters(model))


def rows_to_train(lora: LoRAConfig, vocab: SpeechTextVocab) -> tuple[int, int] | None:
    """Ids whose rows are trained beside adapters: `added_rows`, or None."""
    return added_rows(vocab) if lora.lora_train_embedding else None


def added_rows(vocab: SpeechTextVocab) -> tuple[int, int]:
    """First and last + 1 of the ids that were added to a base: specials and codes."""
    first, stop = vocab.code_offset, vocab.code_offset + vocab.num_codes
    if vocab.added:
        first, stop = min(first, vocab.size - len(vocab.added)), max(stop, vocab.size)
    return first, stop
