"""The loss of a step, put together again from its definition; the adversary goes uphill."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.losses import faithfulness
from pd_finetune.decomposition.noise import RowNoise, fractions
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sigmoids import upper_leaky
from pd_finetune.decomposition.step import annealed
from pd_finetune.decomposition.trainer import Trainer
from tests import tiny
from tests.decomposition import parts

STEPS, ROWS, WINDOW = 12, 4, 10
IDS = parts.batch_at(0)
NOISE = RowNoise(9, 0, range(ROWS), torch.device("cpu"))


def made(**recipe: Any) -> Trainer:
    """A trainer whose V, U leave a Delta and whose CI values reach below 0 and above 1."""
    return parts.unsettled(
        Trainer(tiny.target(), parts.config(STEPS, **recipe), parts.batch_at, Path())
    )


def kl(trainer: Trainer, rows: slice, r: Tensor, route: Tensor | None = None) -> Tensor:
    """Mean KL over some rows of the batch alone, masks written out."""
    recon = Reconstruction(trainer.target.model, trainer.components, trainer.ci_function, IDS[rows])
    ci = recon.pre_sigmoid().detach().clamp(0, 1)
    C = ci.shape[-1]
    r = r.expand(*ci.shape[:2], r.shape[-1])
    return parts.divergence(recon, ci + (1 - ci) * r[..., :C], r[..., C:], route).mean()


def uppers(trainer: Trainer) -> Tensor:
    recon = Reconstruction(trainer.target.model, trainer.components, trainer.ci_function, IDS)
    return upper_leaky(recon.pre_sigmoid().detach()).flatten(0, 1)


@pytest.mark.parametrize("step", [4, 5])
@pytest.mark.parametrize("adversary", [True, False])
def test_merged(step: int, adversary: bool) -> None:
    trainer = made(adversary=adversary, faithfulness_coefficient=2.0, faithfulness_every=4)
    result = trainer.maker.loss(IDS, step, NOISE)
    C, sites = sum(trainer.ci_function.C), len(trainer.components.sites)
    hostile = ROWS // 2 if adversary else 0
    r = fractions(NOISE.sources(slice(hostile, None), WINDOW, C + sites), torch.float32)
    route = NOISE.routes(slice(hostile, None), WINDOW, sites)
    stochastic = kl(trainer, slice(hostile, None), r, route)
    total = stochastic
    assert result.terms["stochastic_kl_nats"] == pytest.approx(stochastic.item(), rel=1e-4)
    if adversary:
        assert trainer.maker.sources is not None and result.sources is not None
        leaf = trainer.maker.sources.values.clone().requires_grad_(True)
        adversarial = kl(trainer, slice(0, hostile), leaf[:, None])
        assert result.terms["adversarial_kl_nats"] == pytest.approx(adversarial.item(), rel=1e-4)
        total = 0.5 * stochastic + 0.5 * adversarial
        (expected,) = torch.autograd.grad(total, leaf)
        (actual,) = torch.autograd.grad(result.total, result.sources, retain_graph=True)
        torch.testing.assert_close(actual, expected, atol=1e-7, rtol=1e-3)
    gamma = 1.0 + (0.02 - 1.0) * (step / STEPS) / 0.9
    upper = uppers(trainer)
    means = (upper**2 / (upper**2 + gamma**2)).mean(0)
    frequency = (means * torch.log2(1 + 32768 * means)).sum()
    assert result.terms["minimality"] == pytest.approx(3e-4 * means.sum().item(), rel=1e-4)
    assert result.terms["frequency"] == pytest.approx(1e-4 * frequency.item(), rel=1e-4)
    total = total + 3e-4 * means.sum() + 1e-4 * frequency
    assert ("faithfulness" in result.terms) == (step == 4)
    if step == 4:
        total = total + 2.0 * 4 * faithfulness(trainer.components, trainer.target.model)
    assert result.total.item() == pytest.approx(total.item(), rel=1e-4)
    counted = (upper > 0).sum().item() / (ROWS * WINDOW)
    assert result.terms["ci_l0"] == pytest.approx(counted)


@pytest.mark.parametrize("scope", ["row", "position"])
def test_separate(scope: str) -> None:
    trainer = made(**parts.PAPER | {"adversary_scope": scope, "faithfulness_coefficient": 5.0})
    assert trainer.maker.sources is not None
    sources, step = copy.deepcopy(trainer.maker.sources), 6
    result = trainer.maker.loss(IDS, step, NOISE)
    C, sites = sum(trainer.ci_function.C), len(trainer.components.sites)
    r = fractions(NOISE.sources(slice(None), WINDOW, C + sites), torch.float32)
    route = NOISE.routes(slice(None), WINDOW, sites)
    stochastic = kl(trainer, slice(None), r, route)

    def spread(values: Tensor) -> Tensor:
        return values if scope == "position" else values[:, None]

    for _ in range(2):  # two climbs before the one on the step's own backward
        leaf = sources.leaf()
        (gradient,) = torch.autograd.grad(kl(trainer, slice(None), spread(leaf)), leaf)
        sources.climb(gradient)
    torch.testing.assert_close(trainer.maker.sources.values, sources.values, atol=1e-4, rtol=0)
    assert int(trainer.maker.sources.climbs) == 2
    adversarial = kl(trainer, slice(None), spread(trainer.maker.sources.values))
    assert result.terms["stochastic_kl_nats"] == pytest.approx(stochastic.item(), rel=1e-4)
    assert result.terms["adversarial_kl_nats"] == pytest.approx(adversarial.item(), rel=1e-4)
    p = 2.0 + (0.4 - 2.0) * step / STEPS
    means = (uppers(trainer) + 1e-12).pow(p).mean(0)
    minimality = sum(m * (1 + 0.5 * math.log2(1 + m * ROWS * WINDOW)) for m in means.tolist())
    assert result.terms["minimality"] == pytest.approx(3e-4 * minimality, rel=1e-4)
    faithful = faithfulness(trainer.components, trainer.target.model, "entries").item()
    total = 0.5 * stochastic + 0.5 * adversarial + 3e-4 * minimality + 5.0 * faithful
    assert result.total.item() == pytest.approx(total.item(), rel=1e-4)


@pytest.mark.parametrize("recipe", [{}, {"recon": "separate"}], ids=["merged", "separate"])
def test_sources_climb_where_nothing_else_moves(recipe: dict[str, Any]) -> None:
    trainer = made(lr=1e-12, adversary_lr=0.05, **recipe)
    trainer.batch_at = lambda _: IDS
    values = [trainer.train_step().terms["adversarial_kl_nats"] for _ in range(10)]
    assert values[-1] > 1.2 * values[0]
    assert sum(b > a for a, b in zip(values, values[1:], strict=False)) >= 8


def test_annealing() -> None:
    assert [annealed(1.0, 0.2, progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == (
        pytest.approx([1.0, 0.6, 0.2, 0.2])
    )


def test_the_adversary_warms_up() -> None:
    maker = made(adversary_warmup_fraction=0.5).maker
    assert [maker.warmth(step / STEPS) for step in (0, 2, 5, 11)] == (
        pytest.approx([1 / 6, 0.5, 1.0, 1.0])
    )
    assert made().maker.warmth(0.0) == 1.0
