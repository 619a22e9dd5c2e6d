"""Evidence that a decomposition is one: KL under masks of all kinds, CI-L0, alive subcomponents."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.losses import faithfulness
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sigmoids import lower_leaky
from pd_finetune.stage_configs import QualityConfig
from pd_finetune.targets.load import Target

ALIVE_MEAN_CI = 1e-6


def fresh_adversary(
    recon: Reconstruction,
    ci: Float[Tensor, "rows pos C"],
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> float:
    """Mean KL after `steps` sign steps of one source per subcomponent and site's Delta, shared over
    batch and positions, from a random start (the evaluation adversary of the published runs)."""
    C, sites = ci.shape[-1], len(recon.components.sites)
    source = torch.rand(C + sites, generator=generator).to(ci.device)
    shape = ci.shape[:2]

    def divergence(values: Tensor) -> Tensor:
        mask = ci + (1 - ci) * values[:C]
        return recon.divergence(mask, values[C:].expand(*shape, sites)).mean()

    for _ in range(steps):
        leaf = source.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(divergence(leaf), leaf)
        source = (source + step_size * gradient.sign()).clamp_(0.0, 1.0)
    with torch.no_grad():
        return divergence(source).item()


def evidence(
    target: Target,
    components: Subcomponents,
    ci_function: CIFunction,
    ids: Int[Tensor, "rows pos"],
    settings: QualityConfig,
    seed: int = 0,
) -> dict[str, Any]:
    """The evidence table on held-out windows: KL in nats per token, CI-L0, alive, per site.

    Delta is dropped in all rows but the stochastic and the adversarial ones, as in the published
    evaluation. `ids` holds up to a few thousand tokens: all are run in one batch.
    """
    generator = torch.Generator().manual_seed(seed)
    recon = Reconstruction(target.model, components, ci_function, ids)
    with torch.no_grad():
        ci = lower_leaky(recon.pre_sigmoid())
        u = torch.rand(ci.shape, generator=generator).to(ci.device)
        delta = torch.rand((*ids.shape, len(components.sites)), generator=generator).to(ci.device)
        kl = {
            "unmasked": recon.divergence(torch.ones_like(ci)),
            "ci_masked": recon.divergence(ci),
            "rounded": recon.divergence((ci > 0).float()),
            "stochastic": recon.divergence(ci + (1 - ci) * u, delta),
            "random": recon.divergence(u),
            "zero": recon.divergence(torch.zeros_like(ci)),
        }
        del u
        faithful = faithfulness(components, target.model).item()
    values: dict[str, float] = {name: value.mean().item() for name, value in kl.items()}
    values["fresh_adversary"] = fresh_adversary(
        recon, ci, settings.adversary_steps, settings.adversary_step, generator
    )
    sites: dict[str, Any] = {}
    for name, part in ci_function.split(ci).items():
        mean = part.flatten(0, 1).mean(0)
        sites[name] = {
            "C": components.sites[name].C,
            "alive": int((mean > ALIVE_MEAN_CI).sum()),
            "ci_l0": (part > 0).float().sum(-1).mean().item(),
            "ci_l0_above_0.1": (part > 0.1).float().sum(-1).mean().item(),
            "highest_mean_ci": mean.max().item(),
        }
    return {
        "tokens": ids.numel(),
        "adversary_steps": settings.adversary_steps,
        "kl_nats": values,
        "faithfulness_relative": faithful,
        "ci_l0": sum(s["ci_l0"] for s in sites.values()),
        "ci_l0_above_0.1": sum(s["ci_l0_above_0.1"] for s in sites.values()),
        "alive": sum(s["alive"] for s in sites.values()),
        "subcomponents": sum(s["C"] for s in sites.values()),
        "sites": sites,
    }


def print_evidence(proof: dict[str, Any]) -> None:
    """The evidence as terminal tables: totals, then one row per site."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    totals = Table(title=f"evidence on {proof['tokens']} held-out tokens")
    totals.add_column("check")
    totals.add_column("value", justify="right")
    for name, value in proof["kl_nats"].items():
        totals.add_row(f"KL {name} (nats)", f"{value:.4f}")
    totals.add_row("||Delta||^2 / ||W||^2", f"{proof['faithfulness_relative']:.2e}")
    totals.add_row("CI-L0", f"{proof['ci_l0']:.1f} of {proof['subcomponents']}")
    totals.add_row("CI-L0 above 0.1", f"{proof['ci_l0_above_0.1']:.1f}")
    totals.add_row("alive (mean CI > 1e-6)", str(proof["alive"]))
    console.print(totals)
    sites = Table("site", "C", "alive", "CI-L0", "CI-L0 > 0.1", "highest mean CI")
    for name, row in proof["sites"].items():
        numbers = (row["ci_l0"], row["ci_l0_above_0.1"], row["highest_mean_ci"])
        sites.add_row(name, str(row["C"]), str(row["alive"]), *(f"{n:.2f}" for n in numbers))
    console.print(sites)
