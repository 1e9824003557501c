"""The whole network: encoder with quantizer, text decoder, CTC output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from .characters import CharacterHeads, CharacterLogits
from .config import SpeechTokenizerConfig
from .encoder import EncoderOutput, SpeechTokenizerEncoder, whisper_config


class TextDecoder(WhisperDecoder):
    """Whisper's decoder with a mask over the encoder's padding, so batches may be ragged."""

    def forward(
        self,
        tokens: torch.Tensor,
        encoded: torch.Tensor,
        valid: torch.Tensor,
        cache: EncoderDecoderCache | None = None,
    ) -> torch.Tensor:
        """Token ids (B, L) after those in `cache`, encoder output (B, T, D) and its valid frames
        (B, T) -> logits (B, L, vocabulary)."""
        past = cache.get_seq_length() if cache is not None else 0
        length = tokens.shape[1]
        positions = self.embed_positions.weight[past : past + length]
        hidden = self.embed_tokens(tokens) + positions
        lowest = torch.finfo(hidden.dtype).min
        causal = torch.full((length, past + length), lowest, device=tokens.device).triu(past + 1)
        cross = torch.zeros(valid.shape, device=valid.device).masked_fill_(~valid, lowest)
        for layer in self.layers:
            hidden = layer(
                hidden,
                causal.to(hidden.dtype)[None, None],
                encoded,
                cross.to(hidden.dtype)[:, None, None],
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return F.linear(self.layer_norm(hidden), self.embed_tokens.weight)


@dataclass
class ModelOutput:
    """Result of a training pass."""

    encoder: EncoderOutput
    """Output of the encoder."""
    logits: torch.Tensor
    """Logits of the decoder, (B, L, vocabulary)."""
    ctc_logits: torch.Tensor | None
    """Logits of the CTC output, (B, T, vocabulary + 1), blank last; None without a CTC head."""
    characters: CharacterLogits | None
    """Logits of the training-only character outputs; None without them."""


class SpeechTokenizerModel(nn.Module):
    """Encoder and decoder under the tensor names of the released layout.

    `character_heads` are for training only and no part of the layout.
    """

    def __init__(
        self,
        config: SpeechTokenizerConfig,
        attention: str = "eager",
        character_heads: CharacterHeads | None = None,
    ):
        super().__init__()
        self.character_heads = character_heads
        self.config = config
        self.model = nn.ModuleDict({"encoder": SpeechTokenizerEncoder(config, attention)})
        self.ctc_head = None
        if not config.quantize_encoder_only:
            self.model["decoder"] = TextDecoder(whisper_config(config, attention))
            if config.ctc_head:
                self.ctc_head = nn.Linear(config.d_model, config.vocab_size + 1)

    @property
    def encoder(self) -> SpeechTokenizerEncoder:
        return self.model["encoder"]  # type: ignore[return-value]

    @property
    def decoder(self) -> TextDecoder:
        return self.model["decoder"]  # type: ignore[return-value]

    def forward(
        self,
        mel: torch.Tensor,
        mel_lengths: torch.Tensor,
        decoder_input: torch.Tensor,
        quantize: bool = True,
        learn_codes: bool = True,
    ) -> ModelOutput:
        """Log-mels (B, bins, frames), valid frames (B,) and teacher-forced tokens (B, L)."""
        encoded = self.encoder(mel, mel_lengths, quantize, learn_codes)
        logits = self.decoder(decoder_input, encoded.hidden, encoded.valid)
        ctc_logits = None if self.ctc_head is None else self.ctc_head(encoded.hidden)
        characters = None
        if self.character_heads is not None:
            characters = self.character_heads(encoded.lower.frames, encoded.hidden)
        return ModelOutput(encoded, logits, ctc_logits, characters)

    @torch.no_grad()
    def generate(
        self,
        encoded: torch.Tensor,
        valid: torch.Tensor,
        prompt: torch.Tensor,
        max_tokens: int,
        unsaid: Sequence[int] = (),
        unsaid_first: Sequence[int] = (),
    ) -> list[list[int]]:
        """Greedy decoding: encoder output (B, T, D), valid frames (B, T) and first tokens (B, P)
        -> text tokens of each clip, without prompt and end token.

        No token of `unsaid` is chosen, and as the first none of `unsaid_first` either.
        """
        eos = self.config.eos_token_id
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens, steps = prompt, []
        finished = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        for _ in range(min(max_tokens, self.config.max_target_positions - prompt.shape[1])):
            logits = self.decoder(tokens, encoded, valid, cache)[:, -1]
            never = list(unsaid) if steps else [*unsaid, *unsaid_first]
            logits[:, never] = -torch.inf
            tokens = logits.argmax(dim=-1).masked_fill(finished, eos)[:, None]
            steps.append(tokens)
            finished |= tokens[:, 0] == eos
            if finished.all():
                break
        rows = torch.cat(steps, dim=1).tolist() if steps else [[] for _ in range(len(prompt))]
        return [row[: row.index(eos)] if eos in row else row for row in rows]

    def generate_by_ctc(self, encoded: torch.Tensor, valid: torch.Tensor) -> list[list[int]]:
        """Greedy CTC: best token of each frame, repeats and blanks removed."""
        assert self.ctc_head is not None
        best = self.ctc_head(encoded).argmax(dim=-1)
        texts = []
        for row, count in zip(best, valid.sum(dim=1).tolist(), strict=True):
            kept = torch.unique_consecutive(row[:count])
            texts.append([t for t in kept.tolist() if t != self.config.vocab_size])
        return texts
