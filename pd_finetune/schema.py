"""Types and checks of config dataclasses: what a field admits stands in its annotation.

    steps: Count = MISSING
    recon: Annotated[str, OneOf("merged", "separate")] = MISSING

Values stand in `configs/*.yaml` alone. Nothing here imports torch, so that a mistake is answered
at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from pd_finetune.errors import UserError


@dataclass(frozen=True)
class AtLeast:
    low: float

    def problem(self, value: float) -> str | None:
        return None if value >= self.low else f" must be at least {self.low}"


@dataclass(frozen=True)
class Above:
    low: float

    def problem(self, value: float) -> str | None:
        return None if value > self.low else f" must be above {self.low}"


@dataclass(frozen=True)
class AtMost:
    high: float

    def problem(self, value: float) -> str | None:
        return None if value <= self.high else f" must be at most {self.high}"


@dataclass(frozen=True)
class NotEmpty:
    """A list, dict or string with something in it, or so many; `hint` says how to give it."""

    hint: str = "give one or more"
    count: int = 1

    def problem(self, value: Any) -> str | None:
        if len(value) >= self.count:
            return None
        return f"{f' has {len(value)}' if len(value) else ' is empty'}: {self.hint}"


class OneOf:
    """One of a few words."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def problem(self, value: str) -> str | None:
        return None if value in self.options else f": possible are {', '.join(self.options)}"


Count = Annotated[int, AtLeast(1)]
Natural = Annotated[int, AtLeast(0)]
Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Fraction = Annotated[float, AtLeast(0), AtMost(1)]
PositiveFraction = Annotated[float, Above(0), AtMost(1)]
Seed = Annotated[int, AtLeast(0), AtMost(2**63 - 1)]
Threads = Annotated[int, AtLeast(0), AtMost(1024)]
Precision = Annotated[str, OneOf("auto", "float32", "bfloat16")]
Split = Annotated[str, OneOf("validation", "test")]
Counts = dict[str, Count]  # glob pattern of matrices: subcomponents in each
Mixture = dict[str, Positive]  # language: share of the text


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def one_of(name: str, value: str, possible: tuple[str, ...]) -> None:
    """Refuse a value that is not among the possible ones."""
    require(value in possible, f"{name}={value}: possible are {', '.join(possible)}")


def _problems(annotation: Any, name: str, value: Any) -> Iterator[str]:
    """What of a value its annotation forbids, each a message."""
    if value is None or value == MISSING:
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name}={value} must be finite"
        return
    if get_origin(annotation) is Annotated:
        annotation, *rules = get_args(annotation)
        shown = "" if isinstance(value, (list, dict)) or value == "" else f"={value}"
        for problem in (rule.problem(value) for rule in rules):
            if problem is not None:
                yield f"{name}{shown}{problem}"
    inner = get_args(annotation)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _problems(inner[-1] if inner else Any, f"{name}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(inner[0] if inner else Any, f"{name}[{index}]", item)
    elif type(None) in inner:  # Annotated[...] | None
        yield from _problems(inner[0], name, value)


@cache
def _annotations(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


class Checked:
    """Base of config dataclasses: made, an object has only values that its annotations admit.

    `class RecipeConfig(Checked, at="recipe")`: `at` is its place in messages.

    Raises:
        UserError: a value is out of range, infinite, not a number, or not one of the options.
    """

    _at: ClassVar[str] = ""

    def __init_subclass__(cls, at: str | None = None) -> None:
        if at is not None:
            cls._at = f"{at}."

    def __post_init__(self) -> None:
        annotations = _annotations(type(self))  # type: ignore[arg-type]
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            for problem in _problems(annotations[f.name], f"{self._at}{f.name}", value):
                raise UserError(problem)


@dataclass
class StageConfig(Checked):
    """What every stage takes."""

    seed: Seed = MISSING
    device: str = MISSING  # auto, cpu, cuda, cuda:<n>
    threads: Threads = MISSING  # CPU threads; 0: torch's default


def require_mixture(mixture: dict[str, float], languages: list[str]) -> None:
    """Refuse a mixture that is empty or names an unknown language."""
    require(len(mixture) > 0, "mixture is empty: give each language a share")
    for language in mixture:
        require(
            language in languages,
            f"mixture.{language}: possible languages are {', '.join(languages)}",
        )
