"""Which matrices are decomposed, into how many subcomponents."""

from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import nn

from pd_finetune.errors import UserError
from pd_finetune.targets.keys import canonical_site, site_of_module


@dataclass(frozen=True)
class Site:
    """One decomposed matrix: W [d_out, d_in] in `C` rank-1 subcomponents."""

    name: str
    module: str
    d_in: int
    d_out: int
    C: int


def linear_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """All `nn.Linear` of a model but its output head, by module path."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def find_sites(model: nn.Module, patterns: dict[str, int]) -> dict[str, Site]:
    """Sites named by glob patterns (`h.*.attn.q_proj`, or module paths), each with its C.

    Raises:
        UserError: a pattern matches nothing, or a matrix is matched by two patterns.
    """
    linears = linear_modules(model)
    sites: dict[str, Site] = {}
    for pattern, C in patterns.items():
        matched = [
            path
            for path in linears
            if fnmatch(site_of_module(path), canonical_site(pattern)) or fnmatch(path, pattern)
        ]
        if not matched:
            known = ", ".join(sorted({site_of_module(p) for p in linears})[:8])
            raise UserError(f"site pattern '{pattern}' matches no matrix; there are: {known}, ...")
        for path in matched:
            name = site_of_module(path)
            if name in sites:
                raise UserError(f"site '{name}' is matched by two patterns, '{pattern}' the second")
            d_out, d_in = linears[path].weight.shape
            sites[name] = Site(name, path, d_in, d_out, C)
    return sites


def module_at(model: nn.Module, site: Site) -> nn.Linear:
    """The matrix of a site."""
    module = model.get_submodule(site.module)
    assert isinstance(module, nn.Linear)
    return module


def weight_at(model: nn.Module, site: Site) -> torch.Tensor:
    """The weight [d_out, d_in] of a site."""
    return module_at(model, site).weight
