"""Costs of the published 67M model's edit, from public figures; nothing of it was run here.

Public: the target's and the decomposition's configurations and tensor shapes (W&B runs
goodfire/spd/runs/t-9d2b8f02 and s-55ea3f9b), the harvest's number of batches, and the budgets of
the write-up. Not public: steps and protected text of the fine-tunes (the embedded runs' are taken),
what the labels cost, and wall times (outside accounts say 16 to 30 H100-hours).
"""

from __future__ import annotations

import math

import pandas as pd

from pd_finetune.results.break_even import edits_to_break_even
from pd_finetune.results.costs import COLUMNS, ONCE, Sizes

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
MASK_TOKENS, LORA_TOKENS = 4, 32  # German, at chance for < 0.10 nats of English (the write-up)


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


def preparation() -> pd.DataFrame:
    """As `costs.preparation`; a step: a stochastic and an adversarial pass, two extra climbs."""
    size = sizes()
    hours = "; outside accounts: {} to {} H100-hours".format(*H100_HOURS)
    rows = [
        (
            *("target", ONCE, TARGET_TOKENS, math.nan),
            *(size.pretraining() * TARGET_TOKENS, math.nan, "counts for no method"),
        ),
        (
            *("decomposition", ONCE, DECOMPOSITION_TOKENS, math.nan),
            *(size.decomposing(2, 2) * DECOMPOSITION_TOKENS, math.nan),
            f"2 masked passes and 2 extra climbs a step{hours}",
        ),
        (
            *("harvest", ONCE, HARVEST_TOKENS, math.nan),
            *(size.harvesting() * HARVEST_TOKENS, math.nan),
            "without its labels, which a language model wrote at a cost that is not public",
        ),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def edit_flops(budget: int, steps: float, protected_tokens_per_step: float) -> float:
    """FLOPs of one edit with that many German tokens, other settings as in the embedded runs."""
    return sizes().editing() * steps * (budget + protected_tokens_per_step)


def break_even(steps: float, protected_tokens_per_step: float) -> dict[str, float]:
    """fixed, mask_edit and lora_edit in FLOPs, and the edits to break even, at the write-up's
    4 and 32 German tokens."""
    prepared = preparation()
    fixed = float(prepared[prepared["stage"] != "target"]["flops"].sum())
    mask = edit_flops(MASK_TOKENS, steps, protected_tokens_per_step)
    lora = edit_flops(LORA_TOKENS, steps, protected_tokens_per_step)
    return {
        "fixed": fixed,
        "mask_edit": mask,
        "lora_edit": lora,
        "edits": edits_to_break_even(fixed, mask, lora),
    }


def implied_utilisation() -> tuple[float, float]:
    """FLOPs by formula over what the H100-hours of outside accounts offer, for most and fewest."""
    prepared = preparation().set_index("stage")["flops"]
    fewest, most = H100_HOURS
    flops = float(prepared["decomposition"])
    return flops / (most * 3600 * H100_FLOPS), flops / (fewest * 3600 * H100_FLOPS)
