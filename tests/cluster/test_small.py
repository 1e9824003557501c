"""What is said to fit on one GPU: the table of the documentation, and what it must not say."""

from pathlib import Path

import pytest

from megatron_speech.cluster.small import CARDS, fit, table, ways
from megatron_speech.recipes.lm_recipes import RECIPES

PLANNING = Path(__file__).resolve().parents[2] / "docs" / "planning.md"


@pytest.fixture(scope="module")
def fits():
    return {(way.recipe, way.flags): [fit(way, card) for card in CARDS] for way in ways()}


def test_the_documentation_shows_the_table():
    shown = PLANNING.read_text()
    for row in table():
        assert "| " + " | ".join(row) + " |" in shown


def test_what_fits_is_smaller_than_the_card(fits):
    for cells in fits.values():
        for cell in cells:
            peak = cell.layout.memory.peak
            assert cell.layout.fits == (peak <= 1e9 * cell.card_gb - 2**30)
            assert cell.shown().startswith("-") == (not cell.layout.fits)


def test_adapters_keep_no_state_of_the_model(fits):
    for name in ("lm-0.6b", "lm-1.7b"):
        full, lora = fits[name, ""][2], fits[name, "`--lora-rank 32 --lora-train-embedding`"][2]
        assert lora.layout.memory.optimizer < full.layout.memory.optimizer / 10
        assert lora.layout.memory.gradients < full.layout.memory.gradients / 10
        weights = full.layout.memory.weights
        assert weights < lora.layout.memory.weights < 1.1 * weights
        precise = fits[name, "`--use-precision-aware-optimizer`, gradients and moments in bf16"][2]
        assert precise.layout.memory.optimizer * 2 == full.layout.memory.optimizer
        assert precise.layout.memory.gradients * 2 == full.layout.memory.gradients


@pytest.mark.parametrize(
    ("recipe", "parameters"), [("lm-0.6b", 596_049_920), ("lm-1.7b", 1_720_574_976)]
)
def test_shapes_are_those_of_qwen3(recipe, parameters):
    """By the sizes of the released weights, embedding tied, 151,936 rows."""
    model = RECIPES[recipe]().model
    assert model.num_parameters(151_936) == parameters
