"""Goodfire's LlamaSimpleMLP targets as `ArceeForCausalLM` folders, converted once.

The two are the same function: Llama with an ungated MLP, tanh GELU, half-split rotary positions on
the whole head, tied embeddings.
"""

from __future__ import annotations

from pathlib import Path

from pd_finetune.errors import UserError
from pd_finetune.files import source_sha256
from pd_finetune.goodfire.architecture import arcee_config, expected_shapes, model_values
from pd_finetune.goodfire.cache import converted
from pd_finetune.goodfire.checkpoint import (
    is_checkpoint,
    latest_checkpoint,
    read_tensors,
    require_shapes,
)
from pd_finetune.goodfire.names import arcee_tensors
from pd_finetune.goodfire.runs import run_folder
from pd_finetune.goodfire.tokenizer import run_tokenizer, tokenizer_sha256

VERSION = 1
MODEL_CONFIG = "model_config.yaml"


def target_folder(given: str, option: str = "model.folder") -> Path:
    """The transformers folder meant by `given`: itself where it is one, else a conversion of it.

    Args:
        given: a transformers folder, a folder in W&B's flat layout (`model_config.yaml` beside
            `model_step_<n>.pt`), Goodfire's local one (`<out>/checkpoints/model_step_<n>.pt`, the
            configs in `<out>`), a checkpoint file in either, or a W&B run path.

    Raises:
        UserError: a W&B run cannot be downloaded, or the checkpoint cannot be read.
    """
    path = Path(given).expanduser()
    if (path / "config.json").is_file():
        return path
    path = run_folder(given, option, MODEL_CONFIG)
    found = _checkpoint(path)
    return convert_target(*found) if found else path


def _checkpoint(path: Path) -> tuple[Path, Path] | None:
    """Checkpoint file and the folder of its configs; None where this is no Goodfire layout."""
    if is_checkpoint(path):
        checkpoint, near = path, (path.parent, path.parent.parent)
    else:
        places = (path, path / "checkpoints")
        files = [file for place in places if (file := latest_checkpoint(place))]
        if not files:
            return None
        checkpoint, near = files[0], (path, path.parent)
    for folder in near:
        if (folder / MODEL_CONFIG).is_file():
            return checkpoint, folder
    return None


def convert_target(checkpoint: Path, configs: Path) -> Path:
    """The cached transformers folder of a checkpoint: config, safetensors, tokenizer.json.

    Raises:
        UserError: another architecture, names or shapes that do not fit, or no tokenizer.
    """
    tokenizer = run_tokenizer(configs)
    sources = {
        "checkpoint": source_sha256(checkpoint),
        "config": source_sha256(configs / MODEL_CONFIG),
        "tokenizer": tokenizer_sha256(tokenizer),
    }

    def build(folder: Path) -> None:
        from safetensors.torch import save_file

        values = model_values(configs / MODEL_CONFIG)
        if tokenizer.get_vocab_size() > values["vocab_size"]:
            raise UserError(
                f"the tokenizer of '{configs}' knows {tokenizer.get_vocab_size()} tokens, "
                f"its model {values['vocab_size']}: put the right tokenizer.json there, or none "
                "to take the one that its final_config.yaml names"
            )
        tensors = arcee_tensors(read_tensors(checkpoint))
        require_shapes(tensors, expected_shapes(values), checkpoint)
        arcee_config(values).save_pretrained(folder)
        save_file(
            {name: tensor.float().contiguous() for name, tensor in tensors.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        tokenizer.save(str(folder / "tokenizer.json"))

    return converted("targets", VERSION, sources, build)
