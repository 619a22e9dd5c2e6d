"""The plain reference's masks: where they come from, and forwards in which they are applied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Draws = dict[str, Tensor]  # by site


def draw(
    V: dict[str, Float[Tensor, "d_in C"]], ids: Int[Tensor, "rows pos"]
) -> tuple[Draws, Draws]:
    """r ~ U(0, 1) by site, [rows, pos, C + 1] (the last is Delta's mask), and where each site is
    routed, [rows, pos]: at every position a random k of the sites, k ~ U{1..sites}."""
    device = ids.device
    r = {name: torch.rand(*ids.shape, v.shape[1] + 1, device=device) for name, v in V.items()}
    k = torch.randint(1, len(V) + 1, (*ids.shape, 1), device=device)
    chosen = torch.rand(*ids.shape, len(V), device=device).argsort(-1).argsort(-1) < k
    return r, dict(zip(V, chosen.unbind(-1), strict=True))


@dataclass
class Sources:
    """Persistent sources of one site, [rows, pos, C + 1] (the last is Delta's), and their Adam."""

    values: Float[Tensor, "rows pos C1"]
    first: Float[Tensor, "rows pos C1"]
    second: Float[Tensor, "rows pos C1"]

    @torch.no_grad()
    def climb(self, gradient: Tensor, count: int, lr: float, betas: list[float]) -> None:
        self.first = betas[0] * self.first + (1 - betas[0]) * gradient
        self.second = betas[1] * self.second + (1 - betas[1]) * gradient**2
        first = self.first / (1 - betas[0] ** count)
        second = self.second / (1 - betas[1] ** count)
        self.values = (self.values + lr * first / (second.sqrt() + 1e-12)).clamp(0.0, 1.0)


@dataclass
class Replacement:
    """How one matrix is replaced in a masked forward: x V * mask U + delta_mask * x Delta^T."""

    V: Float[Tensor, "d_in C"]
    U: Float[Tensor, "C d_out"]
    delta: Float[Tensor, "d_out d_in"]
    mask: Float[Tensor, "rows pos C"]
    delta_mask: Float[Tensor, "rows pos"]
    route: Bool[Tensor, "rows pos"] | None = None  # where it is replaced; None: everywhere

    def output(self, x: Tensor, target_output: Tensor) -> Float[Tensor, "rows pos d_out"]:
        out = ((x @ self.V) * self.mask) @ self.U
        out = out + self.delta_mask[..., None] * F.linear(x, self.delta)
        return out if self.route is None else torch.where(self.route[..., None], out, target_output)


@contextmanager
def replaced(modules: dict[str, nn.Linear], how: dict[str, Replacement]) -> Iterator[None]:
    """Within the context, forwards of the target run with the named matrices replaced."""
    handles = [
        modules[name].register_forward_hook(
            lambda _module, args, output, how=replacement: how.output(args[0], output)
        )
        for name, replacement in how.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(modules: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Collects what each of the matrices reads while the context's forward runs."""
    inputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        for name, module in modules.items()
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
