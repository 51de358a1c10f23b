"""Which layout a path has, by what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saeguard.integrations.saelens import gemma_scope, llama_scope, pickled, sae_lens, sparsify
from saeguard.integrations.saelens.encoder import Encoder
from saeguard.monitor.errors import CompileError

Layout = tuple[str, str, Callable[[Path], bool], Callable[[Path], Encoder]]

LAYOUTS: tuple[Layout, ...] = (
    (
        "dictionary_learning", "ae.pt and config.json",
        pickled.matches_dictionary_learning, pickled.read_dictionary_learning,
    ),
    ("sparsify", "cfg.json and sae.safetensors", sparsify.matches, sparsify.read),
    (sae_lens.LAYOUT, "cfg.json and sae_weights.safetensors", sae_lens.matches, sae_lens.read),
    ("Gemma Scope", "params.npz", gemma_scope.matches_first, gemma_scope.read_first),
    (
        "Gemma Scope 2", "params.safetensors",
        gemma_scope.matches_second, gemma_scope.read_second,
    ),
    (
        "Llama Scope", "hyperparams.json and checkpoints/final.safetensors",
        llama_scope.matches, llama_scope.read,
    ),
    (
        "Llama Scope R1", "config.json and sae_weights.safetensors",
        llama_scope.matches_later, llama_scope.read_later,
    ),
    (
        "Qwen-Scope or Goodfire", "the .pt or .pth file itself",
        pickled.matches_one_file, pickled.read_one_file,
    ),
)  # fmt: skip
"""Name, what it is known by, whether a path has it, and its reader; the first that fits is it."""

_WEIGHTS = (
    "ae.pt",
    "sae.safetensors",
    "sae_weights.safetensors",
    "params.npz",
    "params.safetensors",
)


def open_encoder(path: Path, layer: int | None = None) -> Encoder:
    """The encoder of the SAE at a path: its directory, or its file of weights.

    Args:
        layer: whose file is meant in a directory with one per layer, as Qwen-Scope has.

    Raises:
        CompileError: nothing is there, or nothing that can be read.
    """
    if path.is_file() and path.name in _WEIGHTS:
        path = path.parent
    if path.is_dir() and layer is not None and (path / f"layer{layer}.sae.pt").is_file():
        path = path / f"layer{layer}.sae.pt"
    if not path.exists():
        raise CompileError(f"{path}: no such SAE", "sae.path is relative to the rules file")
    for name, _, matches, read in LAYOUTS:
        if matches(path):
            try:
                encoder = read(path)
                encoder.check()
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise CompileError(
                    f"{path}: cannot be read as an SAE of {name}'s layout: {error!r}"
                ) from error
            return encoder
    known = "; ".join(f"{name}: {files}" for name, files, _, _ in LAYOUTS)
    raise CompileError(f"{path}: holds no SAE of a layout that is known", known)
