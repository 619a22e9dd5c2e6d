"""Schemas of the toys: small targets whose right decomposition is known. No torch here."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from pd_finetune.config import require


@dataclass
class ToyModelConfig:
    """Which toy; `_target_` names its class in `toys/`, the rest are its sizes."""

    _target_: str = MISSING
    features: int = MISSING

    def __post_init__(self) -> None:
        require(self.features >= 2, f"toy.model.features={self.features} must be at least 2")


@dataclass
class TMSConfig(ToyModelConfig):
    """Toy model of superposition: `features` in `hidden` dimensions."""

    _target_: str = "pd_finetune.toys.tms.TMS"
    hidden: int = MISSING
    identity: bool = False  # a frozen identity matrix between the two

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.hidden < self.features,
            f"toy.model.hidden={self.hidden} must be at least 1 and below the "
            f"{self.features} features: there is no superposition otherwise",
        )


@dataclass
class ResidualMLPConfig(ToyModelConfig):
    """Residual MLP that computes x + ReLU(x) of more features than it has neurons."""

    _target_: str = "pd_finetune.toys.residual_mlp.ResidualMLP"
    embedding: int = MISSING
    neurons: int = MISSING  # in each layer
    layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.embedding >= self.features,
            f"toy.model.embedding={self.embedding} must not be below the {self.features} features",
        )
        for name in ("neurons", "layers"):
            value = getattr(self, name)
            require(value >= 1, f"toy.model.{name}={value} must be at least 1")


@dataclass
class ToyTrainingConfig:
    """Adam with a linear decay to zero; each batch is drawn anew."""

    steps: int = 5000
    samples: int = 2048  # in a batch
    lr: float = 5e-3

    def __post_init__(self) -> None:
        for name in ("steps", "samples"):
            value = getattr(self, name)
            require(value >= 1, f"toy.training.{name}={value} must be at least 1")
        require(self.lr > 0, f"toy.training.lr={self.lr} must be above 0")


@dataclass
class ToyConfig:
    """A toy, its inputs, how it is trained, and what of it is decomposed."""

    name: str = MISSING
    model: ToyModelConfig = MISSING
    sites: dict[str, int] = MISSING  # glob pattern of matrices: C subcomponents in each
    probability: float = 0.05  # that a feature is active, each by itself
    low: float = 0.0  # an active feature is uniform in [low, 1]
    training: ToyTrainingConfig = field(default_factory=ToyTrainingConfig)

    def __post_init__(self) -> None:
        require(
            0 < self.probability <= 1,
            f"toy.probability={self.probability} must be above 0 and at most 1",
        )
        require(self.low < 1, f"toy.low={self.low} must be below 1")
