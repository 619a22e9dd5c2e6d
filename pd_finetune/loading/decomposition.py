"""Loading a decomposition by name: what ships, a folder of ours, or Goodfire's."""

from __future__ import annotations

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.store import read_decomposition
from pd_finetune.loading.folders import decomposition_folder
from pd_finetune.targets.readout import Decomposable


def load_decomposition(
    folder: str, target: Decomposable, option: str = "decomposition.folder"
) -> Decomposition:
    """The decomposition meant by `decomposition.folder`, see `decomposition_folder`.

    Args:
        option: the config key that names the folder, for messages.

    Raises:
        UserError: files are missing or broken, or it was made from another target.
    """
    return read_decomposition(decomposition_folder(folder, option), target, option)
