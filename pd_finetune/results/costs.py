"""What everything costs: text tokens, FLOPs and seconds of each stage, from records on disk.

FLOPs are counted as 2 per weight and token in a forward and 4 more in a backward (2 of these for
the gradient of inputs alone), as is usual (Kaplan et al. 2020, C = 6 N D); attention scores, norms
and optimiser steps are left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from pd_finetune.decomposition.folder import SHIPPED
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256
from pd_finetune.loading.folders import EMBEDDED_TARGET
from pd_finetune.results.arms import arms_of

HERE = "these runs"
ONCE, PER_METHOD, PER_EDIT = "once per model", "once per method", "per edit"
# one table of all costs: stage and arm say what is paid for, `counted` how often
COLUMNS = (
    *("model", "stage", "arm", "budget", "counted"),
    *("tokens", "target_tokens", "flops", "seconds", "note"),
)


@dataclass(frozen=True)
class Sizes:
    """Weights that a token passes: `target` (with its output head), U and V, CI function."""

    target: int
    components: int
    ci_function: int

    def pretraining(self) -> float:
        """FLOPs per token of training the target."""
        return 6.0 * self.target

    def decomposing(self, masked_passes: int = 1, climbs: int = 0) -> float:
        """FLOPs per token of a training step of VPD.

        One clean forward (2N), the CI function (6), each masked pass through U and V (6) and
        through the frozen matrices, whose inputs alone get gradients (4), and each extra climb of
        the adversary (4 and 4).
        """
        passes = masked_passes * (6.0 * self.components + 4.0 * self.target)
        extra = climbs * 4.0 * (self.components + self.target)
        return 2.0 * self.target + 6.0 * self.ci_function + passes + extra

    def harvesting(self) -> float:
        """FLOPs per token of one clean forward, the CI function's, and activations x V."""
        return 2.0 * (self.target + self.ci_function) + self.components

    def editing(self) -> float:
        """FLOPs per token of a fine-tuning step: frozen weights, gradients of inputs alone."""
        return 4.0 * self.target


def _shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the matrices in a safetensors file, from its header."""
    with safe_open(path, "numpy") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return {name: shape for name, shape in shapes.items() if len(shape) == 2}


def _weights(shapes: dict[str, list[int]], prefix: str = "") -> int:
    """Number of entries of matrices whose name starts with `prefix`."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))


def sizes_of(target: Path, decomposition: Path) -> Sizes:
    """Sizes from the two folders' weight files.

    Raises:
        OSError, ValueError, SafetensorError: a file is missing or no safetensors file.
        KeyError: the causal-importance function is left out, and its size not stated.
    """
    shapes = _shapes(target / "model.safetensors")
    if "lm_head.weight" in shapes:  # untied: looking an embedding up costs nothing
        shapes.pop("model.embed_tokens.weight", None)
    parts = _shapes(decomposition / "decomposition.safetensors")
    ci_function = _weights(parts, "ci_function.")
    if ci_function == 0:  # left out of the file; its cost was there
        ci_function = int(_json(decomposition / "decomposition.json")["ci_function_weights"])
    return Sizes(_weights(shapes), _weights(parts, "U.") + _weights(parts, "V."), ci_function)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _target_share(record: dict[str, Any], tokens: float, language: str) -> float:
    return tokens * float(record["config"].get("mixture", {}).get(language, math.nan))


def folders_of(frame: pd.DataFrame) -> tuple[Path, Path] | None:
    """Folders of target and decomposition of the runs; None where they are not at hand.

    What stands there now may be another decomposition than the one that the runs edited.
    """
    model, parts = str(frame["model"].iloc[0]), str(frame["decomposition"].iloc[0])
    target = EMBEDDED_TARGET if model == "embedded" else Path(model)
    decomposition = SHIPPED.get(parts, Path(parts))
    files = [target / "model.safetensors"]
    files += [decomposition / f"decomposition.{kind}" for kind in ("json", "safetensors")]
    if not all(path.is_file() for path in files):
        return None
    found = file_sha256(decomposition / "decomposition.safetensors")
    return (target, decomposition) if found == frame["decomposition_hash"].iloc[0] else None


def _row(stage: str, counted: str, *spent: Any, arm: str = "", budget: Any = pd.NA) -> list[Any]:
    """tokens, target_tokens, flops, seconds and a note, in the table's order."""
    return [HERE, stage, arm, budget, counted, *spent]


