"""What every edit is: built from its material, fitted or not, a change of matrices, a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.targets.changes import Dense, LowRank, load_change, save_change
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.text.budget import TargetSample

FILE = "edit.safetensors"  # the change itself, in every run directory


@dataclass
class Material:
    """What an edit is built from.

    Args:
        keys: the selection, best first; empty for edits that go by none.
        sample: the budget: target-language tokens that the edit may see.
        pool: protected windows [pool, tokens].
        seed: of whatever is drawn at random.
    """

    target: Target
    basis: Decomposition
    keys: Sequence[SubcomponentKey] = ()
    sample: TargetSample | None = None
    pool: Int[Tensor, "pool tokens"] | None = None
    seed: int = 0


class Edit(ABC):
    """An edit of a target's weights: `MyEdit(material, **settings of its YAML)`.

    Building leaves `target.model` as it is: the edit is there only within
    `targets.changes.edited` or `baked`, so that a sweep can share one loaded model. An edit without
    parameters is not trained; one that needs fitting of its own kind does it in `fit`.
    """

    @property
    @abstractmethod
    def paths(self) -> Sequence[str]:
        """Paths of the modules whose matrices change."""

    @abstractmethod
    def at(self, path: str) -> LowRank | Dense:
        """The change of one matrix in float32, differentiable in `parameters`."""

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return []

    @property
    def trainable_count(self) -> int:
        """Number of trainable scalars."""
        return sum(parameter.numel() for parameter in self.parameters())

    def fit(self, train: Callable[[Edit], int]) -> int:
        """Find the edit's parameters; `train` does it by the run's objective. Returns steps."""
        return train(self) if self.parameters() else 0

    def scalars(self) -> dict[str, float]:
        """Scales by key, worth plotting step by step; the record's `masks`."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What the record says of the edit beside its scales."""
        return {}

    def save(self, folder: Path) -> None:
        """Write the change, from which `SavedEdit` has the edit again; more files are welcome."""
        save_change(folder / FILE, self)


class SavedEdit(Edit):
    """The edit of a finished run as its file has it, whatever it was made by.

    Raises:
        UserError: the file is missing, damaged, or of another model.
    """

    def __init__(self, folder: Path, target: Target) -> None:
        self._change = load_change(folder / FILE, target.model)

    @property
    def paths(self) -> Sequence[str]:
        return self._change.paths

    def at(self, path: str) -> LowRank | Dense:
        return self._change.at(path)
