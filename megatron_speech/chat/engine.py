"""The chat engine: a model that hears and speaks, shared by any number of conversations.

engine = ChatEngine(model_folder, speech_tokenizer, decoder, ChatConfig(mode="streaming"))
session = engine.session()
for event in session.respond(audio, sample_rate_hz=16_000):  # or a text
    ...                     # Heard, TextDelta, AudioChunk, Timing, at last Done
session.interrupt()         # from any thread
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio import check_waveform, resample
from ..errors import CheckpointError, ConfigError, DataError
from ..model.exported import load_exported, read_exported_config
from ..speech_decoder.decoder import SpeechDecoder
from ..speech_tokenizer.opened import OpenedSpeechTokenizer, open_speech_tokenizer
from ..text.vocab import SpeechTextVocab
from .decoding import AnswerVocab, ModelTokens
from .served import ServedTokens, VllmServer
from .session import ChatConfig, ChatSession, Parts
from .template import PAPER_FRAME_RATE_HZ, ChatTemplate, Mode

_DECODE_S = 0.8
_ENDLESS = 1 << 30  # positions of a model that names no limit


class ChatEngine:
    """An exported model with speech tokenizer and speech decoder, ready to talk.

    Args:
        model: exported Hugging Face folder, fine-tuned on dialogues.
        speech_tokenizer: what hears; without one, questions are text.
        decoder: what speaks; without one, answers are text and codes.
        config: how it answers; sessions may choose another mode.

    Raises:
        CheckpointError: the folder holds no model, or no weights for its vocabulary.
        VocabularyError: the model has no speech tokens, or no marks of turns.
        DataError: the speech tokenizer has other codes than the model.
        ConfigError: the decoder has; or a mode that the template does not know.
        ServiceError: there is no vLLM server where the config says.
    """

    def __init__(
        self,
        model: str | Path,
        speech_tokenizer: OpenedSpeechTokenizer | None = None,
        decoder: SpeechDecoder | None = None,
        config: ChatConfig | None = None,
    ):
        config = config or ChatConfig()
        described, self.vocab = read_exported_config(model)
        neighbours = [part for part in (speech_tokenizer, decoder) if part is not None]
        rate = neighbours[0].frame_rate_hz if neighbours else PAPER_FRAME_RATE_HZ
        template = ChatTemplate(self.vocab, config.template, rate)
        template.require_mode(config.mode)
        require_same_codes(self.vocab, speech_tokenizer, decoder, str(model))
        sampling = config.sampling
        kinds = AnswerVocab(self.vocab, described.vocab_size, template.stop_id, sampling.language)
        context = _context(described, config, str(model))
        if config.vllm_url is None:
            dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
            loaded, _ = load_exported(model, dtype, config.device)
            tokens = partial(ModelTokens, loaded, kinds, sampling)
        else:
            server = VllmServer(config.vllm_url, described.vocab_size)
            context = min(context, server.context_tokens)
            tokens = partial(ServedTokens, server, kinds, sampling)
        self._parts = Parts(
            tokens=tokens,
            template=template,
            kinds=kinds,
            context_tokens=context,
            speech_tokenizer=speech_tokenizer,
            decoder=decoder,
            decode_codes=config.decode_codes or max(round(_DECODE_S * rate), 1),
            config=config,
        )

    @classmethod
    def from_folders(
        cls,
        model: Path,
        speech_tokenizer: Path | None,
        decoder: Path | None,
        config: ChatConfig,
    ) -> "ChatEngine":
        """The engine from exported folders.

        Raises:
            ConfigError: a folder is not there. What is wrong with one is raised as by `ChatEngine`.
        """
        named = {"--model": model, "--speech-tokenizer": speech_tokenizer, "--decoder": decoder}
        missing = [f"{name} {path}" for name, path in named.items() if path and not path.is_dir()]
        if missing:
            raise ConfigError(
                f"no such folder: {', '.join(missing)}. `make demo` and then `make voice-demo` "
                "make those of the demo; your own come from tools/convert_checkpoint.py (model), "
                "tools/train_speech_tokenizer.py and tools/train_speech_decoder.py"
            )
        device = config.device
        hears = open_speech_tokenizer(speech_tokenizer, device) if speech_tokenizer else None
        speaks = SpeechDecoder.from_pretrained(decoder, device) if decoder else None
        return cls(model, hears, speaks, config)

    @property
    def config(self) -> ChatConfig:
        """How it answers."""
        return self._parts.config

    def session(self, mode: Mode | None = None) -> ChatSession:
        """A new conversation; sessions know nothing of each other.

        Raises:
            ConfigError: a mode that the template does not know.
        """
        parts = self._parts
        if mode is None:
            return ChatSession(parts)
        parts.template.require_mode(mode)
        return ChatSession(replace(parts, config=replace(parts.config, mode=mode)))

    def transcribe(self, codes: np.ndarray) -> str:
        """What the speech tokenizer's own recogniser reads in codes (n,): a live transcript.

        Raises:
            DataError: the engine has no speech tokenizer.
        """
        return self._hears().decode_text([codes])[0]

    def overhear(self, audio: np.ndarray, sample_rate_hz: int) -> str:
        """What it reads in sound, float32 mono (samples,): of a question that is not complete.

        Raises:
            AudioError: silence, no samples, or broken ones.
            DataError: the engine has no speech tokenizer.
            ConfigError: it has one that cannot transcribe.
        """
        check_waveform(audio, "the question")
        hears = self._hears()
        hears.decode_text([])  # before all the sound is encoded in vain
        return self.transcribe(hears.encode([resample(audio, sample_rate_hz)])[0])

    def _hears(self) -> OpenedSpeechTokenizer:
        if self._parts.speech_tokenizer is None:
            raise DataError("the engine has no speech tokenizer, so it cannot transcribe")
        return self._parts.speech_tokenizer


def _context(described: Any, config: ChatConfig, name: str) -> int:
    positions = getattr(described, "max_position_embeddings", None) or _ENDLESS
    wanted = config.context_tokens or positions
    if wanted > positions:
        raise CheckpointError(
            f"--context-tokens is {wanted}, but {name} has {positions} positions; give fewer"
        )
    return wanted


def require_same_codes(
    vocab: SpeechTextVocab,
    tokenizer: OpenedSpeechTokenizer | None,
    decoder: SpeechDecoder | None,
    model: str,
) -> None:
    """Refuse a speech tokenizer or speech decoder of other codes than the model's.

    Raises:
        DataError, ConfigError: codebook sizes, fingerprints or frame rates differ.
    """
    if tokenizer is None:
        if decoder is not None:
            if decoder.num_codes != vocab.num_codes:
                raise ConfigError(
                    f"the speech decoder has {decoder.num_codes} codes, {model} {vocab.num_codes}; "
                    "use one that was trained on codes of the model's speech tokenizer"
                )
            vocab.require_speech_tokenizer(decoder.fingerprint, "the speech decoder", model)
        return
    if tokenizer.num_codes != vocab.num_codes:
        raise DataError(
            f"the speech tokenizer has {tokenizer.num_codes} codes, {model} {vocab.num_codes}; use "
            "the speech tokenizer of the model's training"
        )
    vocab.require_speech_tokenizer(tokenizer.fingerprint, "the speech tokenizer", model)
    if decoder is not None:
        decoder.check_codes_of(tokenizer.frame_rate_hz, tokenizer.num_codes, tokenizer.fingerprint)
