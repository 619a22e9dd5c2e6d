"""Goodfire's LlamaSimpleMLP targets as `ArceeForCausalLM` folders, converted once.

The two are the same function: Llama with an ungated MLP, tanh GELU, half-split rotary positions on
the whole head, tied embeddings.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from pd_finetune.cache import source_sha256
from pd_finetune.errors import UserError
from pd_finetune.goodfire.architecture import MODEL_CONFIG, TRAINING_CONFIG, read_architecture
from pd_finetune.goodfire.cache import converted
from pd_finetune.goodfire.checkpoint import checkpoint_at, read_tensors
from pd_finetune.goodfire.download import run_folder
from pd_finetune.goodfire.names import arcee_tensors
from pd_finetune.goodfire.schema import Fields, require_tensors
from pd_finetune.text.pile_tokenizer import load_pile_tokenizer

VERSION = 2
NEOX = "EleutherAI/gpt-neox-20b"


def target_folder(given: str, option: str = "model.folder") -> Path | None:
    """The converted transformers folder meant by `given`; None where it is nothing of Goodfire's.

    Args:
        given: a folder in W&B's flat layout (`model_config.yaml` beside `model_step_<n>.pt`),
            Goodfire's local one (`<out>/checkpoints/model_step_<n>.pt`, the configs in `<out>`), a
            checkpoint file in either, or a W&B run path.
        option: the setting that named it, for messages.

    Raises:
        UserError: a W&B run cannot be downloaded, or a file is missing, damaged or not read here.
    """
    path = run_folder(given, option, MODEL_CONFIG)
    checkpoint = checkpoint_at(path) or checkpoint_at(path / "checkpoints")
    near = [path, path.parent] if checkpoint is None else [checkpoint.parent, checkpoint.parents[1]]
    configs = next((folder for folder in near if (folder / MODEL_CONFIG).is_file()), None)
    if checkpoint and configs:
        return convert_target(checkpoint, configs)
    if checkpoint:
        raise UserError(
            f"no target model at '{path}': {MODEL_CONFIG} is missing beside {checkpoint.name}; "
            f"copy it from the run, or set {option}"
        )
    if configs == path:
        raise UserError(
            f"no target model at '{path}': a checkpoint model_step_<n>.pt is missing beside "
            f"{MODEL_CONFIG}; copy it from the run, or set {option}"
        )
    return None


def convert_target(checkpoint: Path, configs: Path) -> Path:
    """The cached transformers folder of a checkpoint: config, safetensors, tokenizer.json.

    Raises:
        UserError: another architecture, names or shapes that do not fit, or no tokenizer.
    """
    tokenizer = run_tokenizer(configs)
    architecture = read_architecture(configs)
    if tokenizer.get_vocab_size() > architecture.vocab_size:
        raise UserError(
            f"the tokenizer of '{configs}' knows {tokenizer.get_vocab_size()} tokens, "
            f"its model {architecture.vocab_size}: put the right tokenizer.json there, or none "
            f"to take the one that its {TRAINING_CONFIG} names"
        )

    def build(folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = read_tensors(checkpoint)
        try:
            # the output embedding is the input embedding; safetensors may leave it out
            expected = architecture.shapes()
            if "lm_head.weight" not in tensors:
                del expected["lm_head.weight"]
            require_tensors(tensors, expected)
            tensors = arcee_tensors(tensors)
        except UserError as error:
            raise UserError(f"target '{checkpoint}': {error}") from None
        architecture.arcee().save_pretrained(folder)
        save_file(
            {name: tensor.float().contiguous() for name, tensor in tensors.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        tokenizer.save(str(folder / "tokenizer.json"))

    sources = {
        "checkpoint": source_sha256(checkpoint),
        "config": source_sha256(configs / MODEL_CONFIG),
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
    }
    return converted("targets", VERSION, sources, build)


def tokenizer_name(configs: Path) -> str:
    """The Hub name that the training config gives, in its old or new spelling, else GPT-NeoX."""
    path = configs / TRAINING_CONFIG
    if not path.is_file():
        return NEOX
    fields = Fields.read(path)
    old = fields.block("train_dataset_config").text("hf_tokenizer_path")
    return old or fields.block("data").text("tokenizer_name") or NEOX


def run_tokenizer(configs: Path) -> Tokenizer:
    """`tokenizer.json` of a run's folder; without one, the tokenizer it names, from the Hub.

    Raises:
        UserError: the file is damaged, or the Hub cannot be reached.
    """
    file = configs / "tokenizer.json"
    name = str(file) if file.is_file() else tokenizer_name(configs)
    try:
        return load_pile_tokenizer(name)
    except UserError as error:
        reason = str(error).split(": set languages")[0]
        raise UserError(f"{reason}: put a working tokenizer.json of it into '{configs}'") from None
