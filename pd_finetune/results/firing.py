"""What selected subcomponents fire on, read from a harvest's files; no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from pd_finetune.decomposition.folder import SHIPPED
from pd_finetune.errors import UserError
from pd_finetune.results.arms import arms_of

TOKENS_SHOWN = 6


def harvest_folder(frame: pd.DataFrame) -> Path | None:
    """The harvest of the runs' decomposition, beside it; None where it is not at hand.

    Nothing is downloaded or converted for a figure.
    """
    name = str(frame["decomposition"].iloc[0])
    folder = SHIPPED.get(name, Path(name)) / "harvest"
    try:
        config = json.loads((folder / "harvest.json").read_text(encoding="utf-8"))
        found = config["hashes"]["decomposition"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if found == frame["decomposition_hash"].iloc[0] else None


def selected(frame: pd.DataFrame) -> pd.DataFrame:
    """arm, place (from 1) and key of what each arm scales, of its run of lowest seed.

    Arms of more than one choice of subcomponents (a random control) are left out.
    """
    rows = []
    for arm in arms_of(frame["arm"]):
        own = frame[(frame["arm"] == arm) & (frame["masks"].map(len) > 0)]
        if len({tuple(masks) for masks in own["masks"]}) == 1:
            rows += [(arm, place, key) for place, key in enumerate(own.iloc[0]["masks"], start=1)]
    return pd.DataFrame(rows, columns=["arm", "place", "key"])


def _top_tokens(tokens: pd.DataFrame, key: str, side: str) -> str:
    from pd_finetune.selection.labels import readable_tokens

    own = tokens[(tokens["key"] == key) & (tokens["side"] == side) & (tokens["weight_rank"] > 0)]
    return ", ".join(readable_tokens(own.sort_values("weight_rank")["token"], TOKENS_SHOWN))


def fires_on(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Per selected subcomponent: mean_ci_<language> and firing_<language> (fraction of tokens).

    Beside them label, languages (comma-joined, those it fires for) and exclusive of the harvest,
    and tokens_in and tokens_out: the tokens of most weight, count-weighted PMI first.

    Raises:
        UserError: the harvest is of another decomposition, or damaged.
    """
    rows, expected = selected(frame), str(frame["decomposition_hash"].iloc[0])
    try:
        config = json.loads((folder / "harvest.json").read_text(encoding="utf-8"))
        names = [f"{what}_{code}" for what in ("mean_ci", "firing") for code in config["languages"]]
        found = str(config["hashes"]["decomposition"])
        facts = pd.read_parquet(folder / "subcomponents.parquet").set_index("key")
        facts = facts[[*names, "label", "languages", "exclusive"]]
        tokens = pd.read_parquet(folder / "tokens.parquet")
        tokens = tokens[["key", "side", "token", "weight_rank"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read the harvest in '{folder}' ({type(error).__name__}: {error}): make it "
            "with python -m pd_finetune.harvest, or set harvest=<folder>"
        ) from None
    if found != expected:
        raise UserError(
            f"the harvest in '{folder}' is of another decomposition ({found[:12]}, the runs are of "
            f"{expected[:12]}): set harvest=<folder> to theirs"
        )
    missing = [key for key in rows["key"] if key not in facts.index]
    if missing:
        raise UserError(f"the harvest in '{folder}' does not know {missing[0]}")
    sides = {
        f"tokens_{side}": [_top_tokens(tokens, key, side) for key in rows["key"]]
        for side in ("in", "out")
    }
    own = facts.loc[rows["key"]].reset_index(drop=True)
    return pd.concat([rows, own], axis=1).assign(**sides)


def languages_of(numbers: pd.DataFrame) -> list[str]:
    """The languages of a table made by `fires_on`."""
    names = [str(name) for name in numbers.columns]
    return [name.removeprefix("mean_ci_") for name in names if name.startswith("mean_ci_")]
