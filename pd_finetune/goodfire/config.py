"""Schema of a Goodfire decomposition. No torch here."""

from dataclasses import dataclass

from omegaconf import MISSING

from pd_finetune.decomposition.config import DecompositionConfig


@dataclass
class GoodfireDecompositionConfig(DecompositionConfig):
    """A Goodfire decomposition: a W&B run path, or a local folder of its files.

    `labels`: where `selection=label` reads what subcomponents are about; without (null) it reads
    the harvest, as it does for other decompositions. `harvest_db`: Goodfire's own harvest, whose
    mean CI and firing density are then shown beside each candidate; it decides nothing.
    """

    labels: str | None = MISSING
    harvest_db: str | None = MISSING
