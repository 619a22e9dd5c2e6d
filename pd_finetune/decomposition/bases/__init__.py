"""Rank-1 pieces of a target's matrices that no training finds: `decomposition=svd|lda|...`.

Each module has a builder `build(target, source, languages, *, ...) -> Decomposition`, named by
`_target_` in its YAML: V and U of every site, no causal-importance function, and a hash of V and U.
"""
