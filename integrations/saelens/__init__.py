"""Read the watched rows of sparse autoencoders and transcoders, in the layouts that sae-lens knows.

Which layout a directory or file has is told by what is in it; `docs/sae.md` lists them.
"""

from saeguard.integrations.saelens.rows import read_features

__all__ = ["read_features"]
