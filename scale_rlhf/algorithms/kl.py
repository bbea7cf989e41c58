"""Estimators of the KL divergence, and the controller of its coefficient."""

import math

import torch


def kl_estimate(logprobs: torch.Tensor, reference_logprobs: torch.Tensor, kind: str) -> torch.Tensor:
    """KL(π ‖ π_ref) at each sampled token, in nats; the shape of the inputs, any shape.

    With k1 = log π − log π_ref ("Approximating KL divergence", Schulman 2020):

    - "k1": unbiased, and negative at times. As a loss on the policy's own samples its expected gradient is zero.
    - "k2": k1² / 2, biased, low variance. As a loss the only one of the three with the reverse KL's gradient.
    - "k3": e^(−k1) − 1 + k1, unbiased, never negative. As a loss its gradient is that of the forward KL.

    Raises ValueError for another kind.
    """
    difference = logprobs - reference_logprobs
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * difference.square()
    if kind == "k3":
        # expm1 keeps the digits that e^x − 1 loses near 0; the clamp removes a last-bit negative.
        return (torch.expm1(-difference) + difference).clamp(min=0)
    raise ValueError(f'kind: expected "k1", "k2" or "k3", found {kind!r}')


class AdaptiveKLController:
    """KL coefficient β that moves towards a target (Ziegler et al. 2019, section 2.2).

    coefficient: β to start from, 0 or more. target: nats a *response* (KL summed over its tokens, then averaged
    over samples; a mean over tokens would make the target mean nothing). horizon: samples over which β moves.
    Raises ValueError where the target or the horizon is not above 0, or the coefficient is negative.
    """

    def __init__(self, coefficient: float, target: float, horizon: float):
        if not (math.isfinite(target) and target > 0):
            raise ValueError(f"target: expected nats a response above 0, found {target}; for no control keep β fixed")
        if not horizon > 0:
            raise ValueError(f"horizon: expected a number of samples above 0, found {horizon}")
        if not (math.isfinite(coefficient) and coefficient >= 0):
            raise ValueError(f"coefficient: expected 0 or more, found {coefficient}")
        self.coefficient, self.target, self.horizon = float(coefficient), float(target), float(horizon)

    def update(self, observed_kl: float, samples: int) -> float:
        """β ← β·(1 + clip(KL/target − 1, −0.2, 0.2)·samples/horizon). Returns the new coefficient.

        observed_kl: mean over samples of the sum over tokens, in nats. Raises ValueError where it is NaN.
        """
        observed_kl = float(observed_kl)
        if math.isnan(observed_kl):
            raise ValueError("observed_kl: expected nats a response, found NaN")
        error = min(max(observed_kl / self.target - 1, -0.2), 0.2)
        # A batch larger than 5 horizons would turn the coefficient negative.
        self.coefficient *= max(1 + error * samples / self.horizon, 0.0)
        return self.coefficient
