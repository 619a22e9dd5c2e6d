"""Data-parallel workers under `torchrun`: who this process is, and sums over all of them.

Without torchrun there is one worker and every function here is a no-op, so a trainer is written
once. Gradients are averaged by hand, flattened into one message, in place of wrapping models in
DistributedDataParallel: the trained modules are called in pieces, not by one `forward`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pd_finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This process among the `size` that share a global batch."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and draws the progress bar."""
        return self.rank == 0

    def share(self, rows: int, what: str = "rows") -> slice:
        """This worker's equal part of `rows` rows of the global batch.

        Raises:
            UserError: the rows cannot be shared equally.
        """
        if rows % self.size:
            raise UserError(
                f"{what}={rows} cannot be shared equally by {self.size} processes: "
                f"give a multiple of {self.size}"
            )
        part = rows // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the workers, in one message."""
        if self.size == 1:
            return
        import torch

        found = [p.grad for p in parameters if p.grad is not None]
        flat = self.mean(torch.cat([g.flatten() for g in found]))
        for gradient, part in zip(found, flat.split([g.numel() for g in found]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the workers of a detached copy (no gradient flows)."""
        if self.size == 1:
            return value.detach()
        from torch import distributed

        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    def gather(self, value: Tensor) -> Tensor:
        """All workers' parts, joined along the first dimension in rank order."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        parts = [torch.empty_like(value) for _ in range(self.size)]
        distributed.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    def wait(self) -> None:
        """Until all workers are here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()


def workers(device: torch.device) -> Workers:
    """Join the group that `torchrun` announces in the environment; alone without one."""
    if "LOCAL_RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return Workers()
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Workers(distributed.get_rank(), distributed.get_world_size())


def local_device(device: torch.device) -> torch.device:
    """Under torchrun on CUDA, this process's own GPU; otherwise `device` as it is."""
    if device.type != "cuda" or device.index is not None or "LOCAL_RANK" not in os.environ:
        return device
    import torch

    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own
