"""What selected subcomponents fire on comes from the harvest, row by row."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pd_finetune.decomposition.folder import EMBEDDED_DECOMPOSITION
from pd_finetune.errors import UserError
from pd_finetune.plots import firing as plot
from pd_finetune.records.record import Hashes, RunRecord
from pd_finetune.results.firing import fires_on, harvest_folder, selected
from pd_finetune.results.frame import runs_frame
from tests.plots import synthetic

FOLDER = EMBEDDED_DECOMPOSITION / "harvest"


def of_embedded(keys: list[str], arm: str = "one_scalar", seed: int = 0) -> RunRecord:
    import json

    made = synthetic.record(arm, 4, seed)
    made.config["decomposition"] = {"folder": "embedded"}
    found = json.loads((FOLDER / "harvest.json").read_text())["hashes"]
    hashes = Hashes(found["target"], found["decomposition"], made.hashes.text)
    return replace(made, masks=dict.fromkeys(keys, -1.0), selection=keys, hashes=hashes)


def test_rows_are_the_harvests() -> None:
    table = pd.read_parquet(FOLDER / "subcomponents.parquet")
    keys = [
        *table[table["label"].str.startswith("German text: ")]["key"].head(1),
        *table["key"].iloc[[0, -1]],
    ]
    runs = [of_embedded(keys[:1]), of_embedded(keys, "top16")]
    frame = runs_frame(runs)
    assert harvest_folder(frame) == FOLDER
    found = fires_on(frame, FOLDER)
    assert found["key"].tolist() == [keys[0], *keys]
    for row in found.itertuples():
        own = table[table["key"] == row.key].iloc[0]
        assert (row.mean_ci_de, row.firing_it) == (own["mean_ci_de"], own["firing_it"])
        assert row.label == own["label"]
    tokens = pd.read_parquet(FOLDER / "tokens.parquet")
    own = tokens[(tokens["key"] == keys[0]) & (tokens["side"] == "in")]
    first = own[own["weight_rank"] == 1]["token"].iloc[0].strip()
    assert first.strip("\n") in found["tokens_in"].iloc[0]
    drawing = plot.draw(found)
    assert drawing is not None
    heat = drawing.figure.axes[0].images[0].get_array()
    assert heat.shape == (4, 6) and float(heat[0, 0]) == found["mean_ci_de"].iloc[0]


def test_other_decompositions_and_random_controls() -> None:
    frame = runs_frame([of_embedded(["h.0.attn.q_proj:0"])])
    with pytest.raises(UserError, match="of another decomposition"):
        fires_on(frame.assign(decomposition_hash="c" * 64), FOLDER)
    with pytest.raises(UserError, match="does not know h.9"):
        fires_on(runs_frame([of_embedded(["h.9.attn.q_proj:0"])]), FOLDER)
    with pytest.raises(UserError, match="cannot read the harvest"):
        fires_on(frame, Path("absent"))
    other = of_embedded(["h.0.attn.q_proj:1"], seed=1)
    assert selected(runs_frame([of_embedded(["h.0.attn.q_proj:0"]), other])).empty
    assert harvest_folder(frame) == FOLDER
    assert harvest_folder(frame.assign(decomposition="absent")) is None
    assert harvest_folder(frame.assign(decomposition_hash="c" * 64)) is None
