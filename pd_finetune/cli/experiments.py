"""Committed experiments and the stage that each is of: its file says `# stage: <config name>`.

Hydra has one folder for the group `experiment`, whichever stage asks for it, and one of another
stage would be refused for the first of its groups that is missing, which helps nobody.
"""

import re
from pathlib import Path

from pd_finetune.cli.messages import possible
from pd_finetune.errors import UserError


def experiment_stages(configs: Path) -> dict[str, str]:
    """The stage of every committed experiment, by name."""
    found = {}
    for path in sorted((configs / "experiment").glob("*.yaml")):
        declared = re.search(r"^# stage: (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert declared, f"{path} names no stage"
        found[path.stem] = declared[1]
    return found


def check_experiment(configs: Path, stage: str, overrides: list[str]) -> None:
    """Refuse an `experiment=` that is unknown or of another stage.

    Raises:
        UserError: naming the stage that it is of, and this one's experiments.
    """
    stages = experiment_stages(configs)
    own = [name for name in stages if stages[name] == stage]
    if not own:  # without the group; Hydra says so
        return
    for override in overrides:
        key, _, values = override.lstrip("+").partition("=")
        if key != "experiment":
            continue
        for name in values.split(","):
            other = stages.get(name)
            if name == "null" or other == stage:
                continue
            if other is None:
                raise UserError(f"experiment={name}: {possible(name, own)}")
            module = f"python -m pd_finetune.{other}"
            raise UserError(f"experiment={name} is of {module}; possible here are {', '.join(own)}")
