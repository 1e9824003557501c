import pytest
import torch

from megatron_speech.errors import ConfigError
from megatron_speech.speech_decoder.discriminators import (
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from megatron_speech.speech_decoder.mel import log_mel
from megatron_speech.speech_decoder.vocoder_objective import (
    VocoderInputs,
    VocoderObjectiveConfig,
    VocoderTraining,
    stft_loss,
)
from tests.speech_decoder.tiny_decoder import tiny_vocoder


def make() -> tuple[VocoderTraining, VocoderInputs]:
    config = VocoderObjectiveConfig(
        gan_width=0.03, mel_loss_weight=0.0, stft_loss_weight=0.0, feature_loss_weight=2.0
    )
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(2, 4096)
    return VocoderTraining(tiny_vocoder(), config), VocoderInputs(audio, log_mel(audio))


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def test_one_backward_pass_teaches_both_sides_as_two_would():
    model, batch = make()
    model(batch, adversarial=True)[0].backward()
    together = gradients(model)

    made = model.vocoder(batch.mel)
    for weight in model.judges.parameters():
        weight.requires_grad_(False)
    real, fake = model.judges(batch.audio), model.judges(made)
    (adversarial_loss(fake) + 2 * feature_loss(real, fake)).backward()
    for weight in model.judges.parameters():
        weight.requires_grad_(True)
    discriminator_loss(model.judges(batch.audio), model.judges(made.detach())).backward()
    apart = gradients(model)
    assert together.keys() == apart.keys()
    assert any(name.startswith("judges") for name in apart)
    for name, value in apart.items():
        torch.testing.assert_close(together[name], value, atol=1e-6, rtol=1e-4)


def test_judges_are_left_out_until_their_step():
    model, batch = make()
    total, parts = model(batch, adversarial=False)
    assert set(parts) == {"mel loss", "stft loss"}
    assert total.item() == 0  # both weights are 0


def test_spectral_distance_grows_with_what_is_changed():
    _, batch = make()
    same = stft_loss(batch.audio, batch.audio)
    near = stft_loss(0.9 * batch.audio, batch.audio)
    far = stft_loss(torch.randn_like(batch.audio), batch.audio)
    assert same < 1e-6 < near < far


def test_bad_settings():
    with pytest.raises(ConfigError, match="--crop-frames"):
        VocoderObjectiveConfig(crop_frames=8)
