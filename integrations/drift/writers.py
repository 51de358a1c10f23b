"""Which weights write into the residual stream, and before which hook point.

The residual stream is the sum of the embedding and of what every attention and MLP has added to it,
so that a change of the matrices that make these summands changes it by the same amount, whatever
their inputs. How a model calls them is told by name; what is not known is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from saeguard.integrations.drift.checkpoints import Checkpoint
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint

Part = Literal["embedding", "attention", "mlp"]

_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|wpe|word_embeddings|embed_in)\.weight$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_OUTPUTS: dict[Part, re.Pattern[str]] = {
    "attention": re.compile(
        r"(?:self_attn|attn|attention|self_attention|linear_attn|mamba|mixer|temporal_block|conv)\."
        r"(?:o_proj|out_proj|c_proj|dense|wo)\.(?:weight|bias)$"
    ),
    "mlp": re.compile(
        r"(?:mlp|feed_forward|block_sparse_moe|moe|shared_mlp|mlp_block)\.(?:.+\.)?"
        r"(?:down_proj|c_proj|fc2|w2|dense_4h_to_h|output_linear)\.?(?:weight|bias)?$"
    ),
}
_OTHER_STACK = re.compile(r"(?:^|\.)(?:vision|visual|audio|image|encoder|mtp)", re.IGNORECASE)
_OUTPUT_NORMS = re.compile(r"post_(?:feedforward|mlp|self_attn)_layernorm|post_attention_norm")
_OUTPUTS_LAST = {"gpt2": re.compile(r"c_proj\.weight$")}
"""Of which models a matrix is stored as [inputs, outputs]."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One tensor whose outputs are added to the residual stream."""

    name: str
    layer: int
    """-1 of the embedding."""
    part: Part
    outputs_last: bool
    """Whether its columns are the coordinates of the residual stream, not its rows."""


def writers_of(checkpoint: Checkpoint) -> list[Writer]:
    """All of them.

    Raises:
        UnsupportedError: something is between the matrices and the residual stream, or a layer's
            are not known.
    """
    found = list(_found(checkpoint.tensors, checkpoint.model_type))
    where = f"{checkpoint.path}, a model of type {checkpoint.model_type or 'unknown'}"
    remedy = "compare by --activations"
    if normed := [name for name in checkpoint.tensors if _OUTPUT_NORMS.search(name)]:
        raise UnsupportedError(
            f"{where}: what attention and MLPs write is normed first ({normed[0]}), so that a "
            "change of their weights is not the change of what they write",
            remedy,
        )
    layers = {w.layer for w in found} - {-1}
    for part in _OUTPUTS:
        having = {w.layer for w in found if w.part == part}
        if missing := sorted((layers or {0}) - having):
            raise UnsupportedError(
                f"{where}: it is not known what writes the output of its {part} in layer "
                f"{missing[0]}",
                remedy,
            )
    for writer in found:
        if len(shape := checkpoint.shape(writer.name)) > 2:
            raise UnsupportedError(
                f"{where}: {writer.name} is of {len(shape)} axes, experts together, which is not "
                "read",
                remedy,
            )
    return found


def _found(names: Iterable[str], model_type: str) -> Iterator[Writer]:
    for name in names:
        if _OTHER_STACK.search(name):
            continue
        if _EMBEDDING.search(name):
            yield Writer(name, -1, "embedding", outputs_last=True)
        if match := _LAYER.search(name):
            for part, pattern in _OUTPUTS.items():
                if pattern.match(match[2]):
                    last = _OUTPUTS_LAST.get(model_type)
                    yield Writer(name, int(match[1]), part, bool(last and last.search(name)))


def writes_before(writer: Writer, hook_point: HookPoint) -> bool | None:
    """Whether it is a summand of what is read there; None where that is no part of the residual
    stream.
    """
    layer, kind = hook_point.layer, hook_point.kind
    is_attention, is_mlp = writer.part == "attention", writer.part == "mlp"
    match kind:
        case "resid_pre":
            return writer.layer < layer
        case "resid_mid":
            return writer.layer < layer or (writer.layer == layer and is_attention)
        case "resid_post":
            return writer.layer <= layer
        case "attn_out":
            return writer.layer == layer and is_attention
        case "mlp_out":
            return writer.layer == layer and is_mlp
    return None
