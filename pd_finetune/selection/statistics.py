"""Running sums over a stream of causal importances: means, firing, token counts, top examples.

A subcomponent *fires* at a position where its causal importance (CI) is above a threshold. All
classes hold one group of subcomponents, concatenated in one last dimension `C`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STRONG_FIRING = 0.1  # CI above which firing is counted a second time, as "strong"
TOP_TOKENS = 12
_CHUNK_ENTRIES = 2**21  # [subcomponents, vocab] entries handled at once in float64 (16 MB each)


def _count(where: Bool[Tensor, "positions C"]) -> Int[Tensor, " C"]:
    """Number of true positions; float32 adds several times faster than bool and is exact here."""
    return where.float().sum(0).long()


class CIStatistics:
    """Sums of CI and counts of firing, by language: batches in float32, their sum in float64."""

    def __init__(self, languages: int, C: int, threshold: float, device: torch.device) -> None:
        self.threshold = threshold
        self.ci = torch.zeros(languages, C, dtype=torch.float64, device=device)
        self.firing = torch.zeros(languages, C, dtype=torch.int64, device=device)
        self.strong = torch.zeros(languages, C, dtype=torch.int64, device=device)

    def add(self, language: int, ci: Float[Tensor, "positions C"]) -> Bool[Tensor, "positions C"]:
        """Add a batch; returns where the subcomponents fire."""
        firing = ci > self.threshold
        self.ci[language] += ci.sum(0)
        self.firing[language] += _count(firing)
        self.strong[language] += _count(ci > STRONG_FIRING)
        return firing


class ActivationStatistics:
    """Sums over tokens of a_c ||U_c|| and of its absolute value, a = x V."""

    def __init__(self, C: int, device: torch.device) -> None:
        self.signed = torch.zeros(C, dtype=torch.float64, device=device)
        self.absolute = torch.zeros(C, dtype=torch.float64, device=device)

    def add(self, activations: Float[Tensor, "positions C"]) -> None:
        self.signed += activations.sum(0)
        self.absolute += activations.abs().sum(0)


@dataclass
class TopTokens:
    """Listed (subcomponent, token) pairs of one side; ranks from 1, 0 = not in that list.

    `pmi` is in nats. `pmi_rank` orders by PMI, `weight_rank` by count-weighted PMI,
    p(x|c) * pmi(x, c): the token's term in KL(p(x|c) || p(x)), so frequent and distinctive.
    """

    subcomponent: Int[Tensor, " pairs"]
    token_id: Int[Tensor, " pairs"]
    pmi: Float[Tensor, " pairs"]
    count: Float[Tensor, " pairs"]
    pmi_rank: Int[Tensor, " pairs"]
    weight_rank: Int[Tensor, " pairs"]


def pmi(
    counts: Float[Tensor, "C vocab"],
    firing_counts: Float[Tensor, " C"],
    token_totals: Float[Tensor, " vocab"],
    tokens: int,
) -> Float[Tensor, "C vocab"]:
    """Pointwise mutual information in nats, ln(count(x,c) N / (count(c) count(x))), in float64.

    -inf where a token never occurs with a subcomponent (Goodfire's harvest, same formula).
    """
    joint = counts.double() * tokens
    apart = firing_counts.double()[:, None] * token_totals.double()
    return torch.where(joint > 0, joint / apart.clamp_min(1e-300), 0.0).log()


def top_tokens(
    counts: Float[Tensor, "C vocab"],
    firing_counts: Int[Tensor, " C"],
    token_totals: Float[Tensor, " vocab"],
    tokens: int,
    k: int = TOP_TOKENS,
) -> TopTokens:
    """The `k` tokens of highest PMI and the `k` of highest count-weighted PMI per subcomponent.

    Equal PMI (within 1e-7 nats) goes to the more frequent token, then to the lower id.
    """
    C, vocab = counts.shape
    k = min(k, vocab)
    ids = torch.arange(vocab, device=counts.device)
    parts: list[tuple[Tensor, ...]] = []
    chunk = max(1, _CHUNK_ENTRIES // vocab)
    for start in range(0, C, chunk):
        part, fired = counts[start : start + chunk], firing_counts[start : start + chunk]
        values = pmi(part, fired, token_totals, tokens)
        share = part.double() / fired.double().clamp_min(1.0)[:, None]
        by_pmi = _ranks(values + 1e-7 * share - 1e-12 * ids, k)
        by_weight = _ranks(torch.where(values > 0, share * values, -torch.inf), k)
        row, token = ((by_pmi > 0) | (by_weight > 0)).nonzero(as_tuple=True)
        at = (row, token)
        parts.append((row + start, token, values[at], part[at], by_pmi[at], by_weight[at]))
    if not parts:
        empty = torch.zeros(0)
        return TopTokens(empty.long(), empty.long(), empty, empty, empty.long(), empty.long())
    return TopTokens(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _ranks(score: Float[Tensor, "C vocab"], k: int) -> Int[Tensor, "C vocab"]:
    """1..k at the k highest finite scores of each row, 0 elsewhere."""
    values, where = score.topk(k, dim=1)
    places = torch.arange(1, k + 1, device=score.device).expand_as(where)
    places = torch.where(values.isfinite(), places, 0)
    return torch.zeros_like(score, dtype=torch.int64).scatter_(1, where, places)


class TokenStatistics:
    """Counts of tokens at firing positions: current token (in), target's softmax mass (out).

    Dense, 8 bytes per (subcomponent, token): see `harvest`, which keeps groups small enough.
    """

    BYTES_PER_ENTRY = 8

    def __init__(self, C: int, vocab: int, device: torch.device) -> None:
        self.tokens = 0
        self.inputs = torch.zeros(C, vocab, dtype=torch.int32, device=device)
        self.outputs = torch.zeros(C, vocab, dtype=torch.float32, device=device)
        self.input_totals = torch.zeros(vocab, dtype=torch.int64, device=device)
        self.output_totals = torch.zeros(vocab, dtype=torch.float64, device=device)
        self.firing = torch.zeros(C, dtype=torch.int64, device=device)

    def add(
        self,
        ids: Int[Tensor, " positions"],
        logits: Float[Tensor, "positions vocab"],
        firing: Bool[Tensor, "positions C"],
    ) -> None:
        """Add a batch of positions; their float32 softmax is made 1,024 at a time."""
        vocab = self.inputs.shape[1]
        self.tokens += len(ids)
        self.firing += _count(firing)
        self.input_totals += torch.bincount(ids, minlength=vocab)
        position, subcomponent = firing.nonzero(as_tuple=True)
        ones = torch.ones_like(position, dtype=torch.int32)
        self.inputs.view(-1).scatter_add_(0, subcomponent * vocab + ids[position], ones)
        for start in range(0, len(ids), 1024):
            mass = torch.softmax(logits[start : start + 1024].float(), -1)
            self.output_totals += mass.sum(0, dtype=torch.float64)
            part = firing[start : start + 1024]
            # most subcomponents are silent in any one batch: multiply the others only
            active = part.any(0).nonzero().squeeze(1)
            # and few at a time: their products are as wide as the vocabulary
            for some in active.split(512):
                product = part[:, some].T.to(mass.dtype) @ mass  # of 16 bits under autocast
                self.outputs.index_add_(0, some, product.float())

    def top(self, k: int = TOP_TOKENS) -> dict[str, TopTokens]:
        """Top tokens of both sides, `in` and `out`."""
        return {
            "in": top_tokens(self.inputs, self.firing, self.input_totals, self.tokens, k),
            "out": top_tokens(self.outputs, self.firing, self.output_totals, self.tokens, k),
        }


class TopExamples:
    """Per language and subcomponent, the position of highest CI in each of the best `k` rows."""

    def __init__(self, languages: int, C: int, k: int, device: torch.device) -> None:
        self.k = k
        self.ci = torch.zeros(languages, k, C, device=device)
        self.row = torch.zeros(languages, k, C, dtype=torch.int64, device=device)
        self.position = torch.zeros(languages, k, C, dtype=torch.int64, device=device)

    def add(self, language: int, first_row: int, ci: Float[Tensor, "rows pos C"]) -> None:
        """Add a batch whose rows are numbered from `first_row`; the earlier row wins a tie."""
        best, position = ci.max(1)
        rows = torch.arange(first_row, first_row + len(ci), device=ci.device)[:, None]
        all_ci = torch.cat((self.ci[language], best.float()))
        order = all_ci.sort(stable=True, dim=0, descending=True).indices[: self.k]
        self.ci[language] = all_ci.gather(0, order)
        self.row[language] = torch.cat((self.row[language], rows.expand_as(best))).gather(0, order)
        self.position[language] = torch.cat((self.position[language], position)).gather(0, order)

    def best(self) -> dict[str, Tensor]:
        """The `k` highest of all languages: `ci`, `language`, `row`, `position`, each [k, C].

        CI saturates at 1, so ties are the rule: they go round the languages, so that the first one
        does not fill the list of a subcomponent that fires in several.
        """
        languages, k, C = self.ci.shape
        # [k, languages] order and a stable sort: at equal CI each language's first, then second
        flat = {
            "ci": self.ci,
            "row": self.row,
            "position": self.position,
            "language": torch.arange(languages, device=self.ci.device)[:, None, None].expand_as(
                self.ci
            ),
        }
        flat = {name: x.transpose(0, 1).reshape(languages * k, C) for name, x in flat.items()}
        order = flat["ci"].sort(stable=True, dim=0, descending=True).indices[: self.k]
        return {name: x.gather(0, order).cpu() for name, x in flat.items()}
