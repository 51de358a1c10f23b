"""What a client has said of its request: its id, and what it has put into `vllm_xargs`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from saeguard.rules.scope import shortened

_MAX_OPT_OUT = 2_000
_SAMPLE = re.compile(r"^\d+_")


@dataclass(frozen=True, slots=True)
class Said:
    """What a client says in `vllm_xargs`: numbers, texts or lists, and from scripts anything."""

    tenant: str | None
    client: str | None
    policy: str | None
    opt_out: str

    @classmethod
    def by(cls, request: Any) -> Said:
        extra = (request.sampling_params and request.sampling_params.extra_args) or {}
        tenant, client, policy = (
            None if extra.get(key) is None else shortened(_text(extra[key]))
            for key in ("tenant", "client", "policy")
        )
        opt_out = extra.get("saeguard_opt_out") or ()
        names = opt_out if isinstance(opt_out, list | tuple) else [opt_out]
        return cls(tenant, client, policy, shortened(",".join(map(_text, names)), _MAX_OPT_OUT))


def _text(value: Any) -> str:
    """Whatever it is, it must not cost the request its announcement."""
    try:
        return str(value).encode(errors="replace").decode()
    except Exception:
        return "?"


def external_id(req_id: str) -> str:
    """The client's id: vLLM appends `-` and eight random characters to it, and puts the number of
    the sample and `_` before it where a client wants several.
    """
    if os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION") != "1":
        head, dash, tail = req_id.rpartition("-")
        req_id = head if dash and len(tail) == 8 else req_id
    return shortened(_SAMPLE.sub("", req_id))
