"""A decomposition with what its harvest says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.folder import SHIPPED
from pd_finetune.errors import UserError
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.folders import decomposition_folder
from pd_finetune.selection.store import Harvest, load_harvest
from pd_finetune.targets.load import Target


@dataclass
class Harvested:
    """One of the decompositions that a study puts side by side."""

    name: str
    decomposition: Decomposition
    harvest: Harvest

    @classmethod
    def of(cls, folder: str, target: Target, language: str) -> Harvested:
        """Load both; the harvest stands beside the decomposition.

        Raises:
            UserError: there is none, or its harvest is missing, or knows no such language.
        """
        decomposition = load_decomposition(folder, target)
        beside = decomposition_folder(folder) / "harvest"
        harvest = load_harvest(beside, target, decomposition)
        if language not in harvest.languages:
            known = ", ".join(harvest.languages)
            raise UserError(f"the harvest of '{folder}' is of {known}, not of '{language}'")
        if missing := set(decomposition.sites) - set(harvest.config["sites"]):
            raise UserError(f"the harvest in '{beside}' lacks {', '.join(sorted(missing))}")
        name = folder if folder in SHIPPED else Path(folder).resolve().name
        return cls(name, decomposition, harvest)

    def exclusive(self) -> dict[tuple[str, int], str]:
        """By site and index, the language of each subcomponent that fires for it alone."""
        rows = self.harvest.subcomponents
        rows = rows[rows["exclusive"]]
        keys = zip(rows["site"], rows["index"], strict=True)
        return dict(zip(keys, rows["top_language"], strict=True))
