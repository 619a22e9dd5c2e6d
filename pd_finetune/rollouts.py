"""Continuations of fixed prompts before and after edits: `python -m pd_finetune.rollouts`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.main import stage_main
from pd_finetune.schema import Count, NotEmpty, Positive, StageConfig

if TYPE_CHECKING:
    from pd_finetune.records.record import RunRecord
    from pd_finetune.results.rollouts import Rollout
    from pd_finetune.targets.load import Target
    from pd_finetune.text.identify import LanguageIdentifier


@dataclass
class RolloutsConfig(StageConfig):
    """Continuations of fixed prompts before and after edits: `python -m pd_finetune.rollouts`.

    Of each arm the runs at its best budget (`results/comparison.py`), those of lowest seed.
    """

    runs: str = MISSING
    out: str = MISSING
    # by language
    prompts: Annotated[
        dict[str, Annotated[list[str], NotEmpty()]], NotEmpty("give two or more languages", 2)
    ] = MISSING
    tokens: Count = MISSING  # of a continuation, at most
    samples: Count = MISSING  # sampled continuations of each prompt, beside the greedy one
    temperature: Positive = MISSING
    runs_per_arm: Count = MISSING


def run(config: RolloutsConfig) -> Path:
    """Continue the prompts with the unedited model and with chosen runs; write `rollouts.jsonl`.

    Raises:
        UserError: there are no finished runs, what they edited is not at hand, or a prompt is too
            long or of a language that cannot be identified.
    """
    from tqdm import tqdm

    from pd_finetune.edits.edit import SavedEdit
    from pd_finetune.files import make_folder
    from pd_finetune.finetuning.saved import target_of
    from pd_finetune.report.tables import score_table
    from pd_finetune.results.rollouts import FILE, read_rollouts, write_rollouts
    from pd_finetune.runtime import prepare
    from pd_finetune.tables import print_table
    from pd_finetune.targets.changes import edited
    from pd_finetune.text.identify import LanguageIdentifier

    chosen = _chosen(Path(config.runs).expanduser(), config.runs_per_arm)
    out = make_folder(Path(config.out).expanduser())
    identifier = LanguageIdentifier(tuple(config.prompts))
    prepare(config.threads)
    first, record = next(iter(chosen.items()))
    target = target_of(record, first, config.device)  # all runs are of the same
    rollouts = list(_rollouts(config, target, identifier, None, nullcontext()))
    for folder, record in tqdm(chosen.items(), desc="rollouts", unit="run"):
        change = edited(target.model, SavedEdit(folder, target))
        rollouts += _rollouts(config, target, identifier, record, change)
    path = out / FILE
    write_rollouts(path, rollouts)
    target_language = record.target_language
    print_table(
        score_table(read_rollouts(path), target_language),
        "share of continuations in their prompt's language, and of repeated 4-grams",
    )
    print(f"rollouts: {path}")
    return path


def _chosen(root: Path, count: int) -> dict[Path, RunRecord]:
    """Of each arm the `count` runs of lowest seed at the arm's best budget, by directory."""
    from pd_finetune.records.record import read_runs
    from pd_finetune.results.comparison import comparison_budgets
    from pd_finetune.results.frame import runs_frame

    runs = read_runs(root, on_broken=lambda error: print(f"left out: {error}"))
    if not runs:
        raise UserError(
            f"no finished runs in '{root}': give runs=... a folder of run directories, which "
            "python -m pd_finetune.run makes"
        )
    budgets = comparison_budgets(runs_frame(list(runs.values()))).set_index("arm")["budget"]
    by_arm: dict[str, dict[int, Path]] = {arm: {} for arm in budgets.index}
    for folder, record in runs.items():
        if record.budget == budgets[record.arm]:
            by_arm[record.arm].setdefault(record.seed, folder)
    folders = [own[seed] for own in by_arm.values() for seed in sorted(own)[:count]]
    return {folder: runs[folder] for folder in folders}


def _rollouts(
    config: RolloutsConfig,
    target: Target,
    identifier: LanguageIdentifier,
    record: RunRecord | None,
    edited: AbstractContextManager[None],
) -> Iterator[Rollout]:
    """Greedy and sampled continuations of all prompts by the target, edited as in `record`."""
    from pd_finetune.evaluation.repetition import repeated_ngrams
    from pd_finetune.evaluation.sampling import generate
    from pd_finetune.results.rollouts import UNEDITED, Rollout, identified

    prompts = [(code, text) for code, texts in config.prompts.items() for text in texts]
    texts = [text for _, text in prompts]
    with edited:
        by_mode = {
            "greedy": generate(target, texts, config.tokens),
            "sampled": generate(
                target,
                texts,
                config.tokens,
                samples=config.samples,
                temperature=config.temperature,
                seed=config.seed,
            ),
        }
    for mode, by_prompt in by_mode.items():
        for (language, prompt), continuations in zip(prompts, by_prompt, strict=True):
            for sample, ids in enumerate(continuations):
                text = str(target.tokenizer.decode(ids, skip_special_tokens=True))
                yield Rollout(
                    arm=UNEDITED if record is None else record.arm,
                    budget=None if record is None else record.budget,
                    seed=None if record is None else record.seed,
                    mode=mode,
                    sample=sample,
                    language=language,
                    prompt=prompt,
                    continuation=text,
                    identified=identified(text, identifier),
                    repetition=repeated_ngrams(ids),
                )


if __name__ == "__main__":
    stage_main("rollouts", RolloutsConfig, run)
