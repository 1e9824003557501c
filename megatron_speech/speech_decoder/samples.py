"""Samples of a training for TensorBoard: sounds to listen to, spectrograms to look at."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dataset import DecoderDataset
from .flow import FlowModel, FlowState
from .mel import SAMPLE_RATE_HZ, griffin_lim, log_mel
from .vocoder import Vocoder

_SAMPLES = 3


class SampleBoard:
    """Writes into a run's TensorBoard folder, beside the loop's own figures."""

    def __init__(self, run: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._board: Any = SummaryWriter(run / "tensorboard", filename_suffix=".samples")

    def sound(self, name: str, audio: Tensor, iteration: int) -> None:
        """Mono audio (n,)."""
        limited = audio.detach().float().cpu().clamp(-1, 1)
        self._board.add_audio(name, limited[None], iteration, sample_rate=SAMPLE_RATE_HZ)

    def picture(self, name: str, mels: dict[str, Tensor], iteration: int) -> None:
        """Log-mels (mels, frames), one above the other, with their names."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 2.2 * len(mels)), layout="constrained")
        FigureCanvasAgg(figure)
        for axis, (title, mel) in zip(
            figure.subplots(len(mels), 1, squeeze=False)[:, 0], mels.items(), strict=True
        ):
            values = mel.detach().float().cpu().numpy()
            axis.imshow(values, origin="lower", aspect="auto", vmin=-11.5, vmax=2)
            axis.set_title(title, fontsize=9)
            axis.set_ylabel("mel band")
        self._board.add_figure(name, figure, iteration)

    def close(self) -> None:
        """Flush and close."""
        self._board.close()


class FlowSamples(SampleBoard):
    """Held-out recordings as the model under training speaks them."""

    def __init__(self, run: Path, vocoder: Vocoder | None):
        super().__init__(run)
        self._vocoder = vocoder.eval() if vocoder is not None else None

    def write(self, model: FlowModel, valid: DecoderDataset, iteration: int) -> None:
        """Sound and picture of the first few recordings; Griffin-Lim where there is no vocoder."""
        config = model.config
        device = model.embedding.weight.device
        for number, item in enumerate(valid.get(range(min(len(valid), _SAMPLES)))[0]):
            codes = torch.from_numpy(item.codes)[None].to(device)
            made = model.sample(codes, FlowState(), 0, 0, config.sampling).T
            _, guess = model.condition(codes, config.frames_until(codes.shape[1]))
            real = torch.from_numpy(item.excerpt(0, len(item.audio)))
            mels = {
                "recording": log_mel(real[None])[0],
                "first guess": guess[0].T * config.mel_std + config.mel_mean,
                "decoded": made,
            }
            self.picture(f"mel/{number}", mels, iteration)
            if self._vocoder is not None:
                self._vocoder.to(device)
                audio = self._vocoder(made[None])[0]
            else:
                audio = griffin_lim(made)
            self.sound(f"decoded/{number}", audio, iteration)
            self.sound(f"recording/{number}", real, iteration)
