"""What the tokenizer is trained for: transcripts, and vectors close to their codes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..io.rejected import Rejected
from ..jobs.progress import Progress
from ..training.task import Metrics
from .batch import AsrBatch, text_loss
from .best import BestModel
from .dataset import AsrDataset
from .model import ModelOutput, SpeechTokenizerModel
from .projected import ProjectedVectorQuantizer
from .quantizer import all_reduce_sum, positions_over_ranks
from .read_ahead import ReadBatches
from .set_aside import SetAside
from .validation import evaluate_sets

_VECTORS_PER_CODE = 32  # of k-means
_GRADIENTS_PER_DIMENSION = 64


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Losses, and when quantization begins (paper section 2.2)."""

    ctc_weight: float = 0.0
    """Weight of a CTC loss of the decoder's tokens on the pooled frames."""
    character_ctc_weight: float = 0.0
    """Weight of a character CTC on the frames before the pool. Small models learn letters first:
    without any CTC their codes collapse."""
    upper_character_ctc_weight: float = 0.0
    """Weight of a character CTC on the last encoder layer, unpooled to 50 Hz."""
    quantize: bool = True
    """Train with the vector quantizer; off trains the same network without it, to compare."""
    quantize_start_step: int = 0
    """Steps trained before the quantizer is switched on."""
    freeze_codes: bool = False
    """From its start on, hold the codebook and all below it: codes stay what k-means made of what
    the encoder hears, and the layers above learn to read them. With little speech this keeps a
    released Whisper's ear for voices that the training lacks (docs/log.md, 2026-11-30)."""
    kmeans_init: bool = False
    """Fill the codebook by k-means over vectors of the training data when quantization starts; with
    fsq, fit its projections to them. Else the start is random."""
    kmeans_vectors: int | None = None
    """Vectors, over all ranks, that k-means sees; none is 32 for each code, but at most those of
    one pass over the recordings."""
    kmeans_rounds: int = 10
    """Rounds of k-means."""

    def __post_init__(self) -> None:
        names = ("ctc_weight", "character_ctc_weight", "upper_character_ctc_weight")
        for name in (*names, "quantize_start_step"):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is {getattr(self, name)}; expected 0 or more")
        if self.freeze_codes and not self.kmeans_init:
            raise ConfigError("--freeze-codes holds what k-means made; add --kmeans-init")


