"""What foreign files must hold, checked before anything is made of them: fields and tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from pd_finetune.errors import UserError, first_line

Shape = tuple[int, ...]


class Fields:
    """The values of a YAML mapping by name and type; a wrong one is refused by file and field."""

    def __init__(self, values: Mapping[str, Any], path: Path, within: str = "") -> None:
        self.values, self.path, self.within = values, path, within

    @classmethod
    def read(cls, path: Path) -> Fields:
        """A file's mapping, plain types only.

        Raises:
            UserError: it is missing, or holds no mapping.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"cannot read '{path}': {first_line(error)}") from None
        if not isinstance(values, dict):
            raise UserError(f"'{path}' holds no mapping of names to values")
        return cls(values, path)

    def refusal(self, name: str, must: str) -> UserError:
        """What to raise of a field's value: `must` completes "<field> <value> ..."."""
        return UserError(f"'{self.path}': {self.within}{name} {self.values.get(name)} {must}")

    def block(self, name: str) -> Fields:
        """A mapping within this one; empty where it is missing or null."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.refusal(name, "must be a mapping")
        return Fields(value or {}, self.path, f"{self.within}{name}.")

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.refusal(name, "must be a whole number above 0")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number above 0; YAML takes `1e-6`, without a point, for text."""
        value = self.values.get(name, default)
        try:
            number = float("x" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 < number < math.inf:
            raise self.refusal(name, "must be a number above 0")
        return number

    def text(self, name: str) -> str:
        """Some text; empty where it is missing or null."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.refusal(name, "must be text")
        return value or ""

    def only(self, name: str, readable: Any) -> None:
        """Refuse any value but the one that is read here; missing is that one."""
        value = self.values.get(name, readable)
        if value != readable:
            raise self.refusal(name, f"cannot be read, only {readable}")


def sizes(tensors: Mapping[str, Tensor], name: str, dimensions: int = 2) -> Shape:
    """The shape of a tensor that others' shapes are known from.

    Raises:
        UserError: it is missing, has another number of dimensions, or is empty.
    """
    if name not in tensors:
        raise UserError(f"it lacks {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"{name} has shape {list(shape)}, {dimensions} full dimensions are needed")
    return shape


def require_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> None:
    """Refuse tensors that are not just the expected ones: real, finite, in these shapes.

    Raises:
        UserError: one is missing, too many, of another shape or type, or holds NaN or infinity.
    """
    import torch

    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        parts = [f"{', '.join(missing[:3])} missing"] if missing else []
        parts += [f"unknown tensors: {', '.join(unknown[:3])}"] if unknown else []
        raise UserError(
            f"{'; '.join(parts)} ({len(missing)} missing, {len(unknown)} unknown in all)"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise UserError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise UserError(f"{name} is of type {tensor.dtype}, real numbers are needed")
        if not torch.isfinite(tensor.float()).all():
            raise UserError(f"{name} holds NaN or infinity")
