"""Tensors that a target makes of a text alone: in a sweep, one run leaves them to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from pd_finetune.targets.load import Target

_KEPT_BYTES = 2**29  # of one target, all together


@dataclass
class _Kept:
    tensors: dict[tuple[object, ...], tuple[Tensor, ...]] = field(default_factory=dict)
    bytes: int = 0


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def kept(
    target: Target, key: tuple[object, ...], compute: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What `compute` gave for this key and target; not kept where there is no room left.

    What another number of threads or compiled layers gave is something else: its last digits
    differ, and a run's result must not depend on the runs before it.
    """
    mine = _KEPT.setdefault(target.model, _Kept())
    if key not in mine.tensors:
        tensors = compute()
        size = sum(tensor.nbytes for tensor in tensors)
        if mine.bytes + size > _KEPT_BYTES:
            return tensors
        mine.tensors[key], mine.bytes = tensors, mine.bytes + size
    return mine.tensors[key]
