"""The matmul floor of a step: which matrix products it runs, and how long they alone take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# position of the two factors among the arguments
_PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten._addmm_activation: 1, aten.baddbmm: 1}

Shape = tuple[int, int, int]  # rows, inner, columns


class MatmulShapes(TorchDispatchMode):
    """Counts the matrix products run within it, forward and backward, by shape.

    The products inside fused attention are left out (one in a hundred or fewer at these sizes), so
    the floor is a little lower than it might be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Shape] = Counter()
        self.float32_flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        first = _PRODUCTS.get(func.overloadpacket)
        if first is not None:
            a, b = args[first], args[first + 1]
            shape = (a.shape[-2], a.shape[-1], b.shape[-1])
            times = a.shape[0] if a.ndim == 3 else 1
            self.counts[shape] += times
            if a.dtype == torch.float32:
                self.float32_flops += times * flops_of(shape)
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        return sum(count * flops_of(shape) for shape, count in self.counts.items())


def flops_of(shape: Shape) -> int:
    rows, inner, columns = shape
    return 2 * rows * inner * columns


def counted(step: Callable[[], object], steps: int) -> MatmulShapes:
    """The matrix products of `steps` calls."""
    shapes = MatmulShapes()
    with shapes:
        for _ in range(steps):
            step()
    return shapes


def matmul_seconds(
    shape: Shape, dtype: torch.dtype, device: torch.device, seconds: float = 0.02
) -> float:
    """Best time of one product of contiguous factors: several tries within `seconds`."""
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype, device=device)
    best, started, tries = float("inf"), time.perf_counter(), 0
    while tries < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best, tries = min(best, time.perf_counter() - before), tries + 1
    return best


def matmul_rate(counts: Counter[Shape], dtype: torch.dtype, device: torch.device) -> float:
    """FLOP per second over all shapes, each as often as the step runs it."""
    flops = sum(count * flops_of(shape) for shape, count in counts.items())
    return flops / sum(n * matmul_seconds(s, dtype, device) for s, n in counts.items())
