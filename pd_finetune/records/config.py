"""Schema of where a run is mirrored to. No torch here."""

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.schema import Checked, OneOf


@dataclass
class LoggerConfig(Checked, at="logger"):
    """Local files are written whatever it is."""

    kind: Annotated[str, OneOf("none", "wandb_offline", "wandb_online")] = MISSING
    project: str = MISSING
    group: str | None = MISSING
