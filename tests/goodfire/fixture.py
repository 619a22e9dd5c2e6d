"""Where the outputs of Goodfire's own code are kept, if they are."""

import json
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


def real_shapes() -> dict[str, dict[str, list[int]]] | None:
    """Names and shapes of the real runs' tensors, kept beside the fixture."""
    folder = fixture_folder()
    path = folder.parent / "real_shapes.json" if folder else None
    return json.loads(path.read_text()) if path and path.is_file() else None
