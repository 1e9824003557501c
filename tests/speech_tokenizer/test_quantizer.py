from dataclasses import replace

import pytest
import torch

from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer.projected import ProjectedVectorQuantizer
from megatron_speech.speech_tokenizer.quantizer import VectorQuantizer, choose_vectors, perplexity


def make(config, **changes) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(replace(config, **changes))


def test_gradient_goes_straight_through(tiny_config):
    quantizer = make(tiny_config)
    hidden = torch.randn(2, 5, 32, requires_grad=True)
    valid = torch.ones(2, 5, dtype=torch.bool)
    result = quantizer(hidden, valid)
    torch.testing.assert_close(result.vectors, quantizer.lookup(result.codes))
    weights = torch.randn(2, 5, 32)
    (result.vectors * weights).sum().backward()
    torch.testing.assert_close(hidden.grad, weights)
    assert quantizer.codebook.weight.grad is None


def test_commitment_pulls_vectors_and_ignores_padding(tiny_config):
    quantizer = make(tiny_config)
    hidden = torch.randn(1, 4, 32, requires_grad=True)
    valid = torch.tensor([[True, True, False, False]])
    result = quantizer(hidden, valid)
    result.commitment_loss.backward()
    expected = 2 * (hidden - quantizer.lookup(result.codes)).detach() / (2 * 32)
    torch.testing.assert_close(hidden.grad[:, :2], expected[:, :2])
    assert hidden.grad[:, 2:].abs().max() == 0
    assert result.codes[0, 2:].tolist() == [0, 0]


def test_one_update_by_hand(tiny_config):
    quantizer = make(tiny_config, quantize_ema_decay=0.5, quantize_restart_interval=None)
    before = quantizer.codebook.weight.clone()
    vector = before[3] + 0.01
    hidden = torch.stack([vector, vector, torch.full((32,), 1e6)])[None]
    quantizer(hidden, torch.tensor([[True, True, False]]))
    quantizer.update(1)
    # count 0.5 * 1 + 0.5 * 2 = 1.5, sum 0.5 * code + 0.5 * 2 * vector
    expected = (0.5 * before[3] + vector) / 1.5
    torch.testing.assert_close(quantizer.codebook.weight[3], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quantizer.codebook.weight[4], before[4], rtol=1e-4, atol=1e-4)
    assert quantizer.ema_count.sum().item() == pytest.approx(0.5 * 64 + 0.5 * 2)


def test_evaluation_gathers_nothing(tiny_config):
    quantizer = make(tiny_config).eval()
    before = quantizer.codebook.weight.clone()
    quantizer(torch.randn(1, 9, 32), torch.ones(1, 9, dtype=torch.bool))
    quantizer.train().update(1)
    torch.testing.assert_close(quantizer.codebook.weight, before, rtol=1e-3, atol=1e-4)


def test_a_step_that_is_not_finite_does_not_spoil_the_codebook(tiny_config):
    good = torch.randn(1, 9, 32)
    bad = torch.cat([good, torch.full((1, 3, 32), float("nan"))], dim=1)
    books = []
    for hidden in (good, bad):
        quantizer = make(tiny_config).train()
        quantizer(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))
        quantizer.update(1)
        books.append(quantizer.codebook.weight)
    assert torch.equal(*books)


def test_dead_codes_restart_at_vectors_of_the_step(tiny_config):
    quantizer = make(tiny_config, quantize_restart_interval=3, quantize_restart_threshold=0.98)
    quantizer.codebook.weight.data += 100.0  # far away: one code takes all
    quantizer.ema_weight += 100.0
    hidden = torch.randn(4, 50, 32)
    restarted = []
    for step in range(1, 4):
        quantizer(hidden, torch.ones(4, 50, dtype=torch.bool))
        restarted.append(quantizer.update(step).get("codes restarted"))
    assert restarted[:2] == [None, None]
    assert restarted[2] >= 62
    distance = torch.cdist(quantizer.codebook.weight, hidden.reshape(-1, 32)).amin(dim=1)
    assert (distance < 1e-2).sum() >= 62
    assert (quantizer.ema_count == 1).sum() >= 62


def test_by_default_an_unused_code_restarts_at_the_second_interval(tiny_config):
    """Smoothed counts are compared, as in the released code: after 100 steps with nothing the count
    is above 0.99^100 by what the smoothing added."""
    quantizer = make(tiny_config, quantize_vocab_size=4)
    vectors = quantizer.codebook.weight[:2].repeat(62, 1)[None]  # 31 a code on average
    restarted = {}
    for step in range(1, 201):
        quantizer(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))
        found = quantizer.update(step).get("codes restarted")
        if found is not None:
            restarted[step] = found
        if step == 100:
            added = quantizer.ema_count[2:] - 0.99**100
            assert ((added > 0) & (added < 1e-3)).all()
    assert restarted == {100: 0, 200: 2}


