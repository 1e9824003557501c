"""Direct preference optimization (Rafailov et al., arXiv 2305.18290, equation 7).

    loss = -log sigmoid(beta ((log p(better) - log q(better)) - (log p(worse) - log q(worse))))

p is the model, q the reference it started from; an answer's log-probability is the sum over its
tokens.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

PREFERENCE_METRICS = ("lm loss", "reward accuracy", "reward margin")
"""Mean over pairs: the loss, how often the better answer has the higher reward, and by how much."""


def preference_loss(
    log_probabilities: Float[Tensor, " n"],
    pairs: Int64[Tensor, " n"],
    reference: Float[Tensor, " n"],
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses of pairs, their number, and [loss, accuracy, margin] x [sum, pairs].

    `log_probabilities` are those of the tokens of a batch, 0 where they do not count; `pairs` and
    `reference` as `Batch` has them. The difference of rewards is `beta` times the bracket above.
    """
    number = pairs.abs()
    sums = log_probabilities.new_zeros(len(pairs) + 1)
    present = torch.zeros_like(sums).index_fill(0, number, 1.0)
    present[0] = 0.0  # what belongs to no pair
    sums = sums.index_add(0, number, pairs.sign() * log_probabilities - reference)
    margins = beta * sums
    losses = softplus(-margins) * present
    count = present.sum()
    with torch.no_grad():
        right = ((margins > 0) * present).sum()
        margin = (margins * present).sum()
        report = torch.stack([losses.sum(), count, right, count, margin, count]).double()
    return losses.sum(), count.int(), report
