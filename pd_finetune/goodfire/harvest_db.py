"""What Goodfire's harvest kept of each subcomponent: `harvest.db`, every known schema."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pd_finetune.errors import UserError
from pd_finetune.goodfire.database import columns, latest_database, reading
from pd_finetune.targets.keys import SubcomponentKey

TokenPMI = list[tuple[int, float]]  # (token id, nats)


@dataclass(frozen=True)
class ActivationExample:
    """A window around a firing position: token ids, where it fires, CI and a_c ||U_c|| at each."""

    token_ids: list[int]
    firings: list[bool]
    causal_importance: list[float]
    component_activation: list[float]


@dataclass(frozen=True)
class HarvestedSubcomponent:
    """Statistics of one subcomponent that fired at least once.

    Args:
        firing_density: fraction of tokens at which CI exceeds the harvest's threshold.
        mean_ci: mean lower-leaky CI over all tokens.
        mean_activation: mean of a_c ||U_c|| over all tokens; None in the oldest files.
        input_pmi, output_pmi: highest PMI first, of the current token and of the target's
            prediction at firing positions.
        input_pmi_bottom, output_pmi_bottom: the lowest.
    """

    key: SubcomponentKey
    firing_density: float
    mean_ci: float
    mean_activation: float | None
    input_pmi: TokenPMI = field(default_factory=list)
    input_pmi_bottom: TokenPMI = field(default_factory=list)
    output_pmi: TokenPMI = field(default_factory=list)
    output_pmi_bottom: TokenPMI = field(default_factory=list)
    examples: list[ActivationExample] = field(default_factory=list)


def read_harvest(
    place: str | Path, keys: list[SubcomponentKey] | None = None, examples: bool = False
) -> dict[SubcomponentKey, HarvestedSubcomponent]:
    """All harvested subcomponents, or those named by `keys`.

    Args:
        place: `harvest.db`, its folder, or a folder of `h-*` folders (the latest is read).
        examples: whether activation examples are read as well; they are most of a large file.

    Raises:
        UserError: there is no such file, or it is damaged or of an unknown schema.
    """
    path = latest_database(Path(place).expanduser(), "harvest.db", "h")
    if path is None:
        raise UserError(f"no harvest.db at '{place}': give the file, or the folder it is in")
    with reading(path) as connection:
        present = columns(connection, "components")
        wanted = {"component_key", "firing_density"} - set(present)
        if wanted or not {"mean_activations", "mean_ci"} & set(present):
            raise UserError(f"'{path}' has no table components with keys, densities and means")
        optional = ["mean_activations", "mean_ci", "input_token_pmi", "output_token_pmi"]
        optional += ["activation_examples"] if examples else []
        names = ["component_key", "firing_density", *(n for n in optional if n in present)]
        query = f"SELECT {', '.join(names)} FROM components"
        rows: list[sqlite3.Row] = []
        if keys is None:
            rows = connection.execute(query).fetchall()
        for key in keys or ():
            rows += connection.execute(f"{query} WHERE component_key = ?", (str(key),)).fetchall()
        try:
            found = [_subcomponent(dict(zip(row.keys(), row, strict=True))) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{path}' has a damaged row: {error}") from None
    return {one.key: one for one in found}


def _subcomponent(row: dict[str, Any]) -> HarvestedSubcomponent:
    # JSON, kept as text or as bytes
    def parsed(name: str) -> Any:
        return json.loads(row[name]) if row.get(name) is not None else {}

    means = parsed("mean_activations")
    mean_ci = row["mean_ci"] if row.get("mean_ci") is not None else means["causal_importance"]
    activation = means.get("component_activation")
    sides = {
        f"{side}_pmi{suffix}": [
            (int(token), float(nats)) for token, nats in parsed(f"{side}_token_pmi").get(end, ())
        ]
        for side in ("input", "output")
        for end, suffix in (("top", ""), ("bottom", "_bottom"))
    }
    return HarvestedSubcomponent(
        key=SubcomponentKey.parse(row["component_key"]),
        firing_density=float(row["firing_density"]),
        mean_ci=float(mean_ci),
        mean_activation=None if activation is None else float(activation),
        examples=[_example(values) for values in parsed("activation_examples") or ()],
        **sides,
    )


def _example(values: dict[str, Any]) -> ActivationExample:
    """One example without the padding (id -1) of older files, whose CIs are a list of their own."""
    ids = values["token_ids"]
    acts = values.get("activations") or {}
    ci = acts.get("causal_importance") or values.get("ci_values") or []
    inner = acts.get("component_activation") or values.get("component_acts") or []
    firings = values.get("firings") or [value > 0 for value in ci]
    real = [i for i, token in enumerate(ids) if token >= 0]
    return ActivationExample(
        [int(ids[i]) for i in real],
        [bool(firings[i]) for i in real if i < len(firings)],
        [float(ci[i]) for i in real if i < len(ci)],
        [float(inner[i]) for i in real if i < len(inner)],
    )
