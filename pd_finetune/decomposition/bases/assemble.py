"""Sites by pattern, a `Decomposition` of computed pieces, and the one that a config names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.bases.config import BasisConfig
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import Site, find_sites
from pd_finetune.targets.load import Target
from pd_finetune.targets.readout import Decomposable
from pd_finetune.text.tokens import DocumentSource

# (V [d_in, C], U [C, d_out]) by site
Pieces = dict[str, tuple[Float[Tensor, "d_in C"], Float[Tensor, "C d_out"]]]


def sites_like(target: Decomposable, patterns: Sequence[str]) -> dict[str, Site]:
    """The matrices that patterns name; how many pieces each gets is said by its pieces.

    Raises:
        UserError: a pattern matches nothing, or a matrix is matched by two.
    """
    return find_sites(target.model, dict.fromkeys(patterns, 1))


@torch.no_grad()
def assembled(
    target: Decomposable, sites: dict[str, Site], pieces: Pieces, record: dict[str, Any]
) -> Decomposition:
    """A decomposition of these pieces, hashed by their values in float32.

    Args:
        record: what they are and what they cost.
    """
    sized = {n: replace(site, C=pieces[n][0].shape[1]) for n, site in sites.items()}
    components = Subcomponents(sized)
    digest = hashlib.sha256(target.hash.encode())
    for name, site in sized.items():
        V, U = (part.float().contiguous() for part in pieces[name])
        components.assign(name, V, U)
        digest.update(repr(asdict(site)).encode())
        for part in (V, U):
            digest.update(part.cpu().numpy().tobytes())
    components.requires_grad_(False).to(target.device)
    return Decomposition(components, None, 0, digest.hexdigest(), record)


_last: dict[str, Decomposition] = {}  # the runs of a sweep mostly share one


def built(
    settings: BasisConfig, target: Target, source: DocumentSource, languages: Sequence[str]
) -> Decomposition:
    """The basis of a config. The last one is kept, as long as target, text and config are those.

    Raises:
        UserError: a pattern fits no matrix, or a language has no text.
    """
    values = {name: value for name, value in asdict(settings).items() if name != "folder"}
    text = {name: source.fingerprint(name) for name in languages}
    key = json.dumps([values, target.hash, str(target.device), text], sort_keys=True)
    if key not in _last:
        _last.clear()
        _last[key] = instantiate({**values, "_partial_": True})(target, source, list(languages))
    return _last[key]
