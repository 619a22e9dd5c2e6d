"""What every method of editing weights offers to the loop, the evaluation and the record."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn


class Method(Protocol):
    """An edit of a target's weights with a few trainable parameters.

    Built as `MethodClass(target, decomposition, selection_keys, **fields of its config)`. Building
    leaves `target.model` as it is; the edit is there only within `edited()`, so that a sweep can
    share one loaded model.
    """

    name: str
    lr: float

    @property
    def trainable_count(self) -> int:
        """Number of trainable scalars."""
        ...

    @property
    def lowest_layer(self) -> int | None:
        """The lowest transformer layer touched; what lies below computes as before."""
        ...

    def parameters(self) -> list[nn.Parameter]: ...

    def edited(self) -> AbstractContextManager[None]:
        """Within the context `target.model` runs edited, differentiably in the parameters."""
        ...

    def edited_weights(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """The edited matrices by module path, baked in float32; the others are unchanged."""
        ...

    def scalars(self) -> dict[str, float]:
        """Single numbers worth plotting step by step (the masks; empty for LoRA)."""
        ...

    def record(self) -> dict[str, Any]:
        """What the result record says of the edit."""
        ...

    def save(self, folder: Path) -> None:
        """Write the edit as an artifact of its own."""
        ...
