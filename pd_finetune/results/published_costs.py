"""Costs of the published 67M model's edit, from public figures; nothing of it was run here.

Public: the target's and the decomposition's configurations and tensor shapes (W&B runs
goodfire/spd/runs/t-9d2b8f02 and s-55ea3f9b), the harvest's number of batches, and the budgets of
the write-up. Not public: steps and protected text of the fine-tunes (the embedded runs' are taken),
what the labels cost, and wall times (outside accounts say 16 to 30 H100-hours).
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pd_finetune.results.break_even import edits_to_break_even
from pd_finetune.results.claims import LORA_R1, ONE_SCALAR
from pd_finetune.results.costs import COLUMNS, ONCE, PER_EDIT, Sizes

PUBLISHED = "the published model"
VOCABULARY, WIDTH, MLP_WIDTH, LAYERS = 50_277, 768, 3_072, 4
# C per layer with d_in + d_out of the matrix
SITES = (
    (512, 2 * WIDTH),  # q
    (512, 2 * WIDTH),  # k
    (1024, 2 * WIDTH),  # v
    (1024, 2 * WIDTH),  # o
    (3072, WIDTH + MLP_WIDTH),  # up
    (3584, WIDTH + MLP_WIDTH),  # down
)
CI_INPUT, CI_WIDTH, CI_MLP_WIDTH, CI_BLOCKS = 27_648, 2_048, 8_192, 8
TARGET_TOKENS = 100_000 * 1024 * 512
DECOMPOSITION_TOKENS = 400_000 * 64 * 512
HARVEST_TOKENS = 20_000 * 32 * 512
H100_HOURS = (16, 30)
H100_FLOPS = 989e12  # per second, dense bf16 by its data sheet
# German tokens, at chance for less than 0.10 nats of English (the write-up)
EDITS = {ONE_SCALAR: 4, LORA_R1: 32}


def sizes() -> Sizes:
    """Weights of target (with head), U and V, and CI function, from the public shapes."""
    matrices = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * MLP_WIDTH)
    subcomponents = LAYERS * sum(count for count, _ in SITES)
    block = 4 * CI_WIDTH**2 + 2 * CI_WIDTH * CI_MLP_WIDTH
    return Sizes(
        target=VOCABULARY * WIDTH + matrices,
        components=LAYERS * sum(count * sides for count, sides in SITES),
        ci_function=CI_INPUT * CI_WIDTH + CI_BLOCKS * block + CI_WIDTH * subcomponents,
    )


def costs(steps: float, protected_tokens_per_step: float) -> pd.DataFrame:
    """As `costs.costs`, edits at the write-up's 4 and 32 German tokens.

    A step of the decomposition: a stochastic and an adversarial pass, two extra climbs. The edits'
    steps and protected text are not public; given are those of other runs.
    """
    size = sizes()
    hours = "outside accounts: {} to {} H100-hours".format(*H100_HOURS)
    passes = f"2 masked passes and 2 extra climbs a step; {hours}"
    labels = "without its labels, which a language model wrote at a cost that is not public"
    once = [
        ("target", TARGET_TOKENS, size.pretraining(), "counts for no method"),
        ("decomposition", DECOMPOSITION_TOKENS, size.decomposing(2, 2), passes),
        ("harvest", HARVEST_TOKENS, size.harvesting(), labels),
    ]
    rows: list[tuple[Any, ...]] = [
        (PUBLISHED, stage, "", pd.NA, ONCE, tokens, math.nan, flops * tokens, math.nan, note)
        for stage, tokens, flops, note in once
    ]
    kept = f"{steps:.0f} steps with {protected_tokens_per_step:.0f} protected tokens each (assumed)"
    for arm, budget in EDITS.items():
        tokens = steps * (budget + protected_tokens_per_step)
        spent = (tokens, budget, size.editing() * tokens, math.nan)
        note = f"{budget} German tokens; {kept}"
        rows.append((PUBLISHED, "edit", arm, budget, PER_EDIT, *spent, note))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"budget": "Int64"})


def break_even(table: pd.DataFrame) -> dict[str, float]:
    """fixed, edit and rival_edit in FLOPs, and the edits to break even."""
    flops = table.set_index(["stage", "arm"])["flops"]
    fixed = float(flops["decomposition", ""] + flops["harvest", ""])
    edit, rival = (float(flops["edit", arm]) for arm in EDITS)
    edits = edits_to_break_even(fixed, edit, rival)
    return {"fixed": fixed, "edit": edit, "rival_edit": rival, "edits": edits}


def implied_utilisation(table: pd.DataFrame) -> tuple[float, float]:
    """FLOPs by formula over what the H100-hours of outside accounts offer, for most and fewest."""
    flops = float(table.set_index("stage")["flops"]["decomposition"])
    fewest, most = (flops / (hours * 3600 * H100_FLOPS) for hours in H100_HOURS)
    return most, fewest
