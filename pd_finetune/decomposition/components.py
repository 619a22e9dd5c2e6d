"""Subcomponents of all sites, and forwards in which they are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pd_finetune.decomposition.sites import Site, module_at, weight_at
from pd_finetune.targets.readout import LogitReadout, Readout


@dataclass
class SiteMask:
    """How one site is replaced in a masked forward.

    Args:
        mask: one scale per subcomponent.
        delta: scale of Delta = W - (V U)^T; None drops Delta (scale 0).
        route: where the replaced output is taken, elsewhere the target's own; None: everywhere.
    """

    mask: Float[Tensor, "*positions C"]
    delta: Float[Tensor, "*positions"] | None = None
    route: Bool[Tensor, "*positions"] | None = None


class Subcomponents(nn.Module):
    """V [d_in, C] and U [C, d_out] of each site: W = (V U)^T + Delta."""

    def __init__(self, sites: dict[str, Site]) -> None:
        super().__init__()
        self.sites = sites
        # ParameterDict refuses dots in names
        self._V = nn.ParameterDict(
            {_flat(s.name): nn.Parameter(torch.zeros(s.d_in, s.C)) for s in sites.values()}
        )
        self._U = nn.ParameterDict(
            {_flat(s.name): nn.Parameter(torch.zeros(s.C, s.d_out)) for s in sites.values()}
        )

    def V(self, site: str) -> Float[Tensor, "d_in C"]:
        return self._V[_flat(site)]

    def U(self, site: str) -> Float[Tensor, "C d_out"]:
        return self._U[_flat(site)]

    def assign(self, site: str, V: Float[Tensor, "d_in C"], U: Float[Tensor, "C d_out"]) -> None:
        """Take these tensors, uncopied, as a site's V and U."""
        shapes = self.V(site).shape, self.U(site).shape
        assert (V.shape, U.shape) == shapes, f"{site}: {V.shape}, {U.shape}, not {shapes}"
        self._V[_flat(site)], self._U[_flat(site)] = nn.Parameter(V), nn.Parameter(U)

    def delta(self, model: nn.Module, site: str) -> Float[Tensor, "d_out d_in"]:
        """Delta = W - (V U)^T of one site, from the given (pristine) model's weight."""
        return weight_at(model, self.sites[site]) - (self.V(site) @ self.U(site)).T

    def masked_output(
        self,
        site: str,
        bias: Float[Tensor, " d_out"] | None,
        x: Float[Tensor, "*positions d_in"],
        clean: Float[Tensor, "*positions d_out"],
        how: SiteMask,
    ) -> Float[Tensor, "*positions d_out"]:
        """`((x V) * mask) U + delta * (x Delta^T) + bias`, without ever making Delta.

        x Delta^T = (clean - bias) - (x V) U, and `clean` is the site's own output, so that the
        whole is `((x V) * (mask - delta)) U + delta * (clean - bias) + bias`.
        """
        inner, scale = x @ self.V(site), how.mask
        if how.delta is None:
            out = (inner * scale) @ self.U(site)
        else:
            delta = how.delta[..., None]
            own = clean if bias is None else clean - bias
            out = (inner * (scale - delta)) @ self.U(site) + delta * own
        out = out if bias is None else out + bias
        return out if how.route is None else torch.where(how.route[..., None], out, clean)

    @contextmanager
    def masked(
        self,
        model: nn.Module,
        masks: Mapping[str, SiteMask],
        inputs: dict[str, Tensor] | None = None,
    ) -> Iterator[None]:
        """Within the context, forwards of `model` run with the sites in `masks` replaced.

        The mapping is read while a forward runs: it may be filled and emptied between forwards.

        Args:
            inputs: collects what each site reads in forwards without masks.
        """
        if unknown := masks.keys() - self.sites.keys():
            raise KeyError(*unknown)
        handles = []

        def hook_for(name: str) -> Any:
            def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
                if name in masks:
                    return self.masked_output(name, module.bias, args[0], output, masks[name])
                if inputs is not None and not masks:
                    inputs[name] = args[0]
                return output

            return hook

        try:
            for name, site in self.sites.items():
                handles.append(module_at(model, site).register_forward_hook(hook_for(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _flat(site: str) -> str:
    return site.replace(".", "-")


@contextmanager
def recorded_inputs(
    model: nn.Module, sites: dict[str, Site], only: set[str] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect what each site reads ([rows, positions, d_in]) while the context's forward runs."""
    inputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs[name] = args[0]

        return hook

    handles = [
        module_at(model, site).register_forward_pre_hook(hook_for(name))
        for name, site in sites.items()
        if only is None or name in only
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def shared_inputs(
    model: nn.Module, sites: dict[str, Site], batch: Tensor, readout: Readout | None = None
) -> dict[str, str]:
    """For each site, the first site that reads the same tensor (itself where it is the first).

    q, k and v of a layer read one tensor; the causal-importance function is fed it once.

    Args:
        readout: how the model is run; None: as a language model.
    """
    readout = readout or LogitReadout(model)
    with torch.no_grad(), recorded_inputs(model, sites) as inputs:
        readout.output(batch)
    first: dict[int, str] = {}
    return {name: first.setdefault(id(x), name) for name, x in inputs.items()}