def costs(
    frame: pd.DataFrame, trials: pd.DataFrame, target: Path, decomposition: Path
) -> pd.DataFrame:
    """What everything costs, in one table.

    Once per model: the target's own training, decomposing, harvest, effects. Per arm: tuning, each
    trial taken as long as the median reported run at the nearest budget; and per arm and budget one
    edit, seconds by the median run.

    Raises:
        UserError: a record is missing something or damaged.
    """
    try:
        sizes = sizes_of(target, decomposition)
        rows = _preparation(sizes, target, decomposition, str(frame["target_language"].iloc[0]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"cannot tell the costs of '{decomposition}' ({type(error).__name__}: {error}): "
            "its records, or those of the target, are damaged or incomplete"
        ) from None
    rows += _edits(frame, trials, sizes)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"budget": "Int64"})


def _preparation(sizes: Sizes, target: Path, decomposition: Path, language: str) -> list[list[Any]]:
    rows = []
    if (target / "training_record.json").is_file():
        record = _json(target / "training_record.json")
        tokens = record["training_tokens"]
        spent = (tokens, _target_share(record, tokens, language), sizes.pretraining() * tokens)
        note = "the target itself; counts for no method"
        rows.append(_row("target", ONCE, *spent, record["seconds"], note))
    record = _json(decomposition / "decomposition.json")
    tokens, recipe = record["training_tokens"], record["config"].get("recipe", {})
    passes = 1 if recipe.get("recon") == "merged" else 1 + bool(recipe.get("adversary"))
    climbs = int(recipe.get("adversary_extra_climbs", 0))
    flops = sizes.decomposing(passes, climbs) * tokens
    note = f"{passes} masked pass{'es' * (passes > 1)} and {climbs} extra climbs a step"
    spent = (tokens, _target_share(record, tokens, language), flops)
    rows.append(_row("decomposition", ONCE, *spent, record["seconds"], note))
    if (decomposition / "harvest" / "harvest.json").is_file():
        rows += _harvest(sizes, decomposition / "harvest", language)
    return rows


def _harvest(sizes: Sizes, folder: Path, language: str) -> list[list[Any]]:
    """Harvest with labels (no model writes them), and the effects by which one is selected."""
    from pd_finetune.selection.effect import EFFECT_ROWS

    record = _json(folder / "harvest.json")
    spent = record["tokens_per_language"]
    table = pd.read_parquet(folder / "subcomponents.parquet", columns=["exclusive"])
    count, window = int(table["exclusive"].sum()), int(record["window"])
    effects = count * min(EFFECT_ROWS, int(record["rows_per_language"])) * window
    tokens = sum(spent.values())
    flops = sizes.harvesting() * tokens * int(record.get("passes", 1))
    read = (tokens, spent.get(language, 0), flops, record["seconds"])
    again = (0, 0, 2.0 * sizes.target * effects, math.nan)
    note = f"{count} exclusive subcomponents inverted, {effects:,} tokens of the harvest again"
    labels = "labels are read off it; its seconds include the effects"
    return [
        _row("harvest, labels", ONCE, *read, labels),
        _row("selection by effect", ONCE, *again, note),
    ]


def _edits(frame: pd.DataFrame, trials: pd.DataFrame, sizes: Sizes) -> list[list[Any]]:
    rows = []
    names = ["train_seconds", "steps", "protected_tokens_per_step"]
    for arm in arms_of(frame["arm"]):
        table = frame[frame["arm"] == arm].groupby("budget")[names].median()
        budgets = table.index.to_numpy(float)
        tokens = table["steps"] * (budgets + table["protected_tokens_per_step"])
        flops, seconds = sizes.editing() * tokens, table["train_seconds"]
        tried = trials[trials["arm"] == arm]["budget"].to_numpy(float)
        nearest = [table.index[np.abs(np.log(budgets / value)).argmin()] for value in tried]
        spent = (math.nan, math.nan, flops.loc[nearest].sum(), seconds.loc[nearest].sum())
        note = f"{len(tried)} trials, seconds as of the runs"
        rows.append(_row("tuning", PER_METHOD, *spent, note, arm=arm))
        for at in table.index:
            spent = (tokens[at], float(at), flops[at], seconds[at])
            rows.append(_row("edit", PER_EDIT, *spent, "", arm=arm, budget=at))
    return rows
