"""Where a W&B run's files are: given as a run path, looked for locally, else downloaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pd_finetune.goodfire.cache import goodfire_cache

_ID = r"[a-z0-9]-[a-z0-9]{8}"
_FORMS = (
    re.compile(r"https?://(?:www\.)?wandb\.ai/([\w.-]+)/([\w.-]+)/runs/([\w-]+)(?:[/?#].*)?"),
    re.compile(r"([\w.-]+)/([\w.-]+)/runs/([\w-]+)"),
    re.compile(rf"([\w.-]+)/([\w.-]+)/((?:{_ID})|[a-z0-9]{{8}})"),
)
# environment variable and default folder of the two generations of Goodfire's code
_OUT = (("SPD_OUT_DIR", "~/spd_out"), ("PARAM_DECOMP_OUT_DIR", "~/param_decomp_out"))


@dataclass(frozen=True)
class RunPath:
    """One W&B run."""

    entity: str
    project: str
    id: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}/runs/{self.id}"

    @classmethod
    def parse(cls, text: str) -> RunPath | None:
        """Read `entity/project/runs/id`, `entity/project/id`, either after `wandb:`, a run's web
        address, or a bare `s-xxxxxxxx` of goodfire/spd; None where it is none of these."""
        given = text.strip().removeprefix("wandb:").rstrip("/")
        for form in _FORMS:
            if match := form.fullmatch(given):
                return cls(*match.groups())
        return cls("goodfire", "spd", given) if re.fullmatch(_ID, given) else None

    def cached(self) -> Path:
        """Where its files are kept after a download."""
        return goodfire_cache() / "runs" / f"{self.entity}--{self.project}--{self.id}"

    def local_folders(self) -> list[Path]:
        """Folders in which Goodfire's own code keeps a run's files, and our cache."""
        name = f"{self.project}-{self.id}"
        folders = [self.cached()]
        for variable, default in _OUT:
            root = Path(os.environ.get(variable) or default).expanduser()
            folders += [root / "pretrain_cache" / name, root / "runs" / name]
        return folders
