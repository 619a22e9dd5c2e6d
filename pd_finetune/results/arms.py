"""The arms of the comparison: their labels, order and colours, as `configs/arm/*.yaml` has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import yaml

from pd_finetune.files import config_folder

# Okabe and Ito's palette goes on for arms that are not committed; yellow is too pale for lines
_OTHER_COLOURS = ("#CC79A7", "#000000", "#999999", "#F0E442")


@dataclass(frozen=True)
class Arm:
    """One arm: `name` in records and on the command line, `label` where people read.

    `colour` is hexadecimal; lower `order` comes first.
    """

    name: str
    label: str
    order: float
    colour: str


@cache
def committed_arms() -> dict[str, Arm]:
    """The arms that come with the package, by name and in their order."""
    found = [
        yaml.safe_load(path.read_text("utf-8"))
        for path in sorted((config_folder() / "arm").glob("*.yaml"))
    ]
    arms = sorted((Arm(**values["arm"]) for values in found), key=lambda arm: arm.order)
    return {arm.name: arm for arm in arms}


def label(name: str) -> str:
    """What people read for an arm; one that is not committed is called by its name."""
    arm = committed_arms().get(name)
    return arm.label if arm else name or "(no arm)"


def arms_of(names: Iterable[str]) -> dict[str, Arm]:
    """The arms among some names: the committed ones in their order, then others by name."""
    known, present = committed_arms(), set(names)
    others = {
        name: Arm(name, label(name), float("inf"), _OTHER_COLOURS[n % len(_OTHER_COLOURS)])
        for n, name in enumerate(sorted(present - set(known)))
    }
    return {name: arm for name, arm in known.items() if name in present} | others
