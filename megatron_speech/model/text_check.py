"""What new rows of the output layer do to the text loss of a base model, before any training.

The base runs once over a short text, one layer in memory at a time; its last hidden states are
kept. Whatever rows stand beside the old ones, the loss then costs one product with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..errors import ConfigError
from ..jobs.progress import Progress
from .families import Family
from .safetensors_folder import SafetensorsFolder

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_WINDOW, _MOST_WINDOWS = 512, 8
_ROWS_AT_ONCE = 8192

CHECK_TEXT = """\
The bridge had been closed since the flood, so Marta left her bicycle under the trees and walked. \
It was almost dark when she reached the mill. Nobody had lived there for ten years, but a lamp was \
burning in the kitchen. "You are late," said an old voice. "The soup is cold, and the baker has \
already gone home."

Most metals expand when they are heated. A steel rail of one hundred metres grows by about six \
centimetres between a cold night in January and a hot afternoon in July, which is why engineers \
leave small gaps between the rails, or fasten them so firmly that they cannot move at all.

How do I boil an egg? Put it into boiling water, wait seven minutes, then hold it under the cold \
tap. If you like it soft, five minutes are enough. In 1954 the city counted 38,000 people; today \
there are more than two million, and the old town hall has become a museum of music.

The tenant shall keep the garden in good order and shall not, without the written consent of the \
owner, remove any tree, wall or fence. If either party fails to perform a duty under this \
agreement, the other may end it upon thirty days' notice, provided that such notice states the \
reason and is delivered by hand or by registered post.

# Average of the marks, leaving out those who were ill
def average(marks, ill=()):
    counted = [value for name, value in marks.items() if name not in ill]
    return sum(counted) / len(counted) if counted else 0.0

- Press the red button for three seconds until the light blinks.
- Choose "Language", then "Next". Version 2.4 also asks for the time zone.
- If nothing happens: see page 17, or write to help@example.org.

However, the study had limits. Only 212 patients took part (mean age 54.3 years), most of them \
men, and none was followed for longer than eighteen months; its authors therefore warn against \
drawing conclusions about the long-term risk of the treatment.

MAYOR RESIGNS AFTER VOTE. The mayor of the coastal town stepped down on Tuesday, hours after the \
council had rejected her budget by nine votes to six. "I said what I would do, and I am doing \
it," she told reporters. Prime Minister Ellis declined to comment.

Well, I don't know, maybe? I mean, we could ask Tom. He's got a van, hasn't he! Yeah, and he owes \
me one. Okay then: Saturday, half past eight, and please, please bring the keys this time.

Let x be a positive number with x + 1/x = 3. Squaring both sides gives x^2 + 2 + 1/x^2 = 9, and \
so x^2 + 1/x^2 = 7.

Der Zug nach Hamburg hat heute zwanzig Minuten Verspätung. Il n'y a plus de pain, mais la \
boulangerie est encore ouverte. Mañana vamos a la playa con los niños.
"""
"""Read where no other text is given."""


def read_check_text(path: Path | None) -> str:
    """The text to measure on.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or is empty.
    """
    if path is None:
        return CHECK_TEXT
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--check-text {path} cannot be read: {error}") from None
    if not text.strip():
        raise ConfigError(f"--check-text {path} is empty; give a file of some hundred words")
    return text


def cut_into_windows(ids: Sequence[int], positions: int) -> Int64[Tensor, "windows length"]:
    """At most 8 windows of at most 512 tokens; the last is filled up with -1.

    Raises:
        ConfigError: fewer than two tokens.
    """
    if len(ids) < 2:
        raise ConfigError(f"the text to check has {len(ids)} tokens; give at least some sentences")
    length = min(_WINDOW, positions, len(ids))
    tokens = torch.tensor(ids[: length * _MOST_WINDOWS])
    filled = nn.functional.pad(tokens, (0, -len(tokens) % length), value=-1)
    return filled.view(-1, length)


@dataclass(frozen=True)
class TextCheck:
    """Hidden states before the output layer, and what follows each."""

    hidden: Float[Tensor, "tokens width"]
    """Float32."""
    of_target: Float[Tensor, "tokens"]
    """Logit of the token that follows."""

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return len(self.hidden)

    def log_sum_of(
        self, read: Callable[[slice], Float[Tensor, "rows width"]], start: int, stop: int
    ) -> Float[Tensor, "tokens"]:
        """Log of the summed exponentials of the logits that rows start..stop give."""
        total = torch.full((self.tokens,), float("-inf"))
        for low in range(start, stop, _ROWS_AT_ONCE):
            rows = read(slice(low, min(low + _ROWS_AT_ONCE, stop))).float()
            total = total.logaddexp((self.hidden @ rows.T).logsumexp(1))
        return total

    def loss(self, log_sums: Float[Tensor, "*tables tokens"]) -> Float[Tensor, "*tables"]:
        """Mean loss in nats, where all rows of the output layer together give `log_sums`."""
        return (log_sums - self.of_target).mean(-1)


def check_base(
    source: SafetensorsFolder,
    config: "PretrainedConfig",
    family: Family,
    windows: Int64[Tensor, "windows length"],
) -> TextCheck:
    """Run a base over windows of token ids, -1 where one ends early."""
    table = family.embedding if config.tie_word_embeddings else family.output
    followed = (windows[:, 1:] >= 0).flatten()
    targets = windows[:, 1:].flatten()[followed]
    hidden = _last_hidden(source, config, family, windows.clamp(min=0))
    hidden = hidden[:, :-1].flatten(0, 1)[followed]
    rows = torch.cat([source.read(table, slice(t, t + 1)) for t in targets.tolist()]).float()
    return TextCheck(hidden, (hidden * rows).sum(1))


@torch.inference_mode()
def _last_hidden(
    source: SafetensorsFolder,
    config: "PretrainedConfig",
    family: Family,
    tokens: Int64[Tensor, "windows length"],
) -> Float[Tensor, "windows length width"]:
    """What transformers' model hands to its output layer, in float32."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
    decoder = whole.get_decoder()
    decoder.rotary_emb = type(decoder.rotary_emb)(config)  # computed, not stored
    prefix = family.embedding.removesuffix("embed_tokens.weight")
    parts = {f"{prefix}norm.": decoder.norm}
    parts |= {family.layer_prefix.format(n): layer for n, layer in enumerate(decoder.layers)}
    ids, places = tokens.unique(return_inverse=True)
    rows = [source.read(family.embedding, slice(token, token + 1)) for token in ids.tolist()]
    with Progress("text loss", len(parts), "layers") as progress:
        for name, module in parts.items():

            def load(module: nn.Module, _: object, name: str = name) -> None:
                weights = {key: source.read(name + key).float() for key in module.state_dict()}
                module.load_state_dict(weights, assign=True)

            def drop(module: nn.Module, *_: object) -> None:
                module.to("meta")
                progress.advance(1)

            module.register_forward_pre_hook(load)
            module.register_forward_hook(drop)
        output = decoder(inputs_embeds=torch.cat(rows).float()[places], use_cache=False)
    return output.last_hidden_state
