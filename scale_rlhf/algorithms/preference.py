"""Losses of a reward model on what raters say other than "this one of the two": comparisons, rankings, ratings, good or bad.

Pairs have `losses.pairwise_reward_loss`. Leading dimensions are free: [batch, aspects, …]. mask: True where a rater judged;
what stands behind it, NaN too, changes nothing. `denominator`: the sum is divided by it; None is the mean over what counts.
"""

import torch
from torch.nn import functional

from scale_rlhf.algorithms.masking import divided_sum, visible


def comparison_loss(
    scores: torch.Tensor, ratings: torch.Tensor, mask: torch.Tensor, *, minimum_gap: float = 0.0, margin: bool = False,
    denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """−log σ(s_i − s_j − m) of every pair with r_i > r_j, at least minimum_gap apart (Bradley–Terry); m: r_i − r_j, or 0.

    scores, ratings, mask: [..., K]. All pairs of the responses to one prompt together, so that each response is read once
    (Ouyang et al. 2022, section 3.5). A pair is what counts.
    """
    mask = mask.bool()
    scores, ratings = visible(scores, mask), visible(ratings, mask)
    gap = ratings[..., :, None] - ratings[..., None, :]
    told = told_apart(ratings, mask, minimum_gap)
    ahead = visible(scores[..., :, None] - scores[..., None, :] - (gap if margin else 0.0), told)
    return divided_sum(-functional.logsigmoid(ahead), told, denominator)


def told_apart(ratings: torch.Tensor, mask: torch.Tensor, minimum_gap: float) -> torch.Tensor:
    """[..., K, K]: whether i is rated above j, by at least minimum_gap. ratings, mask: [..., K]."""
    gap = ratings[..., :, None] - ratings[..., None, :]
    return mask[..., :, None] & mask[..., None, :] & (gap > 0) & (gap >= minimum_gap)


def plackett_luce_loss(
    scores: torch.Tensor, ranks: torch.Tensor, mask: torch.Tensor, *, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """−log Π_i e^{s_i} / Σ_{j not yet placed} e^{s_j}, best first (Plackett 1975; Luce 1959; as a loss Xia et al. 2008).

    scores, ranks, mask: [..., K]. Rank 1 is the best; equal ranks are a tie. Of a tie of d responses the l-th term
    (l = 0 … d − 1) has the denominator Σ_later e^s + (1 − l/d) Σ_tied e^s, and log d! is taken off (Efron 1977):
    the chance of all orders of the tied ones together, exact where they score the same. A tie of two alone is then
    2 log cosh(Δ/2), 0 at Δ = 0: it pulls them together. Two responses without a tie are Bradley–Terry.

    A ranking counts where at least two of its responses are judged; each counts once, whatever its length.
    """
    mask = mask.bool()
    scores, ranks = visible(scores, mask), visible(ranks, mask)
    both = mask[..., :, None] & mask[..., None, :]
    tied = both & (ranks[..., :, None] == ranks[..., None, :])
    place = tied.tril(-1).sum(-1).to(scores.dtype)  # l of each response: the tied ones before it in the row
    share = tied * (place / tied.sum(-1).clamp(min=1))[..., None]
    left = both & (ranks[..., None, :] >= ranks[..., :, None])
    left = left | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)  # nothing may be empty, behind the mask too
    terms = torch.where(left, scores[..., None, :] + torch.log1p(-share), -torch.inf).logsumexp(-1) - scores
    terms = terms - torch.log1p(place)
    return divided_sum(visible(terms, mask).sum(-1), mask.sum(-1) > 1, denominator)


def rating_loss(
    scores: torch.Tensor, ratings: torch.Tensor, mask: torch.Tensor, *, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """(s − r)², the score being the rating itself (HelpSteer2, Wang et al. 2024). All tensors are [...]."""
    mask = mask.bool()
    return divided_sum((visible(scores, mask) - visible(ratings, mask)).square(), mask, denominator)


def binary_loss(
    scores: torch.Tensor, good: torch.Tensor, mask: torch.Tensor, *, denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """−log σ(s) of a good response, −log σ(−s) of a bad one: logistic regression. good: above ½ means good. All are [...]."""
    mask = mask.bool()
    signed = torch.where(visible(good, mask) > 0.5, 1.0, -1.0).to(scores.dtype) * visible(scores, mask)
    return divided_sum(-functional.logsigmoid(signed), mask, denominator)
