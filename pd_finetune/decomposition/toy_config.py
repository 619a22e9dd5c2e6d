"""Schemas of the toys: small targets whose right decomposition is known. No torch here."""

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.schema import (
    AtLeast,
    Checked,
    Count,
    Counts,
    Positive,
    PositiveFraction,
    require,
)


@dataclass
class ToyModelConfig(Checked, at="toy.model"):
    """Which toy; `_target_` names its class in `toys/`, the rest are its sizes."""

    _target_: str = MISSING
    features: Annotated[int, AtLeast(2)] = MISSING


@dataclass
class TMSConfig(ToyModelConfig):
    """Toy model of superposition: `features` in `hidden` dimensions."""

    _target_: str = "pd_finetune.toys.tms.TMS"
    hidden: Count = MISSING
    identity: bool = False  # a frozen identity matrix between the two

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.hidden < self.features,
            f"toy.model.hidden={self.hidden} must be below the {self.features} features: there is "
            "no superposition otherwise",
        )


@dataclass
class ResidualMLPConfig(ToyModelConfig):
    """Residual MLP that computes x + ReLU(x) of more features than it has neurons."""

    _target_: str = "pd_finetune.toys.residual_mlp.ResidualMLP"
    embedding: Count = MISSING
    neurons: Count = MISSING  # in each layer
    layers: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.embedding >= self.features,
            f"toy.model.embedding={self.embedding} must not be below the {self.features} features",
        )


@dataclass
class ToyTrainingConfig(Checked, at="toy.training"):
    """Adam with a linear decay to zero; each batch is drawn anew."""

    steps: Count = 5000
    samples: Count = 2048  # in a batch
    lr: Positive = 5e-3


@dataclass
class ToyConfig(Checked, at="toy"):
    """A toy, its inputs, how it is trained, and what of it is decomposed."""

    name: str = MISSING
    model: ToyModelConfig = MISSING
    sites: Counts = MISSING
    probability: PositiveFraction = 0.05  # that a feature is active, each by itself
    low: float = 0.0  # an active feature is uniform in [low, 1]
    training: ToyTrainingConfig = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.low < 1, f"toy.low={self.low} must be below 1")