def test_dropped_statistics_move_nothing(tiny_config):
    quantizer = make(tiny_config, quantize_restart_interval=None)
    quantizer(torch.full((1, 9, 32), 1e30), torch.ones(1, 9, dtype=torch.bool))
    quantizer.drop()
    vectors = torch.randn(1, 9, 32)
    books = [quantizer, make(tiny_config, quantize_restart_interval=None)]
    for one in books:
        one(vectors, torch.ones(1, 9, dtype=torch.bool))
        one.update(1)
    assert torch.equal(books[0].codebook.weight, books[1].codebook.weight)


def test_kmeans_lowers_the_distortion(tiny_config):
    torch.manual_seed(1)
    vectors = (10 * torch.randn(64, 1, 32) + torch.randn(64, 20, 32)).reshape(-1, 32)

    def distortion(codebook: torch.Tensor) -> float:
        return torch.cdist(vectors, codebook).amin(dim=1).square().mean().item()

    quantizer = make(tiny_config)
    quantizer.initialise(vectors, seed=0, rounds=10)
    assert distortion(quantizer.codebook.weight) < 0.7 * distortion(choose_vectors(vectors, 64, 0))
    torch.testing.assert_close(
        quantizer.ema_weight / quantizer.ema_count[:, None], quantizer.codebook.weight
    )
    with pytest.raises(ConfigError, match="cannot fill 64 codes"):
        quantizer.initialise(vectors[:10])


def test_chosen_vectors_do_not_repeat():
    vectors = torch.arange(20.0)[:, None]
    chosen = choose_vectors(vectors, 20, seed=3).flatten()
    assert sorted(chosen.tolist()) == list(range(20))
    assert choose_vectors(vectors, 99, seed=3).shape == (20, 1)


def test_perplexity():
    assert perplexity(torch.tensor([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2.0)


def _projected(config, **changes) -> ProjectedVectorQuantizer:
    torch.manual_seed(0)
    return ProjectedVectorQuantizer(replace(config, quantize_code_dim=2, **changes))


def _felt_in_two_directions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors (4000, 32) of variance 100 but in two directions, their mean of gg' and these."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    spread = torch.full((32,), 10.0)
    spread[:2] = 1.0
    vectors = 3 + torch.randn(4000, 32, generator=generator) * spread @ basis.T
    felt = basis[:, :2]
    return vectors, felt @ torch.diag(torch.tensor([4.0, 1.0])) @ felt.T, felt


def test_directions_that_the_loss_feels_are_quantized_and_others_are_not(tiny_config):
    vectors, sensitivity, felt = _felt_in_two_directions()
    quantizer = _projected(tiny_config)
    quantizer.choose_directions(vectors, sensitivity)
    quantizer.initialise(vectors, seed=0, rounds=10)
    whole = make(tiny_config)
    whole.initialise(vectors, seed=0, rounds=10)

    def error(which: VectorQuantizer) -> float:
        apart = vectors - which.lookup(which.codes_of(vectors))
        return torch.einsum("nd,de,ne->n", apart, sensitivity, apart).mean().item()

    assert error(quantizer) < 0.05 * error(whole)
    # distances are the loss's: one direction counts four times the other
    inward = quantizer.project_in.weight @ felt
    weights = (inward.T @ inward).diag()
    assert (weights[0] / weights[1]).item() == pytest.approx(4, rel=1e-4)
    # on average projections vary as vectors do, and the way back is the least-squares fit
    codes = quantizer.inward(vectors)
    assert codes.var(dim=0).mean().item() == pytest.approx(
        vectors.var(dim=0).mean().item(), rel=1e-3
    )
    apart = vectors - quantizer.outward(codes)
    assert (codes.T @ apart / len(codes)).abs().max() < 0.05


def test_projected_codes_survive_a_step_a_gradient_and_a_file(tiny_config):
    vectors, sensitivity, _ = _felt_in_two_directions()
    quantizer = _projected(tiny_config)
    quantizer.choose_directions(vectors, sensitivity)
    quantizer.initialise(vectors)
    hidden = vectors[None, :50].clone().requires_grad_()
    result = quantizer(hidden, torch.ones(1, 50, dtype=torch.bool))
    assert torch.equal(result.codes[0], quantizer.codes_of(vectors[:50]))
    torch.testing.assert_close(result.vectors, quantizer.lookup(result.codes))
    weights = torch.randn(1, 50, 32)
    (result.vectors * weights).sum().backward(retain_graph=True)
    torch.testing.assert_close(hidden.grad, weights)
    hidden.grad = None
    result.commitment_loss.backward()  # pulls along the two directions alone
    felt = quantizer.project_in.weight
    projector = felt.T @ torch.linalg.solve(felt @ felt.T, felt)
    torch.testing.assert_close(hidden.grad[0] @ projector, hidden.grad[0], rtol=1e-3, atol=1e-6)
    quantizer.update(1)
    again = _projected(tiny_config)
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again.codes_of(vectors), quantizer.codes_of(vectors))


def test_no_directions_without_vectors_or_gradient(tiny_config):
    vectors, sensitivity, _ = _felt_in_two_directions()
    for few, felt in ((vectors[:2], sensitivity), (vectors, torch.zeros(32, 32))):
        with pytest.raises(ConfigError, match="2 directions that matter"):
            _projected(tiny_config).choose_directions(few, felt)
