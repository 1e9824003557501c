"""The transformers engine: a lean batched decoding loop over a Hugging Face causal language model.

Compared with `generate`: keys and values live in buffers that are written in place, logits are
computed for the tokens that may come only, and rows that have ended leave the batch. Spoken
questions and answers are evaluated by the same loop.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..errors import CheckpointError, ConfigError
from ..io.model_folders import load_weights
from ..jobs.randomness import uniform
from .engines import EngineConfig, Generation, PromptEngine, make_batches

_SAMPLE_PURPOSE = 102
_KEEP_ABOVE = 0.8  # rows are dropped once fewer than this share still runs: dropping copies
_STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 16}  # asking a GPU who has ended stalls it


class _BufferLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, capacity, head width), written in place."""

    is_sliding = False

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width)
        self.values = value_states.new_empty(rows, heads, self.capacity, width)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Keep some rows only."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), *old.shape[1:])
            new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return self.capacity


class BatchDecoder:
    """Continues prompts with some tokens until one that ends them.

    Args:
        model: a causal language model whose output layer has no bias, on its device, in eval mode.
        tokens: ids that may be chosen, such as those of the codes in order.
        end_token: id that ends a row. No other token is ever chosen.
        temperature: 0 for the likeliest token, else sampling.
    """

    def __init__(
        self, model: Any, *, tokens: Sequence[int], end_token: int, temperature: float = 0.0
    ):
        self._model = model.base_model
        self._layers = model.config.num_hidden_layers
        self._end = len(tokens)
        self._temperature = temperature
        weight = model.get_output_embeddings().weight.detach()
        self._ids = torch.tensor([*tokens, end_token], device=weight.device)
        self._head = weight[self._ids].t().contiguous()
        self._device = weight.device
        self._steps_between_checks = _STEPS_BETWEEN_CHECKS.get(weight.device.type, 1)

    @torch.inference_mode()
    def decode(
        self, prompts: Sequence[np.ndarray], most_codes: Sequence[int], seeds: np.ndarray
    ) -> list[tuple[np.ndarray, bool]]:
        """Places in `tokens` (n,) int64 for each prompt (codes, if these are the tokens), and
        whether it ended by itself.

        A prompt that reaches its `most_codes` is cut there. `seeds` (n,) uint64 matter only when
        sampling; a row's samples depend on its seed and not on its neighbours.

        Raises:
            CheckpointError: the model's logits are NaN or infinite.
        """
        ids, pad = self._left_padded(prompts)
        limits = torch.tensor(list(most_codes), device=self._device)
        longest = int(limits.max())
        cache = Cache(layers=[_BufferLayer(ids.shape[1] + longest) for _ in range(self._layers)])
        codes = torch.full((len(prompts), longest + 1), self._end, device=self._device)
        rows = torch.arange(len(prompts), device=self._device)
        running = torch.ones(len(prompts), dtype=torch.bool, device=self._device)
        hidden = self._forward(ids, pad, cache)
        sound = torch.ones((), dtype=torch.bool, device=self._device)
        for step in range(longest):
            chosen, finite = self._choose(hidden, seeds, step)
            sound &= finite.all()
            codes[rows, step] = torch.where(running, chosen, codes[rows, step])
            running &= (chosen != self._end) & (step + 1 < limits)
            if (step + 1) % self._steps_between_checks == 0:
                alive = int(running.sum())
                if alive == 0:
                    break
                if alive < _KEEP_ABOVE * len(rows):
                    kept = running.nonzero()[:, 0]
                    for layer in cache.layers:
                        layer.keep(kept)
                    rows, limits, pad = rows[kept], limits[kept], pad[kept]
                    chosen, running = chosen[kept], running[kept]
                    seeds = seeds[kept.cpu().numpy()]
            hidden = self._forward(self._ids[chosen][:, None], pad, cache)
        if not sound:  # asked once: each question would make a GPU wait
            raise CheckpointError(
                "the model's logits are NaN or infinite, so its codes mean nothing; its weights "
                "are damaged or overflow in this --dtype: try float32, or an older checkpoint"
            )
        return self._collect(codes.cpu().numpy(), most_codes)

    def _collect(
        self, codes: np.ndarray, most_codes: Sequence[int]
    ) -> list[tuple[np.ndarray, bool]]:
        # every row holds an end at its last column at the latest
        lengths = (codes == self._end).argmax(axis=1)
        return [
            (row[:length].copy(), bool(length < limit))
            for row, length, limit in zip(codes, lengths, most_codes, strict=True)
        ]

    def _left_padded(self, prompts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        longest = max(len(prompt) for prompt in prompts)
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[longest - len(prompt) :] = prompt
        pad = torch.tensor([longest - len(prompt) for prompt in prompts], device=self._device)
        return torch.from_numpy(ids).to(self._device), pad

    def _forward(self, ids: Tensor, pad: Tensor, cache: Cache) -> Tensor:
        """Hidden state of the last position, (rows, width)."""
        done = cache.layers[0].get_seq_length()
        positions = torch.arange(done, done + ids.shape[1], device=self._device)
        keys = torch.arange(done + ids.shape[1], device=self._device)
        mask = (keys[None, None] <= positions[None, :, None]) & (
            keys[None, None] >= pad[:, None, None]
        )
        # padding attends to itself: a row without any key would be NaN and spoil its neighbours
        mask |= keys[None, None] == positions[None, :, None]
        output = self._model(
            input_ids=ids,
            attention_mask=mask[:, None],
            position_ids=(positions[None] - pad[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def _choose(self, hidden: Tensor, seeds: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """The next code of every row, (rows,), and whether it is finite numbers that chose it.

        The number of tokens means the end.
        """
        logits = hidden @ self._head
        if self._temperature == 0:
            highest, chosen = logits.max(dim=-1)  # NaN if any of them is
            return chosen, highest.isfinite()
        total = (logits.float() / self._temperature).softmax(dim=-1).cumsum(dim=-1)
        numbers = uniform(seeds, _SAMPLE_PURPOSE, np.full(len(seeds), step))
        threshold = torch.from_numpy(numbers).to(self._device, torch.float32)[:, None]
        chosen = torch.searchsorted(total, threshold * total[:, -1:], right=True)[:, 0]
        return chosen.clamp(max=self._end), total[:, -1].isfinite()


class TransformersEngine(PromptEngine):
    """Decodes in this process, on a CPU or a GPU. Raises as `PromptEngine`."""

    def __init__(self, model: Path, config: EngineConfig):
        from transformers import AutoModelForCausalLM

        super().__init__(model, config)
        self._device = config.device
        if config.device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load_weights(AutoModelForCausalLM, model, dtype=getattr(torch, config.dtype))
        self._decoder = BatchDecoder(
            loaded.to(self._device).eval(),
            tokens=range(self.vocab.code_offset, self.vocab.code_offset + self.num_codes),
            end_token=self.vocab.end_of_audio_id,
            temperature=config.temperature,
        )

    def decode(
        self,
        prompts: Sequence[np.ndarray],
        most_codes: Sequence[int],
        seeds: np.ndarray,
        advance: Callable[[int], None],
        only: Collection[int] | None = None,
    ) -> list[Generation]:
        """In batches of prompts of about equal length; see `PromptEngine.decode`.

        Raises:
            ConfigError: a batch does not fit into memory.
        """
        results = [Generation(np.zeros(0, np.int64), False, None)] * len(prompts)
        batches = make_batches([len(prompt) for prompt in prompts], self.config.batch_size)
        for number, batch in enumerate(batches):
            if only is not None and not np.isin(batch, list(only)).any():
                continue
            try:
                decoded = self._decoder.decode(
                    [prompts[i] for i in batch], [most_codes[i] for i in batch], seeds[batch]
                )
            except torch.OutOfMemoryError as error:
                raise ConfigError(
                    f"{len(batch)} texts at once do not fit into the memory of {self._device}: "
                    f"{str(error).splitlines()[0]} Codes depend on --batch-size, so it is not made "
                    "smaller on the way: remove the output folder and run with a smaller "
                    "--batch-size, or go on where more memory is free"
                ) from None
            for i, (codes, ended) in zip(batch, decoded, strict=True):
                results[i] = Generation(codes, ended, number)
            advance(len(batch))
        return results
