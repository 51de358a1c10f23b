"""The places of a model that can be watched, by the names of TransformerLens and SAELens.

    kind        hook name                  what is read there, [tokens, inputs]
    resid_pre   blocks.L.hook_resid_pre    the residual stream as it enters layer L
    attn_z      blocks.L.attn.hook_z       the heads' outputs side by side, as `o_proj` reads them
    attn_out    blocks.L.hook_attn_out     what attention adds to the residual stream
    resid_mid   blocks.L.hook_resid_mid    the residual stream between attention and MLP
    mlp_in      blocks.L.mlp.hook_in       what the MLP reads: normed, the norm's weight included
    mlp_out     blocks.L.hook_mlp_out      what the MLP adds to the residual stream
    resid_post  blocks.L.hook_resid_post   the residual stream as it leaves layer L
    router      router.L                   weight and logit of each expert (see watchlist.py)

Which of them can be tapped depends on the model: integrations/vllm/architectures.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from saeguard.monitor.errors import UnsupportedError

SiteKind = Literal[
    "resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post", "router"
]

_NAMES: dict[SiteKind, str] = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "attn_z": "blocks.{}.attn.hook_z",
    "attn_out": "blocks.{}.hook_attn_out",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "mlp_in": "blocks.{}.mlp.hook_in",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "resid_post": "blocks.{}.hook_resid_post",
    "router": "router.{}",
}
_KINDS = {name: kind for kind, name in _NAMES.items()}
# What SAELens calls the input of Gemma Scope 2's transcoders.
_KINDS["blocks.{}.hook_mlp_in"] = "mlp_in"
_LAYER = re.compile(r"(?<=^blocks\.)\d+(?=\.)|(?<=^router\.)\d+$", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class HookPoint:
    """One place of a model; its text is the hook name."""

    layer: int
    kind: SiteKind = "resid_post"

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """
        Raises:
            UnsupportedError: nothing of this name can be watched; it says what can be.
        """
        match = _LAYER.search(name)
        kind = _KINDS.get(_LAYER.sub("{}", name))
        if match is None or kind is None:
            raise UnsupportedError(
                f"hook point {name!r} cannot be watched",
                f"these can, where the model has them: {', '.join(_KINDS).replace('{}', 'L')}",
            )
        return cls(int(match[0]), kind)

    def __str__(self) -> str:
        return _NAMES[self.kind].format(self.layer)

    @property
    def is_d_model_wide(self) -> bool:
        """Whether as many numbers are read of a token as the residual stream has."""
        return self.kind not in ("router", "attn_z")

    @property
    def place(self) -> str:
        """For people."""
        return f"layer {self.layer}" if self.kind == "resid_post" else str(self)
