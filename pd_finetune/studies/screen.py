"""Is a language kept in one place of a target? `python -m pd_finetune.studies.screen`.

A screen before a decomposition is trained: at every matrix the ridge-LDA piece of the language and
its difference-of-means piece (`decomposition=lda`, `mean_difference`) are turned until held-out
text of the language is at chance, and the damage to all other text is read there. A target passes
by a rule that was fixed before any was screened:

- the cheapest piece reaches chance at |m| <= 3 with every other slice below 0.05 nats of damage;
- the target speaks the language: at least 90 % of greedy and of sampled continuations are
  identified as the language, and its cross-entropy is at least 2 nats below the unigram's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import MISSING

from pd_finetune.decomposition.bases.config import LanguageBasisConfig, LDABasisConfig
from pd_finetune.main import stage_main
from pd_finetune.schema import Count, Natural, NotEmpty, Split, StageConfig, require
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from pd_finetune.selection.doses import Doses
    from pd_finetune.studies.speech import Speech
    from pd_finetune.targets.load import Target
    from pd_finetune.text.tokens import DocumentSource

MOST_SCALE = 3.0  # |m| at chance
MOST_DAMAGE_NATS = 0.05  # of any other slice there


@dataclass
class ScreenConfig(StageConfig):
    """The price of chance by pieces that need no training, for one target and language."""

    model: ModelConfig = MISSING
    languages: LanguagesConfig = MISSING
    lda: LDABasisConfig = MISSING
    mean_difference: LanguageBasisConfig = MISSING
    split: Split = MISSING
    rows: Count = MISSING  # windows of each language
    window: Count = MISSING
    batch: Natural = MISSING
    scales: Annotated[list[float], NotEmpty()] = MISSING
    prompts: Count = MISSING
    prompt_tokens: Count = MISSING
    tokens: Count = MISSING  # of a continuation
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        falling = all(a > b for a, b in zip([1.0, *self.scales], self.scales, strict=False))
        require(falling, f"scales={self.scales}: give falling numbers below 1")


def run(config: ScreenConfig) -> Path:
    """Screen a target; write `screen.csv`, `screen.md` and `dose_curve`, of the cheapest piece.

    Raises:
        UserError: the target is not at hand, or a language has no such text.
    """
    import pandas as pd
    from hydra.utils import instantiate

    from pd_finetune.decomposition.bases.assemble import built
    from pd_finetune.files import make_folder, write_text
    from pd_finetune.loading.target import load_target
    from pd_finetune.plots import screen as picture
    from pd_finetune.plots import style
    from pd_finetune.runtime import device_of, prepare
    from pd_finetune.selection.doses import Doses
    from pd_finetune.studies.speech import speech

    prepare(config.threads)
    out = make_folder(Path(config.out).expanduser())
    target = load_target(config.model.folder, device_of(config.device), config.model.dtype)
    source = instantiate(config.languages.source)
    texts = _held_out(config, target, source)
    language = config.languages.target
    said = speech(
        target,
        source,
        config.languages,
        texts[language],
        prompts=config.prompts,
        prompt_tokens=config.prompt_tokens,
        tokens=config.tokens,
        split=config.split,
        seed=config.seed,
    )
    tables, doses = [], {}
    for kind, settings in (("LDA", config.lda), ("means", config.mean_difference)):
        basis = built(settings, target, source, config.languages.all)
        first, doses[kind] = (
            Doses(target, basis, windows, config.batch)
            for windows in (list(texts.values())[:2], list(texts.values()))
        )
        sites = list(basis.sites)
        tables.append(prices(config, kind, first, doses[kind], sites, target.chance_nats))
    table = pd.concat(tables, ignore_index=True).sort_values(
        ["worst_nats", "effect_nats"], ascending=[True, False], na_position="last"
    )
    table.to_csv(out / "screen.csv", index=False, float_format="%.4f")
    write_text(out / "screen.md", page(config, target, table, said))
    best = table.iloc[0]
    curves = curve(config, doses[best["kind"]], best["key"], best["scale"])
    name = f"{best['kind']} piece {best['key']}"
    style.save(picture.draw(curves, name, language), out, "dose_curve")
    print(f"screen: {out / 'screen.md'}: {verdict(table, said)}")
    return out


def _order(config: ScreenConfig) -> list[str]:
    """The target language, the protected ones, the others."""
    languages = config.languages
    return [languages.target, *languages.preserve, *languages.off_target]


def _held_out(config: ScreenConfig, target: Target, source: DocumentSource) -> dict[str, Tensor]:
    """Windows [rows, window] of each language, in order."""
    from pd_finetune.evaluation.config import EvaluationConfig
    from pd_finetune.evaluation.held_out import held_out

    settings = EvaluationConfig(
        split=config.split,
        rows=config.rows,
        window=config.window,
        batch=config.batch,
        out_of_domain=False,
    )
    found = held_out(target, source, _order(config), settings)
    return {language: text.ids for language, text in found.items()}


def prices(
    config: ScreenConfig,
    kind: str,
    first: Doses,
    every: Doses,
    sites: list[str],
    chance_nats: float,
) -> pd.DataFrame:
    """A row per site: what inverting the piece does, and where and for what it reaches chance.

    Args:
        first: of target and first protected language alone, for finding the place.
        every: of all slices, for its price.

    Columns: `kind`, `key`; `effect_nats`, the target language's rise at the first scale; `scale`,
    at which it is at chance (nan: at none up to the last scale), and there `damage_<slice>_nats`
    of the others and `worst_nats`, the highest of them.
    """
    import math

    import pandas as pd
    from tqdm import tqdm

    from pd_finetune.selection.doses import price_of
    from pd_finetune.targets.keys import SubcomponentKey

    order, rows = _order(config), []
    place = config.languages.all.index(config.languages.target)
    clean = every.cross_entropies(SubcomponentKey(sites[0], place), 1.0)
    distances = [1 - scale for scale in config.scales]
    for site in tqdm(sites, desc=f"{kind} pieces", unit="matrix"):
        key = SubcomponentKey(site, place)
        found = first.curve(key, -1, chance_nats, distances)
        price = price_of(first.refined(key, found, chance_nats), chance_nats)
        row = {"kind": kind, "key": str(key), "scale": price.scale}
        row["effect_nats"] = found[1].target_ce - clean[0]
        if not math.isnan(price.scale):
            ces = every.cross_entropies(key, price.scale)
            damages = {n: ce - c for n, ce, c in zip(order, ces, clean, strict=True)}
            row |= {f"damage_{n}_nats": damages[n] for n in order[1:]}
            row["worst_nats"] = max(damages[n] for n in order[1:])
        rows.append(row)
    columns = ["kind", "key", "effect_nats", "scale", "worst_nats"]
    return pd.DataFrame(rows, columns=[*columns, *(f"damage_{n}_nats" for n in order[1:])])


def curve(config: ScreenConfig, doses: Doses, name: str, scale: float) -> pd.DataFrame:
    """Change of every slice's cross-entropy over the scale of one piece: `scale`, `language`,
    `change_nats`."""
    import math

    import pandas as pd

    from pd_finetune.targets.keys import SubcomponentKey

    key, order = SubcomponentKey.parse(name), _order(config)
    scales = {1.0, *config.scales} | (set() if math.isnan(scale) else {scale})
    clean = doses.cross_entropies(key, 1.0)
    rows = [
        (m, language, ce - before)
        for m in sorted(scales, reverse=True)
        for language, ce, before in zip(order, doses.cross_entropies(key, m), clean, strict=True)
    ]
    return pd.DataFrame(rows, columns=["scale", "language", "change_nats"])


def verdict(table: pd.DataFrame, said: Speech) -> str:
    """`passes`, or what fails, by the rule."""
    best, failures = table.iloc[0], []
    # a comparison with nan is false: a piece that never gets there fails
    if not (abs(best["scale"]) <= MOST_SCALE and best["worst_nats"] < MOST_DAMAGE_NATS):
        failures.append("no piece is cheap enough")
    if not said.passes:
        failures.append("it does not speak the language well enough")
    return "passes" if not failures else "fails: " + "; ".join(failures)


def page(config: ScreenConfig, target: Target, table: pd.DataFrame, said: Speech) -> str:
    """The table of the pieces that reach chance, cheapest first, and the verdict."""
    from textwrap import fill

    from pd_finetune.plots.style import language_name
    from pd_finetune.studies.speech import LEAST_BELOW_UNIGRAM_NATS, LEAST_SHARE
    from pd_finetune.tables import markdown

    language = language_name(config.languages.target)
    there = table.dropna(subset="scale").copy()
    shown = there[["kind", "key"]].assign(m=there["scale"].map("{:+.1f}".format))
    damages = [str(name) for name in table if str(name).startswith("damage_")]
    for column in ["effect_nats", "worst_nats", *damages]:
        heading = column.removesuffix("_nats").removeprefix("damage_")
        shown[heading] = there[column].map("{:+.3f}".format)
    spent = config.lda.tokens, config.mean_difference.tokens
    words = (
        f"One rank-1 piece of {language} at each matrix, turned until {config.split} text "
        f"({config.rows} windows of {config.window} tokens) is at chance "
        f"({target.chance_nats:.2f} nats): *m*, its scale there; *effect*: the rise of {language} "
        f"at m = {config.scales[0]:g}; then the damage of the worst other slice and of each, in "
        f"nats per token. {len(there)} of {len(table)} get there by m = {config.scales[-1]:g}. "
        f"Pieces: from {max(spent):,} tokens of {config.lda.split} text of each language, no "
        "training."
    )
    rule = (
        f"Rule: the cheapest piece is at chance at |m| <= {MOST_SCALE:g} with every other slice "
        f"below {MOST_DAMAGE_NATS:g}; at least {LEAST_SHARE:.0%} of "
        f"continuations are identified as {language}; its cross-entropy is at least "
        f"{LEAST_BELOW_UNIGRAM_NATS:g} nats below the unigram's."
    )
    speaks = (
        f"{language}: {said.greedy_share:.0%} of greedy and {said.sampled_share:.0%} of sampled "
        f"continuations are identified as it; cross-entropy {said.ce_nats:.2f} nats, unigram "
        f"{said.unigram_nats:.2f}."
    )
    return (
        f"# Screen of target {target.hash[:12]}\n\n{fill(words, 118)}\n\n"
        f"{markdown(shown)}\n{fill(speaks, 118)}\n\n{fill(rule, 118)}\n\n"
        f"This target {verdict(table, said)}.\n"
    )


if __name__ == "__main__":
    stage_main("screen", ScreenConfig, run)
