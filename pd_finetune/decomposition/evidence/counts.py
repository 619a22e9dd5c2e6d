"""How many subcomponents are important: CI-L0, alive ones, the spectrum of mean CI."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

ALIVE_MEAN_CI = 1e-6
CLEARLY_IMPORTANT_CI = 0.1  # the second threshold of CI-L0, beside 0
HISTOGRAM_BINS = 20
SITE_COUNTS = ("C", "alive", "ci_l0", "ci_l0_above_0.1", "highest_mean_ci")  # of `site_counts`


def site_counts(ci: Float[Tensor, "tokens C"]) -> dict[str, Any]:
    """C, alive subcomponents, and CI-L0: the mean number of important ones per token."""
    mean = ci.mean(0)
    return {
        "C": ci.shape[-1],
        "alive": int((mean > ALIVE_MEAN_CI).sum()),
        "ci_l0": (ci > 0).float().sum(-1).mean().item(),
        "ci_l0_above_0.1": (ci > CLEARLY_IMPORTANT_CI).float().sum(-1).mean().item(),
        "highest_mean_ci": mean.max().item(),
    }


def total_counts(sites: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sums over sites of `site_counts`."""
    return {
        "ci_l0": sum(row["ci_l0"] for row in sites.values()),
        "ci_l0_above_0.1": sum(row["ci_l0_above_0.1"] for row in sites.values()),
        "alive": sum(row["alive"] for row in sites.values()),
        "subcomponents": sum(row["C"] for row in sites.values()),
    }


def mean_ci_spectrum(ci: Float[Tensor, "tokens C"]) -> list[float]:
    """Mean CI of each subcomponent, the highest first."""
    return ci.mean(0).sort(descending=True).values.tolist()


def ci_histogram(ci: Float[Tensor, "tokens C"]) -> dict[str, Any]:
    """Values (tokens times subcomponents) at exactly 0, in equal bins between, at exactly 1.

    The clamp of the lower-leaky reading puts most values at one of the two ends.
    """
    inside = ci[(ci > 0) & (ci < 1)].cpu()
    return {
        "zero": int((ci == 0).sum()),
        "inside": torch.histc(inside, HISTOGRAM_BINS, 0.0, 1.0).long().tolist(),
        "one": int((ci == 1).sum()),
    }
