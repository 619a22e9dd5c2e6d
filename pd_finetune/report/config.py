"""Schema of figures and pages of results. No torch here."""

from dataclasses import dataclass

from omegaconf import MISSING

from pd_finetune.schema import Checked


@dataclass
class FiguresConfig(Checked):
    """Figures and tables from a folder of run directories: `python -m pd_finetune.figures`.

    What is null is looked for: the harvest beside the runs' decomposition, tuning trials in
    `<out>/tuning`, rollouts in `<out>/rollouts.jsonl`, variants in `<out>/variants`.
    """

    runs: str = MISSING  # or a runs.csv that this stage wrote
    out: str = MISSING
    harvest: str | None = MISSING
    tuning: str | None = MISSING
    rollouts: str | None = MISSING
    # runs with another target or other protected languages: folders of run directories, or tables
    variants: list[str] | None = MISSING
