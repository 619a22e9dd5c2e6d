"""The typed schema under every YAML: unknown keys, wrong types and impossible values stop here.

Nothing in this module imports torch, so that a mistake is answered at once. Groups that offer
alternatives (`_target_` names the object that Hydra builds) have one dataclass per alternative.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pd_finetune.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def one_of(name: str, value: str, possible: tuple[str, ...]) -> None:
    """Refuse a value that is not among the possible ones."""
    require(value in possible, f"{name}={value}: possible are {', '.join(possible)}")


# ------------------------------------------------------------------ model, text


@dataclass
class ModelConfig:
    """Any transformers causal language model in a folder ("embedded": the one that ships).

    `folder` may also be a name on the Hugging Face Hub, or a Goodfire checkpoint: a W&B run path,
    or a local folder of its files.
    """

    folder: str = MISSING
    dtype: str = "float32"

    def __post_init__(self) -> None:
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))


@dataclass
class LanguagesConfig:
    """Which text, and which language plays which role.

    `source` is a `_target_` node that builds a document source (see `text/sources.py`).
    """

    source: dict[str, Any] = MISSING
    all: list[str] = MISSING  # every language that is evaluated
    target: str = "de"  # the language to destroy
    preserve: list[str] = field(default_factory=lambda: ["en"])  # protected by the KL term

    @property
    def off_target(self) -> list[str]:
        """Languages that are neither target nor protected: evaluated, never trained on."""
        return [name for name in self.all if name != self.target and name not in self.preserve]

    def __post_init__(self) -> None:
        for role, names in (("target", [self.target]), ("preserve", self.preserve)):
            for name in names:
                require(
                    name in self.all,
                    f"languages.{role}={name}: possible are {', '.join(self.all)}",
                )
        require(
            self.target not in self.preserve,
            f"languages.target={self.target} is also in languages.preserve: choose another",
        )
        require(len(self.preserve) > 0, "languages.preserve is empty: name at least one language")


@dataclass
class TokenBudgetConfig:
    """How the target-language tokens of a run are drawn."""

    sequence_tokens: int = 64  # longest sequence, without its end-of-text token
    min_paragraph_tokens: int = 16  # shorter paragraphs (headings) are passed over

    def __post_init__(self) -> None:
        require(self.sequence_tokens >= 1, "token_budget.sequence_tokens must be at least 1")
        require(
            self.min_paragraph_tokens >= 1, "token_budget.min_paragraph_tokens must be at least 1"
        )


# ------------------------------------------------------------------ decomposition, selection


@dataclass
class DecompositionConfig:
    """A stored decomposition ("embedded": the one that ships) and its harvest."""

    folder: str = MISSING


@dataclass
class GoodfireDecompositionConfig(DecompositionConfig):
    """A Goodfire decomposition: a W&B run path, or a local folder of its files.

    `labels`: where `selection=label` reads what subcomponents are about; without (null) it reads
    the harvest, as it does for other decompositions. `harvest_db`: Goodfire's own harvest, whose
    mean CI and firing density are then shown beside each candidate; it decides nothing.
    """

    labels: str | None = None
    harvest_db: str | None = None


@dataclass
class SelectionConfig:
    """Which subcomponents an edit may scale; `_target_` names the selector in `selection/`."""

    _target_: str = MISSING


@dataclass
class TopSelection(SelectionConfig):
    """The `count` subcomponents of highest mean CI on the target minus the contrast language."""

    _target_: str = "pd_finetune.selection.rank.select_top"
    count: int = 16
    contrast: str = "en"

    def __post_init__(self) -> None:
        require(self.count >= 1, f"selection.count={self.count} must be at least 1")


@dataclass
class LabelSelection(SelectionConfig):
    """The subcomponent whose label names the target language alone; `choose` settles several.

    `choose`: "effect" takes the one whose inversion hurts the target language most, "share" the
    one with the highest share of its CI there; "only" refuses unless there is exactly one. With
    `decomposition.labels` the text decides alone, and there has to be exactly one.
    """

    _target_: str = "pd_finetune.selection.rank.select_label"
    choose: str = "effect"

    def __post_init__(self) -> None:
        one_of("selection.choose", self.choose, ("effect", "share", "only"))


@dataclass
class KeysSelection(SelectionConfig):
    """Explicit keys, as in h.0.attn.o_proj:39."""

    _target_: str = "pd_finetune.selection.rank.select_keys"
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(
            len(self.keys) > 0,
            "selection.keys is empty: name one or more, as in selection.keys=[h.0.attn.o_proj:39]",
        )


@dataclass
class RandomSelection(SelectionConfig):
    """`count` live subcomponents drawn at random with the run's seed: the control."""

    _target_: str = "pd_finetune.selection.rank.select_random"
    count: int = 1

    def __post_init__(self) -> None:
        require(self.count >= 1, f"selection.count={self.count} must be at least 1")


# ------------------------------------------------------------------ fine-tuning


@dataclass
class BandConfig:
    """What was tuned for a band of budgets."""

    lr: float = MISSING
    kl_weight: float = MISSING


def band(bands: Mapping[str, Any], budget: int) -> Any:
    """The tuned settings for a budget: those of the largest key that is not above it."""
    numbers = sorted(map(int, bands))
    return bands[str(max((n for n in numbers if n <= budget), default=numbers[0]))]