class AsrObjective(ReadBatches[AsrBatch]):
    """Transcription through the quantizer."""

    def __init__(
        self,
        train: AsrDataset,
        valid: Mapping[str, AsrDataset],
        config: ObjectiveConfig,
        device: torch.device,
        set_aside: SetAside,
        best: BestModel | None = None,
    ):
        super().__init__(train, device, set_aside, train.data.manifest_weights)
        self.valid, self.config, self._best = valid, config, best
        codes = train.config
        if config.freeze_codes and codes.quantizer != "vq":
            raise ConfigError(f"--freeze-codes and --quantizer {codes.quantizer}: only vq can hold")
        if codes.quantize_code_dim is not None and not config.kmeans_init:
            raise ConfigError("--quantize-code-dim chooses its directions with --kmeans-init")
        # FSQ projects by trained layers, from its first step on
        always = config.quantize and config.quantize_start_step == 0
        self.reaches_all_parameters = not config.freeze_codes and (
            always or train.config.quantizer != "fsq"
        )

    def shares(self) -> list[float]:
        """Share of each manifest in what is trained on."""
        weights = self.data.manifest_weights or self.train.sizes
        return [weight / sum(weights) for weight in weights]

    def read(
        self, indices: list[int], random: np.random.Generator
    ) -> tuple[AsrBatch, list[Rejected]]:
        """Of pinned memory where a GPU reads it."""
        batch = self.train.batch(indices)
        return (batch.pinned() if self.device.type == "cuda" else batch), batch.rejected

    def before_step(self, model: SpeechTokenizerModel, iteration: int) -> None:
        """Fill the codebook on the step at which quantization starts."""
        starts = iteration == self.config.quantize_start_step and self.config.kmeans_init
        if starts and self._quantizes(model, iteration):
            quantizer = model.encoder.quantizer
            assert quantizer is not None
            vectors, positions = self._collect_vectors(model, iteration)
            if isinstance(quantizer, ProjectedVectorQuantizer):
                quantizer.choose_directions(vectors, self._sensitivity(model, iteration))
            seed, rounds = self.data.seed, self.config.kmeans_rounds
            quantizer.initialise(vectors, seed, rounds, positions)

    def loss(
        self, model: nn.Module, batch: AsrBatch, iteration: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Cross-entropy of the text + weighted CTCs + commitment."""
        quantize = self.config.quantize and iteration >= self.config.quantize_start_step
        output: ModelOutput = model(
            batch.mel,
            batch.mel_lengths,
            batch.decoder_input,
            quantize,
            not (quantize and self.config.freeze_codes),
        )
        total = text_loss(output.logits, batch.labels)
        metrics = {"asr loss": total.detach()}
        for name, weight, ctc in self._ctc_losses(output, batch):
            total = total + weight * ctc
            metrics[name] = ctc.detach()
        if output.encoder.quantized is not None and not self.config.freeze_codes:
            commitment = output.encoder.quantized.commitment_loss
            total = total + self._commitment_weight * commitment
            metrics["commitment loss"] = commitment.detach()
        return total, metrics

    def _ctc_losses(
        self, output: ModelOutput, batch: AsrBatch
    ) -> Iterator[tuple[str, float, torch.Tensor]]:
        """Name, weight and value of each CTC loss in use."""
        config, encoder, letters = self.config, output.encoder, output.characters
        if output.ctc_logits is not None:
            yield (
                "ctc loss",
                config.ctc_weight,
                ctc_loss(output.ctc_logits, encoder.valid, batch.targets),
            )
        frames = encoder.lower.frames_valid
        if letters is not None and letters.lower is not None:
            yield (
                "character ctc loss",
                config.character_ctc_weight,
                ctc_loss(letters.lower, frames, batch.characters),
            )
        if letters is not None and letters.upper is not None:
            yield (
                "upper character ctc loss",
                config.upper_character_ctc_weight,
                ctc_loss(letters.upper, frames, batch.characters),
            )

    def after_step(self, model: SpeechTokenizerModel, iteration: int) -> Metrics:
        """Move the codebook, unless codes are frozen."""
        if not self._quantizes(model, iteration):
            return {}
        assert model.encoder.quantizer is not None
        if self.config.freeze_codes:
            self.drop_step(model)
            return {}
        return model.encoder.quantizer.update(iteration + 1 - self.config.quantize_start_step)

    def drop_step(self, model: SpeechTokenizerModel) -> None:
        """Leave the codebook as it is."""
        if model.encoder.quantizer is not None:
            model.encoder.quantizer.drop()

    def evaluate(self, model: SpeechTokenizerModel, iteration: int) -> Metrics:
        """Word error rate, codebook use and perplexity on each validation set."""
        quantize = self._quantizes(model, iteration - 1)  # as the last step was trained
        metrics = evaluate_sets(model, self.valid, quantize)
        if self._best is not None and quantize == self.config.quantize and self.rank == 0:
            self._best.offer(model, iteration, metrics[f"wer {self._best.set_name}"])
        return metrics

    @torch.no_grad()
    def _collect_vectors(
        self, model: SpeechTokenizerModel, iteration: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of this rank's share of the next steps, and their positions among all ranks'.

        As many steps as give `kmeans_vectors`, or one pass over the data: on any number of ranks
        the same vectors.
        """
        found, positions, total, offset = [], [], 0, 0
        wanted, most_steps = self.config.kmeans_vectors, 10_000
        if wanted is None:
            wanted = _VECTORS_PER_CODE * (model.config.quantize_vocab_size or 0)
            most_steps = -(-len(self.train) // self.samples_per_step)
        title, shown = "vectors for the codebook", self.rank == 0
        with Progress(title, wanted, "vectors", shown=shown) as bar:
            while total < wanted and offset < most_steps:
                for batch in self.batches(iteration + offset):
                    hidden, valid, *_ = model.encoder.lower(batch.mel, batch.mel_lengths)
                    found.append(hidden[valid].float())
                count = sum(len(vectors) for vectors in found[-self._micro_batches :])
                in_step, step_total = positions_over_ranks(count, self.device)
                positions.append(total + in_step)
                total, offset = total + step_total, offset + 1
                bar.advance(step_total)
        return torch.cat(found), torch.cat(positions)

    def _sensitivity(self, model: SpeechTokenizerModel, iteration: int) -> torch.Tensor:
        """Mean of gg' (D, D) over vectors of the next steps, g the gradient of the text's loss."""
        width = model.config.d_model
        total = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        count, offset = torch.zeros((), dtype=torch.float64, device=self.device), 0
        most_steps = -(-len(self.train) // self.samples_per_step)
        while count < _GRADIENTS_PER_DIMENSION * width and offset < most_steps:
            own, own_count = torch.zeros_like(total), torch.zeros_like(count)
            for batch in self.batches(iteration + offset):
                with torch.no_grad():
                    hidden, valid, *_ = model.encoder.lower(batch.mel, batch.mel_lengths)
                hidden = hidden.float().requires_grad_()
                logits = model.decoder(
                    batch.decoder_input, model.encoder.upper(hidden, valid), valid
                )
                loss = text_loss(logits, batch.labels, "sum")
                gradients = torch.autograd.grad(loss, hidden)[0][valid].double()
                own += gradients.T @ gradients
                own_count += len(gradients)
            total += all_reduce_sum(own)
            count += all_reduce_sum(own_count)
            offset += 1
        return total / count

    def _quantizes(self, model: SpeechTokenizerModel, iteration: int) -> bool:
        present = self.config.quantize and model.encoder.quantizer is not None
        return present and iteration >= self.config.quantize_start_step

    @property
    def _commitment_weight(self) -> float:
        config = self.train.config
        return config.quantize_loss_scale * config.quantize_commit_coefficient


def ctc_loss(logits: torch.Tensor, valid: torch.Tensor, targets: list[list[int]]) -> torch.Tensor:
    """Mean CTC loss per target token: logits (B, T, V + 1), blank last, valid frames (B, T).

    Clips with fewer frames than their text needs contribute nothing.
    """
    log_probabilities = logits.float().log_softmax(dim=-1).transpose(0, 1)
    flat = torch.tensor([token for target in targets for token in target])
    sizes = torch.tensor([len(target) for target in targets])
    flat, sizes = (value.to(logits.device, non_blocking=True) for value in (flat, sizes))
    blank = logits.shape[-1] - 1
    return F.ctc_loss(
        log_probabilities, flat, valid.sum(dim=1), sizes, blank=blank, zero_infinity=True
    )
