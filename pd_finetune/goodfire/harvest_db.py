"""How often and how strongly each subcomponent fires by Goodfire's own harvest: `harvest.db`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pd_finetune.errors import UserError
from pd_finetune.goodfire.database import columns, latest_database, reading
from pd_finetune.targets.keys import SubcomponentKey


@dataclass(frozen=True)
class HarvestedSubcomponent:
    """Statistics of one subcomponent that fired at least once.

    Args:
        firing_density: fraction of tokens at which CI exceeds the harvest's threshold.
        mean_ci: mean lower-leaky CI over all tokens.
    """

    key: SubcomponentKey
    firing_density: float
    mean_ci: float


def read_harvest(place: str | Path) -> dict[SubcomponentKey, HarvestedSubcomponent]:
    """All harvested subcomponents, of every schema that there has been.

    Args:
        place: `harvest.db`, its folder, or a folder of `h-*` folders (the latest is read).

    Raises:
        UserError: there is no such file, or it is damaged or of an unknown schema.
    """
    path = latest_database(Path(place).expanduser(), "harvest.db", "h")
    if path is None:
        raise UserError(f"no harvest.db at '{place}': give the file, or the folder it is in")
    harvested = {}
    with reading(path) as connection:
        present = columns(connection, "components")
        # the oldest files have the mean as a column, later ones as JSON, kept as text or as bytes
        means = next((name for name in ("mean_ci", "mean_activations") if name in present), None)
        if means is None or not {"component_key", "firing_density"} <= set(present):
            raise UserError(f"'{path}' has no table components with keys, densities and means")
        query = f"SELECT component_key, firing_density, {means} FROM components"
        for text, density, mean in connection.execute(query):
            try:
                ci = mean if means == "mean_ci" else json.loads(mean)["causal_importance"]
                key = SubcomponentKey.parse(text)
                harvested[key] = HarvestedSubcomponent(key, float(density), float(ci))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"'{path}' has a damaged row: {error}") from None
    return harvested
