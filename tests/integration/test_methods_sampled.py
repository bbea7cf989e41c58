"""Every method from samples on the three-token task, without engine and roles: the same model, optimizer, advantages and loss.

Seconds a method where `test_ppo_optimum.py` takes minutes: it says how far sampling alone leaves a method from π*.
"""

import numpy as np
import pytest
import torch

from scale_rlhf.algorithms.aggregation import divisor, token_weights
from scale_rlhf.algorithms.estimators import Outcome
from scale_rlhf.algorithms.rewards import token_rewards
from scale_rlhf.algorithms.statistics import whiten
from scale_rlhf.config.methods import ADVANTAGES
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.training.batch import minibatches
from scale_rlhf.training.deepspeed_config import learning_rate_factor
from scale_rlhf.training.methods import estimator, policy_loss
from tests.integration import three_tokens as task
from tests.integration.test_ppo_optimum import METHODS, method_config
from tests.tiny import tiny_policy

ROWS = torch.tensor([[*task.PROMPT, *sequence] for sequence in task.SEQUENCES])
REWARDS = torch.tensor([task.TABLE[sequence] for sequence in task.SEQUENCES], dtype=torch.float32)


def token_logprobs(model) -> torch.Tensor:
    """Of all sequences: [sequences, tokens]."""
    logits = torch.log_softmax(model(ROWS).logits, -1)[:, len(task.PROMPT) - 1 : -1]
    return logits.gather(-1, ROWS[:, len(task.PROMPT) :, None])[..., 0]


def batch_advantages(config: RunConfig, picked, before, reference) -> torch.Tensor:
    """Of the picked sequences: [batch, tokens], weighted by ppo.aggregation."""
    ppo = config.ppo
    mask = torch.ones(len(picked), task.LENGTH, dtype=torch.bool)
    rewards = token_rewards(before[picked], reference[picked], REWARDS[picked], mask, coefficient=ppo.kl_coefficient)
    most = int(before.sum(-1).argmax())
    greedy = REWARDS[most] - ppo.kl_coefficient * (before - reference)[most].sum()
    groups = torch.arange(len(picked)) // ppo.responses_per_prompt
    advantages = estimator(ppo)(Outcome(rewards, mask, groups, greedy.expand(len(picked))))
    if ADVANTAGES[ppo.advantages].whitens and ppo.whiten_advantages:
        advantages = whiten(advantages, mask)
    return advantages * token_weights(mask, ppo.aggregation, longest=config.rollout.max_response_tokens)


def learn(config: RunConfig, model) -> None:
    ppo, section, random = config.ppo, config.policy, np.random.default_rng(0)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=section.learning_rate, betas=section.betas, eps=section.epsilon, weight_decay=0.0)
    factor = learning_rate_factor(section, ppo.steps * ppo.epochs * ppo.minibatches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    reference, (loss_of, _) = token_logprobs(model).detach(), policy_loss(ppo)
    size = ppo.prompts_per_step * ppo.responses_per_prompt
    for version in range(ppo.steps):
        before = token_logprobs(model).detach()
        probability = before.double().sum(-1).exp().numpy()
        picked = torch.from_numpy(random.choice(len(ROWS), size, p=probability / probability.sum()))
        advantages = batch_advantages(config, picked, before, reference)
        for places in minibatches(size, ppo.minibatches, seed=0, version=version, epoch=0):
            count = divisor(task.LENGTH * len(places), len(places), ppo.aggregation)
            rows = picked[places]
            mask = torch.ones(len(places), task.LENGTH, dtype=torch.bool)
            loss_of(token_logprobs(model)[rows], before[rows], advantages[places], mask, denominator=count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), section.max_gradient_norm)
            optimizer.step(), optimizer.zero_grad(), schedule.step()


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_method_reaches_the_optimum_from_samples(tmp_path, method):
    from transformers import AutoModelForCausalLM

    path = tiny_policy(tmp_path / "start", vocabulary=task.SYMBOLS, tied=False, tokenizer=False)
    optimum = task.optimum(task.distribution(path))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    learn(method_config(METHODS[method], {}), model)
    with torch.no_grad():
        far = task.total_variation(token_logprobs(model).double().sum(-1).exp().numpy(), optimum)
    print(method, "total variation", far)
    assert far < 0.05
