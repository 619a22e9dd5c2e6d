"""Goodfire's published artifacts as ours: target, decomposition, labels, harvest.

Only formats are read here; no checkpoint is ever allowed to run code (tensors only).
"""
