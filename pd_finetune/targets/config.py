"""Schema of a target. No torch here."""

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from pd_finetune.schema import Checked, OneOf


@dataclass
class ModelConfig(Checked, at="model"):
    """Any transformers causal language model in a folder ("embedded": the one that ships).

    `folder` may also be a name on the Hugging Face Hub, or a Goodfire checkpoint: a W&B run path,
    or a local folder of its files.
    """

    folder: str = MISSING
    dtype: Annotated[str, OneOf("float32", "bfloat16")] = MISSING
