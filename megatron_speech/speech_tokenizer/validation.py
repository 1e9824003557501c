"""How well held-out speech is read through the codes, and how the codes are used."""

from collections.abc import Mapping

import torch

from ..training.ranks import gather_objects, rank_and_size
from ..training.task import Metrics
from .batch import IGNORED, text_loss
from .dataset import AsrDataset
from .features import batches_by_length
from .model import SpeechTokenizerModel
from .quantizer import all_reduce_sum, perplexity
from .transcription import word_error_rate

Readings = list[tuple[str, str, str]]
"""What was said, what was read, and the language."""


def evaluate_sets(
    model: SpeechTokenizerModel, sets: Mapping[str, AsrDataset], quantize: bool
) -> Metrics:
    """Word error rate, loss, codebook use and perplexity on each set; every rank reads its share.

    Names end in the set's: `wer NAME`, `asr loss NAME` (nats a token of the text, told all before
    it: no loop of the decoder can spoil it), with a CTC output `ctc wer NAME`, and where codes are
    made `codebook usage NAME` and `perplexity NAME`. Each row is judged by its own language.
    """
    return {
        f"{key} {name}": value
        for name, dataset in sets.items()
        for key, value in _evaluate(model, dataset, quantize).items()
    }


@torch.no_grad()
def _evaluate(model: SpeechTokenizerModel, dataset: AsrDataset, quantize: bool) -> Metrics:
    device = next(model.parameters()).device
    counts = torch.zeros(model.config.quantize_vocab_size or 1, device=device)
    rank, world_size = rank_and_size()
    own = range(rank, min(len(dataset), dataset.data.valid_samples), world_size)
    loss, tokens = torch.zeros(2, dtype=torch.float64, device=device)
    found: Readings = []
    by_ctc: Readings = []
    limit = max(64, 4 * dataset.data.micro_batch_size)
    lengths = [round(100 * dataset.durations_s[index]) + 1 for index in own]
    for part in batches_by_length(lengths, limit * 1000):
        indices = [own[n] for n in part]
        batch = dataset.batch(indices).to(device)
        encoded = model.encoder(batch.mel, batch.mel_lengths, quantize)
        logits = model.decoder(batch.decoder_input, encoded.hidden, encoded.valid)
        loss += text_loss(logits, batch.labels, "sum")
        tokens += (batch.labels != IGNORED).sum()
        languages = [dataset.rows[index].language for index in indices]
        said = [dataset.rows[index].text for index in indices]
        inputs = (model, encoded.hidden, encoded.valid, languages)
        found += zip(said, dataset.text.transcribe(*inputs), languages, strict=True)
        if model.ctc_head is not None:
            by_ctc += zip(said, dataset.text.transcribe(*inputs, "ctc"), languages, strict=True)
        if encoded.quantized is not None:
            codes = encoded.quantized.codes[encoded.valid]
            counts += torch.bincount(codes, minlength=len(counts))
    loss, tokens = all_reduce_sum(loss), all_reduce_sum(tokens)
    metrics = {"wer": _error_rate(found), "asr loss": (loss / tokens).item()}
    if model.ctc_head is not None:
        metrics["ctc wer"] = _error_rate(by_ctc)
    if quantize:
        counts = all_reduce_sum(counts)
        metrics["codebook usage"] = (counts > 0).float().mean().item()
        metrics["perplexity"] = perplexity(counts)
    return metrics


def _error_rate(own: Readings) -> float:
    """Over all ranks; a row that names no language counts as English."""
    readings = [reading for part in gather_objects(own) for reading in part]
    said, read, languages = ([reading[place] for reading in readings] for place in range(3))
    return word_error_rate(said, read, [language or "en" for language in languages])