@dataclass
class MethodConfig:
    """How weights are changed; `_target_` names the class in `methods/`; `lr` is tuned for each."""

    _target_: str = MISSING
    name: str = MISSING
    bands: dict[str, BandConfig] = field(default_factory=dict)  # by the smallest budget of each
    lr: float = MISSING  # of the budget's band, as is kl_weight, unless given
    kl_weight: float = MISSING  # read by `objective.kl_weight`
    tuning_tokens: int = 0  # tokens of `tuned_on` that the tuning of lr and kl_weight saw
    tuned_on: str = ""  # language

    def __post_init__(self) -> None:
        require(self.lr > 0, f"method.lr={self.lr} must be above 0")


@dataclass
class MaskConfig(MethodConfig):
    """One trainable scale per selected subcomponent; `start` is the value of each at step 0."""

    _target_: str = "pd_finetune.methods.mask.MaskMethod"
    start: float = -1.0


@dataclass
class LoraConfig(MethodConfig):
    """LoRA by PEFT. `where`: "all" decomposed sites, or the "selected" subcomponent's matrix."""

    _target_: str = "pd_finetune.methods.lora.LoraMethod"
    rank: int = 1
    alpha: float = 1.0
    where: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, f"method.rank={self.rank} must be at least 1")
        one_of("method.where", self.where, ("all", "selected"))


@dataclass
class ObjectiveConfig:
    """The one objective and loop that every method shares."""

    kl_weight: float = 3.0  # nats of KL on protected text against nats of target cross-entropy
    steps: int = 60
    protect_rows: int = 16  # windows of protected text per step
    protect_tokens: int = 64  # length of each
    protect_pool: int = 64  # distinct windows, drawn once per seed
    optimiser: str = "adam"
    lr_decay: str = "linear"  # linear to 0, or none
    # stop when the target sample's hinge is this close to 0 for `patience` steps (0: never)
    stop_gap_nats: float = 0.0
    patience: int = 5

    def __post_init__(self) -> None:
        require(self.kl_weight >= 0, f"objective.kl_weight={self.kl_weight} must not be negative")
        for name in ("steps", "protect_rows", "protect_pool", "patience"):
            value = getattr(self, name)
            require(value >= 1, f"objective.{name}={value} must be at least 1")
        require(self.protect_tokens >= 2, "objective.protect_tokens must be at least 2")
        require(self.stop_gap_nats >= 0, "objective.stop_gap_nats must not be negative")
        require(
            self.protect_rows <= self.protect_pool,
            f"objective.protect_rows={self.protect_rows} is more than "
            f"objective.protect_pool={self.protect_pool}",
        )
        one_of("objective.optimiser", self.optimiser, ("adam",))
        one_of("objective.lr_decay", self.lr_decay, ("linear", "none"))


@dataclass
class EvaluationConfig:
    """Held-out text per language and rollouts."""

    split: str = "test"  # validation while tuning
    rows: int = 64
    window: int = 128
    batch: int = 0  # rows of a forward; 0: as suits the device
    out_of_domain: bool = True
    out_of_domain_rows: int = 64
    rollout_tokens: int = 40
    rollouts: dict[str, str] = field(default_factory=dict)  # language: prompt

    def __post_init__(self) -> None:
        one_of("evaluation.split", self.split, ("validation", "test"))
        for name in ("rows", "out_of_domain_rows", "rollout_tokens"):
            require(getattr(self, name) >= 1, f"evaluation.{name} must be at least 1")
        require(self.batch >= 0, "evaluation.batch must be at least 0 (0: as suits the device)")
        require(
            self.window >= 2, "evaluation.window must be at least 2: one token predicts nothing"
        )


@dataclass
class LoggerConfig:
    """`kind` none, wandb_offline or wandb_online; local files are written whatever it is."""

    kind: str = "none"
    project: str = "pd_finetune"
    group: str | None = None

    def __post_init__(self) -> None:
        one_of("logger", self.kind, ("none", "wandb_offline", "wandb_online"))


@dataclass
class PathsConfig:
    """Where run directories go."""

    runs: str = "runs"


@dataclass
class RunConfig:
    """One fine-tune: everything that `python -m pd_finetune.run` takes."""

    model: ModelConfig = MISSING
    decomposition: DecompositionConfig = MISSING
    languages: LanguagesConfig = MISSING
    selection: Any = MISSING
    method: Any = MISSING
    token_budget: TokenBudgetConfig = MISSING
    objective: ObjectiveConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    logger: LoggerConfig = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
    budget: int = 4  # target-language tokens that the fine-tune sees at all
    seed: int = 0
    device: str = "auto"
    threads: int = 0  # CPU threads; 0: one for a small target, else torch's default
    compile: bool = False  # the target's layers, by torch.compile
    progress: bool = True
    shard: str | None = None  # of a sweep, see `sweep.shard`; a single run has none
    arm: dict[str, Any] | None = None  # name, label, order and colour, of configs/arm

    def __post_init__(self) -> None:
        require(self.budget >= 1, f"budget={self.budget}: it counts tokens, give 1 or more")
        require(self.seed >= 0, f"seed={self.seed} must not be negative")
