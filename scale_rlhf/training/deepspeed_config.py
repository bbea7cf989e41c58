"""What DeepSpeed is told, and the optimizer and learning-rate schedule that it is given."""

import math
from collections.abc import Callable, Iterable

import torch

from scale_rlhf.config.roles import Optimisation


def deepspeed_config(role: Optimisation, hidden_size: int) -> dict:
    """DeepSpeed's configuration for a role that is trained. hidden_size: of the model; sets ZeRO-3's bucket sizes."""
    config = {
        "train_micro_batch_size_per_gpu": 1,  # not used: losses are divided by one global token count
        "gradient_accumulation_steps": 1,
        "gradient_clipping": role.max_gradient_norm,
        "zero_force_ds_cpu_optimizer": False,  # with offload torch's AdamW steps on the CPU; DeepSpeed's needs a compiler
        "zero_optimization": _zero(role, hidden_size),
        "steps_per_print": None,
    }
    if role.dtype == "bfloat16":
        if role.autocast:
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        else:
            config["bf16"] = {"enabled": True}
            config["data_types"] = {"grad_accum_dtype": "fp32"}  # micro-batches are summed: bfloat16 has 8 bits for that
    return config


def frozen_config(dtype: str, hidden_size: int) -> dict:
    """DeepSpeed's configuration for a model that is split over ranks (ZeRO 3) and never trained."""
    zero = {"stage": 3, **_stage3(hidden_size)}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, "steps_per_print": None}
    if dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
    return config


def weights_dtype(role: Optimisation) -> str:
    """Type in which the model is held: bfloat16 only where there are fp32 master weights beside it."""
    return "float32" if role.autocast else role.dtype


def optimizer(role: Optimisation, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices alone, not on norms and biases. Under ZeRO 3 shapes are those of the whole."""
    parameters = [p for p in parameters if p.requires_grad]
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    others = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [{"params": matrices, "weight_decay": role.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]] if role.weight_decay else [{"params": parameters}]
    return torch.optim.AdamW(groups, lr=role.learning_rate, betas=role.betas, eps=role.epsilon, weight_decay=role.weight_decay)


def learning_rate_factor(role: Optimisation, total_steps: int) -> Callable[[int], float]:
    """Factor on the learning rate before optimizer step 0, 1, …: linear warm-up to 1, then the schedule, 0 at the end."""

    def factor(step: int) -> float:
        if step < role.warmup_steps:
            return (step + 1) / role.warmup_steps
        if role.schedule == "constant":
            return 1.0
        done = min(1.0, (step - role.warmup_steps) / max(1, total_steps - role.warmup_steps))
        return 1.0 - done if role.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return factor


def _zero(role: Optimisation, hidden_size: int) -> dict:
    # DeepSpeed's bfloat16 without ZeRO sums micro-batches in bfloat16 and ends far from fp32: stage 1 is taken instead.
    least = 1 if weights_dtype(role) == "bfloat16" else 0
    zero = {"stage": max(least, role.zero_stage), "overlap_comm": torch.cuda.is_available(), "contiguous_gradients": True}
    if role.zero_stage == 3:
        zero |= _stage3(hidden_size)
    if role.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if role.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return zero


def _stage3(hidden_size: int) -> dict:
    """The sizes that transformers' Trainer puts for "auto"."""
    return {
        "stage3_param_persistence_threshold": 10 * hidden_size,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "reduce_bucket_size": max(hidden_size * hidden_size, 1_000_000),
    }
