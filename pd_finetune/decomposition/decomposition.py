"""A finished decomposition of a target: what harvest, selection and methods work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents, recorded_inputs
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target


@dataclass(eq=False)
class Decomposition:
    """Subcomponents and causal-importance function of one target.

    Args:
        stored_ci_function: None where only V and U are kept, which edits are made of; what asks
            for `ci_function` is then refused.
        window: sequence length the causal-importance function was trained on, in tokens.
        hash: hex SHA-256 of the file it came from.
        record: the training record kept beside the weights (config, evidence).
    """

    components: Subcomponents
    stored_ci_function: CIFunction | None
    window: int
    hash: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def ci_function(self) -> CIFunction:
        """What predicts the importances.

        Raises:
            UserError: it was left out of what is stored.
        """
        if self.stored_ci_function is None:
            if "whole_sha256" not in self.record:
                raise UserError(
                    "this decomposition has no causal-importance function: it can be edited, by "
                    "selection=keys, and no more"
                )
            whole = str(self.record["whole_sha256"])
            raise UserError(
                f"decomposition {self.hash[:12]} is stored without its causal-importance function: "
                "it can be edited and no more; for this, set its folder to that of the whole one, "
                f"{whole[:12]}"
            )
        return self.stored_ci_function

    @property
    def sites(self) -> dict[str, Site]:
        return self.components.sites

    def all_keys(self) -> list[SubcomponentKey]:
        """Every subcomponent, sites in the order of the causal-importance head (sorted)."""
        return [
            SubcomponentKey(name, index)
            for name in sorted(self.sites)
            for index in range(self.sites[name].C)
        ]

    def check(self, key: SubcomponentKey) -> SubcomponentKey:
        """Return `key` where this decomposition has it.

        Raises:
            UserError: the site or the index does not exist.
        """
        if key.site not in self.sites:
            raise UserError(
                f"no site '{key.site}' in this decomposition; there are: {', '.join(self.sites)}"
            )
        if not 0 <= key.index < self.sites[key.site].C:
            raise UserError(
                f"'{key}': indices at {key.site} run from 0 to {self.sites[key.site].C - 1}"
            )
        return key

    def vectors(
        self, key: SubcomponentKey
    ) -> tuple[Float[Tensor, " d_in"], Float[Tensor, " d_out"]]:
        """(V[:, c], U[c]) of one subcomponent: its rank-1 matrix is outer(U[c], V[:, c])."""
        self.check(key)
        V, U = self.components.V(key.site), self.components.U(key.site)
        return V[:, key.index].detach(), U[key.index].detach()

    @torch.no_grad()
    def causal_importances(
        self, target: Target, ids: Int[Tensor, "rows pos"], only: list[str] | None = None
    ) -> dict[str, Float[Tensor, "rows pos C"]]:
        """Causal importance of every subcomponent at every position, from a clean forward."""
        with recorded_inputs(target.model, self.sites, set(self.ci_function.inputs)) as inputs:
            target.model.base_model(input_ids=ids, use_cache=False)
        return self.ci_function.causal_importances(inputs, only)
