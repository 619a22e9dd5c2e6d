"""Which matrices are decomposed, into how many subcomponents."""

from dataclasses import dataclass
from fnmatch import fnmatch

from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.errors import UserError
from pd_finetune.targets.keys import canonical_site, site_of_module
from pd_finetune.targets.matrices import linear_modules, matrix_at


@dataclass(frozen=True)
class Site:
    """One decomposed matrix: W [d_out, d_in] in `C` rank-1 subcomponents."""

    name: str
    module: str
    d_in: int
    d_out: int
    C: int


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
            d_out, d_in = matrix_at(model, path).shape
            sites[name] = Site(name, path, d_in, d_out, C)
    return sites


def full_rank_sites(model: nn.Module) -> dict[str, int]:
    """Every matrix by name, as many subcomponents in each as its rank can be: min(d_in, d_out)."""
    return {site_of_module(p): min(m.weight.shape) for p, m in linear_modules(model).items()}


def module_at(model: nn.Module, site: Site) -> nn.Module:
    """The module that holds a site's matrix."""
    return model.get_submodule(site.module)


def weight_at(model: nn.Module, site: Site) -> Float[Tensor, "d_out d_in"]:
    """The weight [d_out, d_in] of a site (a view, of a `Conv1D` transposed)."""
    return matrix_at(model, site.module)
