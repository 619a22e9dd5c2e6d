"""Splitting a process's rows into micro-batches, so that memory does not grow with the batch."""

from __future__ import annotations

from dataclasses import dataclass

from pd_finetune.errors import UserError


@dataclass(frozen=True)
class MicroBatch:
    """Rows whose activations are in memory at the same time.

    Args:
        rows: their places in the process's batch; those with persistent sources come first.
        sources: the same rows' places among the persistent sources.
    """

    rows: list[int]
    sources: slice


def micro_batches(hostile: int, others: int, size: int) -> list[MicroBatch]:
    """Parts of `size` rows, each with the same number of adversarial rows.

    Args:
        hostile: rows with persistent sources, the first of the process's batch.
        others: the rest.
        size: rows of a micro-batch; 0: all of them.

    Raises:
        UserError: the rows cannot be split so.
    """
    rows = hostile + others
    count = rows // size if size else 1
    if size and (rows % size or hostile % count or others % count):
        counts = [n for n in range(rows, 0, -1) if not (hostile % n or others % n)]
        possible = ", ".join(str(rows // n) for n in counts)
        raise UserError(
            f"micro_batch={size}: the {rows} rows of a process, {hostile} of them adversarial, "
            f"cannot be split equally into such; possible: {possible}"
        )

    def part(of: int, number: int) -> slice:
        return slice(number * of // count, (number + 1) * of // count)

    return [
        MicroBatch(
            [*range(hostile)[part(hostile, n)], *range(hostile, rows)[part(others, n)]],
            part(hostile, n),
        )
        for n in range(count)
    ]
