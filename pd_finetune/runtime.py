"""Process-wide settings: threads, allocator, device and number formats."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pd_finetune.errors import UserError

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_FEW_PARAMETERS = 10_000_000
_default_threads = 0  # torch's own, once it was changed


@contextmanager
def no_collection(freeze: bool = False) -> Iterator[None]:
    """Pause the search for unreachable objects.

    Imports of torch and transformers make millions of objects that stay; looking through them again
    and again takes a fifth of the time that they take.

    Args:
        freeze: never search what is there by then. For imports alone: a model would never be freed.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if was_on:
            gc.enable()


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of handing them back to the system.

    Activations of a training step are tens of MB each; returned to the system at every free, they
    are faulted in again page by page. Elsewhere than on glibc this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def device_of(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        UserError: the name is unknown or there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}'; possible: auto, cpu, cuda, cuda:<n>") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unsupported device '{name}'; possible: auto, cpu, cuda, cuda:<n>")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{name}' asked for, but torch sees no CUDA here: use device=cpu")
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matmuls run in hardware: CUDA since Ampere, CPUs with AMX or AVX512-BF16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return " amx_bf16" in flags or " avx512_bf16" in flags


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast for `bfloat16`, none for `float32`; `auto` takes bf16 where it is fast."""
    import torch

    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    if precision == "float32":
        return nullcontext()
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    raise UserError(f"unknown precision '{precision}'; possible: auto, float32, bfloat16")


def prepare(threads: int = 0) -> None:
    """Settle a stage's process: allocator, CPU threads (0: torch's default), quiet libraries."""
    with no_collection(freeze="transformers" not in sys.modules):
        import torch
        from transformers.utils import logging

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def settle_threads(device: torch.device, parameters: int) -> None:
    """One CPU thread for a model of few parameters, torch's default for others.

    Its operations end before a second thread is awake: with two that sleep in between, a run of
    the embedded model takes longer than with one, and with two that spin several times as long
    wherever something else wants a core. Runs on other cores are for a sweep's launcher.
    """
    import torch

    global _default_threads
    _default_threads = _default_threads or torch.get_num_threads()
    small = device.type == "cpu" and parameters < _FEW_PARAMETERS
    torch.set_num_threads(1 if small else _default_threads)
