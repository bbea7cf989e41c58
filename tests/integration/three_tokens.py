"""The three-token task: every sequence can be counted, so the optimum is known exactly (docs/ppo.md)."""

import itertools

import numpy as np
import torch

SYMBOLS, LENGTH, BETA = 4, 3, 0.5
PROMPT = np.asarray([0, 1], dtype=np.int32)
SEQUENCES = list(itertools.product(range(SYMBOLS), repeat=LENGTH))
TABLE = np.random.default_rng(3).normal(0.0, 0.6, size=(SYMBOLS,) * LENGTH)  # a reward for the whole sequence, not its parts


def reward(samples: list[dict]) -> list[float]:
    """The reward function that a run names by its import path."""
    return [float(TABLE[tuple(sample["response_ids"])]) for sample in samples]


def coarse_reward(samples: list[dict]) -> list[float]:
    """Whether the reward is above 0: the same for many sequences."""
    return [float(score > 0) for score in reward(samples)]


def distribution(path) -> np.ndarray:
    """Exact probability of every sequence under a saved model: float64 [SYMBOLS ** LENGTH]."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    rows = torch.tensor([[*PROMPT, *sequence] for sequence in SEQUENCES])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(rows).logits, -1)[:, len(PROMPT) - 1 : -1]
    return logprobs.gather(-1, rows[:, len(PROMPT) :, None])[..., 0].sum(-1).exp().numpy()


def optimum(reference: np.ndarray) -> np.ndarray:
    """π* ∝ π_ref · exp(r / β), which maximises E[r] − β·KL(π ‖ π_ref)."""
    weights = reference * np.exp(np.asarray([TABLE[s] for s in SEQUENCES]) / BETA)
    return weights / weights.sum()


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    return 0.5 * float(np.abs(first - second).sum())
