"""Ways of editing weights: one file each, one protocol."""

from pd_finetune.methods.protocol import Method

__all__ = ["Method"]
