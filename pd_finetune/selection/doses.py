"""What one scale alone can do: cross-entropy of target and protected text against the scale m.

No tokens are trained on: the scale is turned until the target language is at chance, and the price
is read off. It is about the best that tuning this one number could find, so it tells a poor choice
of subcomponent from poor tuning, and one basis of rank-1 matrices from another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from jaxtyping import Int
from torch import Tensor

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.scales import change_of
from pd_finetune.targets.changes import edited, lowest_layer
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import Predictions

INVERTED = -1.0  # the scale m; 1 is the unedited target
# distances m - 1 on either side of the unedited target: few, as most candidates never get there, so
# that what rises to chance and falls again between two of them is missed
DISTANCES = (4.0, 11.0, 23.0, 45.0)
MOST_DAMAGE = 2.0  # of protected text, in nats per token: a higher price is none
HALVINGS = 5  # of the interval in which chance is crossed


@dataclass(frozen=True)
class Dose:
    """Mean cross-entropies, in nats per token, at one scale."""

    scale: float
    target_ce: float
    protected_ce: float


@dataclass(frozen=True)
class Price:
    """Where one scale takes the target language to chance; nan where none is found that does."""

    scale: float
    damage: float  # of protected text, in nats per token


class Doses:
    """Measures doses of one basis on the same windows.

    Args:
        texts: windows of the target language, the protected one, and others, in this order.
    """

    def __init__(
        self,
        target: Target,
        basis: Decomposition,
        texts: Sequence[Int[Tensor, "rows pos"]],
        batch: int = 0,
    ) -> None:
        self._target, self._basis, self._texts, self._batch = target, basis, texts, batch
        # at 1 any subcomponent leaves the target as it is
        self.clean = self.at(basis.all_keys()[0], 1.0)

    def cross_entropies(self, key: SubcomponentKey, scale: float) -> list[float]:
        """Mean nats per token of each text with one subcomponent's scale at `scale`."""
        return self._of(key, scale, self._texts)

    def _of(
        self, key: SubcomponentKey, scale: float, texts: Sequence[Int[Tensor, "rows pos"]]
    ) -> list[float]:
        change = change_of(self._basis, {key: scale}, self._target.device)
        predictions = Predictions(self._target, lowest_layer(change), self._batch)
        ces = []
        for ids in texts:
            rows = predictions.prepared(ids[:, :-1])
            with edited(self._target.model, change):
                ces.append(fmean(predictions.scores(rows, ids[:, 1:])[0]))
        return ces

    def at(self, key: SubcomponentKey, scale: float) -> Dose:
        """Those of target and protected language."""
        target, protected = self._of(key, scale, self._texts[:2])
        return Dose(scale, target, protected)

    def curve(
        self,
        key: SubcomponentKey,
        sign: int,
        chance: float,
        distances: Sequence[float] = DISTANCES,
    ) -> list[Dose]:
        """Doses at growing distances from 1, until the target is at chance.

        Args:
            sign: -1 suppresses and inverts, 1 amplifies.
            chance: the target's cross-entropy that is wanted, in nats per token.
        """
        doses = [self.clean]
        for distance in distances:
            doses.append(self.at(key, 1 + sign * distance))
            if doses[-1].target_ce >= chance:
                break
        return doses

    def prices(self, key: SubcomponentKey, chance: float) -> dict[int, Price]:
        """What chance costs by suppressing or inverting (-1) and by amplifying (1)."""
        curves = {sign: self.curve(key, sign, chance) for sign in (-1, 1)}
        return {s: price_of(self.refined(key, c, chance), chance) for s, c in curves.items()}

    def price(self, key: SubcomponentKey, chance: float) -> Price:
        """The cheaper of the two directions; nan where neither is at chance for `MOST_DAMAGE`."""
        found = self.prices(key, chance).values()
        return min(found, key=lambda p: math.inf if math.isnan(p.damage) else p.damage)

    def refined(self, key: SubcomponentKey, doses: list[Dose], chance: float) -> list[Dose]:
        """The last interval halved a few times where the target is at chance at its end."""
        if doses[-1].target_ce < chance:
            return doses
        below, above = doses[-2], doses[-1]
        for _ in range(HALVINGS):
            middle = self.at(key, (below.scale + above.scale) / 2)
            below, above = (below, middle) if middle.target_ce >= chance else (middle, above)
        return [doses[0], below, above]


def price_of(doses: Sequence[Dose], chance: float) -> Price:
    """Where the target's cross-entropy crosses `chance`, linear between neighbouring doses.

    The first crossing that the doses show; nan without one, or for more than `MOST_DAMAGE`.

    Args:
        doses: in order, the unedited target first.
    """
    for before, after in zip(doses, doses[1:], strict=False):
        if before.target_ce < chance <= after.target_ce:
            share = (chance - before.target_ce) / (after.target_ce - before.target_ce)
            scale = before.scale + share * (after.scale - before.scale)
            ce = before.protected_ce + share * (after.protected_ce - before.protected_ce)
            if ce - doses[0].protected_ce > MOST_DAMAGE:
                break
            return Price(scale, ce - doses[0].protected_ce)
    return Price(math.nan, math.nan)


def effect(doses: Doses, key: SubcomponentKey) -> float:
    """Nats by which inverting a subcomponent raises the target's cross-entropy beyond the other's.

    As `selection.effect` has it, but for the protected language's own rise, which is taken off.
    """
    inverted, clean = doses.at(key, INVERTED), doses.clean
    rise = inverted.target_ce - clean.target_ce
    return rise - (inverted.protected_ce - clean.protected_ce)
