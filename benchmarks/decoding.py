"""Codes to sound as they come, against decoding the whole utterance at once.

    python benchmarks/decoding.py          decoder-debug's shape, this CPU
    python benchmarks/decoding.py --gpu    decoder-large's shape with HiFi-GAN, one GPU

The weights are random. Both must give the same sound before times are shown. The first sound is
that of the first block of codes; real-time factors are seconds of work for a second of sound.
"""

import statistics
import sys

import numpy as np
import torch
from common import report, sized, time_pair

from megatron_speech.recipes.speech_decoder import RECIPES
from megatron_speech.speech_decoder import SpeechDecoder
from megatron_speech.speech_decoder.flow import FlowModel
from megatron_speech.speech_decoder.stream import feed_all
from megatron_speech.speech_decoder.vocoder import HifiganVocoder, IstftVocoder, Vocoder

SECONDS, TURNS = sized(10, 2), sized(10, 2)


def main(recipe: str, vocoder: Vocoder, device: str, name: str) -> None:
    torch.manual_seed(0)
    decoder = SpeechDecoder(FlowModel(RECIPES[recipe]().model).eval(), vocoder.eval())
    decoder.flow.to(device)
    decoder.vocoder.to(device)
    count = int(SECONDS * decoder.frame_rate_hz)
    codes = np.random.default_rng(0).integers(0, decoder.num_codes, count)

    def streamed() -> tuple[list[np.ndarray], float | None]:
        return feed_all(decoder.stream(), codes)

    (found, _), expected = streamed(), decoder.decode(codes)
    apart = float(np.abs(np.concatenate(found) - expected).max() / np.abs(expected).max())
    if apart > 1e-3:
        raise SystemExit(f"streamed and whole sound differ by {apart:.1e}; no times are shown")
    times = time_pair(streamed, lambda: decoder.decode(codes), rounds=3)
    seconds = len(expected) / decoder.sample_rate_hz
    figures = times | {
        "first_sound_s": statistics.median(streamed()[1] or 0.0 for _ in range(TURNS)),
        "real_time_factor_streamed": times["ours_s"] / seconds,
        "real_time_factor_whole": times["peer_s"] / seconds,
        "largest_difference": apart,
    }
    report(name, "the same decoder, whole utterances", figures)


if __name__ == "__main__":
    if "--gpu" in sys.argv[1:]:
        if not torch.cuda.is_available():
            raise SystemExit("--gpu: torch sees no GPU here")
        hifigan = RECIPES["vocoder-hifigan"]().hifigan
        main("decoder-large", HifiganVocoder.new(hifigan), "cuda", "decoding_cuda")
    else:
        istft = RECIPES["vocoder-debug"]().istft
        main("decoder-debug", IstftVocoder(istft), "cpu", "decoding_cpu")
