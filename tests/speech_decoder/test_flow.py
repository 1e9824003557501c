from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from megatron_speech.speech_decoder.config import FlowSamplingConfig
from megatron_speech.speech_decoder.flow import FlowInputs, FlowState, block_noise, step_times
from tests.speech_decoder.tiny_decoder import NUM_CODES, random_codes, tiny_flow

BLOCK = 10


def sample(flow, codes: np.ndarray, **changes) -> torch.Tensor:
    sampling = changes.get("sampling", flow.config.sampling)
    rows = torch.from_numpy(codes)[None]
    return flow.sample(
        rows, FlowState(), changes.get("seed", 0), changes.get("speaker", 0), sampling
    )


def test_later_blocks_change_nothing_and_the_own_block_does():
    flow, codes = tiny_flow(), random_codes(45)
    changed = codes.copy()
    changed[29] = (changed[29] + 1) % NUM_CODES
    one, other = sample(flow, codes), sample(flow, changed)
    before = flow.config.frames_until(20)
    torch.testing.assert_close(one[:before], other[:before], atol=1e-5, rtol=0)
    own = (one - other)[before : flow.config.frames_until(30)].abs().amax(dim=1)
    assert (own > 1e-4).all()  # attention within a block goes both ways


def test_padding_changes_nothing():
    flow = tiny_flow()
    codes = torch.from_numpy(np.stack([random_codes(33), random_codes(33, seed=1)]))
    frames = flow.config.frames_until(33)
    short, few = 14, flow.config.frames_until(14)
    lengths = (torch.tensor([33, short]), torch.tensor([frames, few]))
    hidden, guess = flow.condition(codes, frames, lengths=lengths)
    alone, guess_alone = flow.condition(codes[1:, :short], few)
    torch.testing.assert_close(guess[1:, :few], guess_alone, atol=1e-5, rtol=1e-5)
    x, t = torch.randn(2, frames, 80), torch.tensor([0.3, 0.6])
    valid = torch.arange(frames) < lengths[1][:, None]
    together = flow.destination(x, t, hidden, guess, valid=valid)
    single = flow.destination(x[1:, :few], t[1:], alone, guess_alone)
    torch.testing.assert_close(together[1:, :few], single, atol=1e-4, rtol=1e-4)
    assert together.isfinite().all()


@pytest.mark.parametrize("lookback", [0, 2])
def test_cost_and_memory_of_a_block_do_not_grow(lookback: int):
    flow = tiny_flow(lookback_blocks=lookback)
    state, flops, kept = FlowState(), {}, {}
    codes = torch.from_numpy(random_codes(BLOCK))[None]
    for block in range(1, 101):
        counter = FlopCounterMode(display=False) if block in (5, 100) else nullcontext()
        with counter:
            flow.sample(codes, state, 0, 0, flow.config.sampling)
        if block not in (5, 100):
            continue
        flops[block] = counter.get_total_flops()
        stacks = [state.encoder, state.regulator, *state.steps]
        kept[block] = sum(
            tensor.numel()
            for stack in stacks
            for layer in stack.layers
            for tensor in (layer.conv, layer.keys, layer.values)
        )
    assert flops[5] > 0
    assert flops[100] <= 1.03 * flops[5]  # a block has 68 or 69 frames
    assert kept[100] <= 1.03 * kept[5]


def test_look_back_is_bounded():
    """Layers and Euler steps add up, but beyond all of them nothing is left of a code.

    Without convolutions, each of which reaches into the next block.
    """
    one_layer = {"encoder_layers": 1, "flow_layers": 1, "conv_kernel_size": 1}
    flow = tiny_flow(lookback_blocks=1, **one_layer)
    codes = random_codes(80)
    changed = codes.copy()
    changed[0] = (changed[0] + 1) % NUM_CODES
    difference = (sample(flow, codes) - sample(flow, changed)).abs().amax(dim=1)
    layers = 1 + 1 + flow.config.sampling.euler_steps
    reach = flow.config.frames_until((1 + layers) * BLOCK)
    assert difference[: flow.config.frames_until(BLOCK)].min() > 1e-5
    assert difference[reach:].max() < 1e-6


def test_noise_belongs_to_frames():
    config = tiny_flow().config
    whole = block_noise(0, 200, config, seed=5)
    border = config.frames_until(BLOCK)
    parts = [block_noise(0, border, config, 5), block_noise(border, 200, config, 5)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, block_noise(0, 200, config, seed=6))
    assert abs(whole.mean()) < 0.05
    assert abs(whole.std() - 1) < 0.05


def test_sampling_settings_do_what_they_say():
    flow, codes = tiny_flow(), random_codes(12)
    assert step_times(FlowSamplingConfig(euler_steps=4, time_schedule="linear")) == [
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    cosine = step_times(FlowSamplingConfig(euler_steps=4))
    assert (cosine[0], cosine[-1]) == (0, pytest.approx(1))
    assert np.diff(cosine).tolist() == sorted(np.diff(cosine))
    plain, cold = (
        FlowSamplingConfig(guidance=0.0),
        FlowSamplingConfig(guidance=0.0, temperature=0.0),
    )
    assert not torch.equal(sample(flow, codes, sampling=plain), sample(flow, codes))
    one, two = (sample(flow, codes, sampling=cold, seed=seed) for seed in (1, 2))
    assert torch.equal(one, two)  # no noise, no seed
    assert not torch.equal(sample(flow, codes, seed=1), sample(flow, codes, seed=2))


def test_speakers_have_voices():
    flow, codes = tiny_flow(speakers=("ann", "bob")), random_codes(12)
    voices = [sample(flow, codes, speaker=number) for number in range(3)]
    assert (voices[0] - voices[1]).abs().max() > 1e-3
    assert (voices[1] - voices[2]).abs().max() > 1e-3


def test_the_flow_learns_a_mel_that_a_guess_cannot():
    """Two equally likely spectrograms for one code: a mean is far from both, a sample near one."""
    torch.manual_seed(0)
    flow = tiny_flow(encoder_layers=1, regulator_layers=0, flow_layers=1).train()
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(0)
    frames = flow.config.frames_until(2)
    for _ in range(150):
        sign = torch.randint(0, 2, (32, 1, 1), generator=random) * 2.0 - 1
        inputs = FlowInputs(
            codes=torch.zeros(32, 2, dtype=torch.int64),
            code_lengths=torch.full((32,), 2),
            mel=sign.expand(-1, frames, 80).contiguous(),
            frame_lengths=torch.full((32,), frames),
            speakers=torch.zeros(32, dtype=torch.int64),
            noise=torch.randn(32, frames, 80, generator=random),
            times=torch.rand(32, generator=random),
            kept=torch.ones(32, dtype=torch.bool),
        )
        losses = flow(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    flow.eval()
    sampling = FlowSamplingConfig(euler_steps=12, guidance=0.0)
    made = [sample(flow, np.zeros(2, np.int64), seed=s, sampling=sampling) for s in range(12)]
    means = torch.stack([(m.mean() - flow.config.mel_mean) / flow.config.mel_std for m in made])
    _, guess = flow.condition(torch.zeros(1, 2, dtype=torch.int64), frames)
    assert guess.abs().mean() < 0.4
    assert (means.abs() > 0.6).float().mean() > 0.7  # few lie in between, where none is likely
    assert means.min() < 0 < means.max()
