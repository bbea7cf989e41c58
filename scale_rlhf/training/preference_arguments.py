"""What TRL is told of a loss on preferences."""

from __future__ import annotations

from typing import Any

from trl import DPOConfig, KTOConfig

from scale_rlhf.config.supervised import DpoSection


def dpo_arguments(section: DpoSection, common: dict[str, Any]) -> DPOConfig:
    """TRL's arguments for dpo, ipo and cdpo. common: those of every stage."""
    epsilon = section.label_smoothing
    losses = {
        "dpo": {"loss_type": ["sigmoid"]},
        "ipo": {"loss_type": ["ipo"]},
        # TRL has no cDPO, (1 − ε)·L(x) + ε·L(−x). It has L(x), and the robust ((1 − ε)·L(x) − ε·L(−x)) / (1 − 2ε).
        "cdpo": {"loss_type": ["sigmoid", "robust"], "loss_weights": [2 * (1 - epsilon), -(1 - 2 * epsilon)],
                 "label_smoothing": epsilon},
    }
    return DPOConfig(**common, disable_dropout=False, beta=section.beta, **losses[section.loss])


def kto_arguments(section: DpoSection, common: dict[str, Any]) -> KTOConfig:
    """TRL's arguments for kto. common: those of every stage."""
    return KTOConfig(**common, disable_dropout=False, beta=section.beta, desirable_weight=section.good_weight,
                     undesirable_weight=section.bad_weight)
