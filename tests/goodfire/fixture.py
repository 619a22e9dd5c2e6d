"""Where the outputs of Goodfire's own code are kept, if they are."""

import os
from pathlib import Path

VARIABLE = "PD_FINETUNE_GOODFIRE_FIXTURE"


def fixture_folder() -> Path | None:
    """`$PD_FINETUNE_GOODFIRE_FIXTURE`, else `../shared/goodfire/fixture` beside the project."""
    given = os.environ.get(VARIABLE)
    beside = Path(__file__).parents[2].parent / "shared" / "goodfire" / "fixture"
    folder = Path(given) if given else beside
    return folder if (folder / "expected.npz").is_file() else None


ABSENT = f"Goodfire's fixture is neither in ../shared/goodfire/fixture nor in ${VARIABLE}"
