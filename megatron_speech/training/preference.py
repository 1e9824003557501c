"""Direct preference optimization (Rafailov et al., arXiv 2305.18290, equation 7).

    loss = -log sigmoid(beta ((log p(better) - log q(better)) - (log p(worse) - log q(worse))))

p is the model, q the reference it started from; an answer's log-probability is the sum over its
tokens. Of the better answer, the mean loss of a token may be added, so that it does not become less
likely together with the worse one (Pang et al., arXiv 2404.19733, equation 2).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

PREFERENCE_METRICS = ("lm loss", "reward accuracy", "reward margin", "better loss")
"""Mean over pairs: the loss; how often the better answer has the higher reward, and by how much;
the mean loss of its tokens."""


def preference_loss(
    log_probabilities: Float[Tensor, " n"],
    mask: Float[Tensor, " n"],
    pairs: Int64[Tensor, " n"],
    reference: Float[Tensor, " n"],
    beta: float,
    nll_weight: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses of pairs, their number, and each of `PREFERENCE_METRICS` x [sum, pairs].

    `log_probabilities` are those of the tokens of a batch, 0 where `mask` is; `pairs` and
    `reference` as `Batch` has them. The difference of rewards is `beta` times the bracket above;
    `nll_weight` is the factor of the better answer's mean loss.
    """
    number = pairs.abs()
    sums = log_probabilities.new_zeros(len(pairs) + 1)
    present = torch.zeros_like(sums).index_fill(0, number, 1.0)
    present[0] = 0.0  # what belongs to no pair
    sums = sums.index_add(0, number, pairs.sign() * log_probabilities - reference)
    margins = beta * sums
    better = (pairs > 0) * mask
    tokens = torch.zeros_like(margins).index_add(0, number, better)
    likely = torch.zeros_like(margins).index_add(0, number, better * log_probabilities)
    negative = -likely / tokens.clamp(min=1.0)
    losses = (softplus(-margins) + nll_weight * negative) * present
    count = present.sum()
    with torch.no_grad():
        right = ((margins > 0) * present).sum()
        margin = (margins * present).sum()
        totals = (losses.sum(), right, margin, (negative * present).sum())
        report = torch.stack([value for each in totals for value in (each, count)]).double()
    return losses.sum(), count.int(), report
