"""Mean and second moment of what each site reads, language by language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pd_finetune.decomposition.components import recorded_inputs, shared_inputs
from pd_finetune.decomposition.sites import Site
from pd_finetune.errors import UserError
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import DocumentSource, token_stream, windows

_ROWS = 32  # windows in a forward


@dataclass(frozen=True)
class InputStatistics:
    """Moments of one site's input x, summed in float64. Languages weigh equally.

    Args:
        means: E[x] of each language.
        second: E[x x^T] of each language.
    """

    means: Float[Tensor, "languages d_in"]
    second: Float[Tensor, "languages d_in d_in"]

    def difference(self, language: int) -> Float[Tensor, " d_in"]:
        """Mean of one language less the mean of the others."""
        others = torch.arange(len(self.means)) != language
        return self.means[language] - self.means[others].mean(0)

    def within(self, language: int) -> Float[Tensor, "d_in d_in"]:
        """Covariance about their own means of a language and of the rest, which is one class."""
        others = torch.arange(len(self.means)) != language
        classes = [
            (self.means[language], self.second[language]),
            (self.means[others].mean(0), self.second[others].mean(0)),
        ]
        covariances = [second - torch.outer(mean, mean) for mean, second in classes]
        share = 1 / len(self.means)
        return share * covariances[0] + (1 - share) * covariances[1]


@torch.no_grad()
def input_statistics(
    target: Target,
    source: DocumentSource,
    languages: Sequence[str],
    sites: dict[str, Site],
    *,
    tokens: int,
    window: int,
    split: str,
) -> tuple[dict[str, InputStatistics], dict[str, int]]:
    """Statistics by site, from windows spread over each language's text; and the tokens read.

    Sites that read one tensor share one.

    Raises:
        UserError: fewer than two languages, a window beyond the context, or no text.
    """
    if len(languages) < 2:
        raise UserError("a language is told from others: languages.all must name two at least")
    if window > target.context:
        raise UserError(
            f"decomposition.window={window}: the target's context is {target.context} tokens"
        )
    first = shared_inputs(target.model, sites, target.readout.example())
    distinct = dict.fromkeys(first.values())
    size = {name: sites[name].d_in for name in distinct}
    means = {n: torch.zeros(len(languages), size[n], dtype=torch.float64) for n in distinct}
    second = {n: torch.zeros(len(languages), d, d, dtype=torch.float64) for n, d in size.items()}
    spent = {}
    for index, language in enumerate(languages):
        stream = token_stream(target.tokenizer, source, language, split)
        ids = torch.from_numpy(windows(stream, -(-tokens // window), window))
        if len(ids) == 0:
            raise UserError(
                f"'{language}' has no {split} text of decomposition.window={window} tokens: "
                "give some, or a shorter window"
            )
        spent[language] = ids.numel()
        for rows in ids.split(_ROWS):
            with recorded_inputs(target.model, sites, set(distinct)) as inputs:
                target.readout.output(rows.to(target.device))
            for name in distinct:
                x = inputs[name].flatten(0, -2).float()
                means[name][index] += x.sum(0).cpu().double() / ids.numel()
                second[name][index] += (x.T @ x).cpu().double() / ids.numel()
    return {n: InputStatistics(means[first[n]], second[first[n]]) for n in sites}, spent
