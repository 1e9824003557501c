"""How likely a text-to-token model thinks given answers: the reference of DPO."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.loss_rules import RuleTokens, loss_mask
from ..io.model_folders import load_weights
from ..text.vocab import SpeechTextVocab
from .engines import make_batches

_ROWS = 16


class Reference:
    """An exported text-to-token model. Raises CheckpointError if the folder holds none."""

    def __init__(self, model: Path, vocab: SpeechTextVocab, device: str):
        from transformers import AutoModelForCausalLM

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load_weights(AutoModelForCausalLM, model, dtype=torch.float32)
        self._model, self._device = loaded.to(device).eval(), device
        self._kinds = RuleTokens.of(vocab)

    @torch.inference_mode()
    def log_probabilities(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """Log-probability of the speech of each text_to_token document (n,), (documents,), nats."""
        found = np.zeros(len(documents))
        for batch in make_batches([len(ids) for ids in documents], _ROWS):
            ids = torch.zeros(len(batch), len(documents[batch[0]]), dtype=torch.int64)
            counts = torch.zeros(ids.shape[0], ids.shape[1] - 1, dtype=torch.bool)
            for row, number in enumerate(batch):
                own = documents[number]
                ids[row, : len(own)] = torch.from_numpy(own)
                mask = loss_mask("speech_after_text", own[:-1], own[1:], self._kinds)
                counts[row, : len(mask)] = torch.from_numpy(mask)
            ids = ids.to(self._device)
            # padding is behind the end, where no token that counts can see it
            likely = self._model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
            own = likely.gather(-1, ids[:, 1:, None])[..., 0] * counts.to(self._device)
            found[batch] = own.double().sum(1).cpu().numpy()
        return found
