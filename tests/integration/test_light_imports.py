"""What a package may import, proved in a fresh process in which every other import fails."""

import subprocess
import sys

import pytest

PRELUDE = """
import sys
class Blocked:
    def __init__(self, allowed, own): self.allowed, self.own = allowed, own
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top == "scale_rlhf":
            allowed = any(name == o or o.startswith(name + ".") or name.startswith(o + ".") for o in self.own)
        else:
            allowed = top in sys.stdlib_module_names or top in self.allowed or top.startswith("_sysconfigdata")
        if not allowed:
            raise ImportError("blocked: " + name)
"""

ALGORITHMS = """
import torch  # with all that it brings itself; from here on nothing else
sys.meta_path.insert(0, Blocked({"torch"}, {"scale_rlhf.algorithms"}))
for name in [n for n in sys.modules if n.split(".")[0] in ("numpy", "transformers", "ray", "vllm", "deepspeed")]:
    sys.modules[name] = None
from scale_rlhf.algorithms import advantages, aggregation, cispo, corrections, ensembles, estimators, gspo, kl, losses, masking
from scale_rlhf.algorithms import overoptimisation, preference, rewards, statistics
overoptimisation.parting([overoptimisation.Point(0, 0.0, 0.0, 0.0)])
x, mask, ids = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3).bool(), torch.tensor([0, 0])
moments = statistics.masked_moments(x, mask)
statistics.mean_and_variance(*moments)
statistics.whiten(x, mask)
statistics.explained_variance(statistics.explained_variance_moments(x, x, mask))
advantages.generalized_advantage_estimation(x, x, mask, gamma=1.0, lam=1.0)
advantages.reinforce_plus_plus(x, mask, gamma=1.0)
advantages.group_relative(x[:, 0], ids, scale_by_std=True)
advantages.leave_one_out(x[:, 0], ids)
rewards.token_rewards(x, x, x[:, 0], mask, coefficient=0.1, kind="k3")
kl.AdaptiveKLController(0.1, 1.0, 10).update(1.0, 1)
corrections.truncated_importance_weights(x, x, mask, cap=2.0)
losses.ppo_metrics(x, x, x, mask, clip_low=0.2, clip_high=0.2)
loss = losses.ppo_policy_loss(x, x, x, mask, clip_low=0.2, clip_high=0.2) + losses.value_loss(x, x, x, mask, clip=0.2)
loss = loss + preference.plackett_luce_loss(x, x, mask) + preference.rating_loss(x, x, mask) + preference.binary_loss(x, x, mask)
loss = loss + ensembles.combined(ensembles.mixed(x, x[0])[None], "mean").sum()
(loss + losses.pairwise_reward_loss(x[:, 0], x[:, 1])).backward()
"""

CONFIG = """
sys.meta_path.insert(0, Blocked(
    {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "yaml", "_yaml"},
    {"scale_rlhf.config", "scale_rlhf.errors", "scale_rlhf.redaction"},
))
import importlib, pkgutil
import scale_rlhf.config as config
for module in pkgutil.walk_packages(config.__path__, "scale_rlhf.config."):
    importlib.import_module(module.name)
assert "torch" not in sys.modules
"""

LIGHT = """
sys.meta_path.insert(0, Blocked(set(), {"scale_rlhf"}))
import scale_rlhf
assert scale_rlhf.__version__
heavy = {"torch", "ray", "vllm", "deepspeed", "transformers", "trl", "datasets", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def _run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("code", [ALGORITHMS, CONFIG, LIGHT], ids=["algorithms", "config", "scale_rlhf"])
def test_imports_with_the_rest_blocked(code):
    done = _run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [
    ALGORITHMS + "import numpy",
    ALGORITHMS + "import scale_rlhf.experience.packing",
    CONFIG + "import torch",
    LIGHT + "import ray",
])
def test_the_block_blocks(code):
    done = _run(code)
    assert done.returncode != 0 and ("blocked" in done.stderr or "ModuleNotFoundError" in done.stderr), done.stderr
