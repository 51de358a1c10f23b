"""SAEs that sae-lens makes and saves, and rules that watch them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

D_MODEL, D_SAE = 24, 96

KINDS = {
    "standard": "Standard",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "topk": "TopK",
    "transcoder": "",
    "skip_transcoder": "Skip",
    "jumprelu_transcoder": "JumpReLU",
    "jumprelu_skip_transcoder": "JumpReLUSkip",
}


def make_sae(
    directory: Path, architecture: str, apply_b_dec: bool, seed: int = 3, **config: Any
) -> Any:
    """A random SAE, saved by sae-lens."""
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(seed)
    is_transcoder = architecture.endswith("transcoder")
    module = sae_lens.saes.transcoder if is_transcoder else sae_lens
    name = KINDS[architecture] + ("Transcoder" if is_transcoder else "SAE")
    settings = {
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "metadata": SAEMetadata(
            hook_name="blocks.3.hook_resid_post", sae_lens_version=sae_lens.__version__
        ),
        "apply_b_dec_to_input": apply_b_dec,
        **({"d_out": D_MODEL} if is_transcoder else {}),
        **config,
    }
    sae = getattr(module, name)(getattr(module, f"{name}Config")(**settings))
    with torch.no_grad():
        for parameter_name, parameter in sae.named_parameters():
            parameter.normal_(0.0, 1.0)
            if parameter_name == "threshold":
                parameter.uniform_(-0.5, 4.0)
            if parameter_name == "r_mag":
                parameter.mul_(0.3)
    sae.save_model(directory)
    return sae


def write_rules(
    directory: Path, indices: Sequence[int], sae: dict[str, object] | None = None, **feature: object
) -> Path:
    """A rule that uses these features of the SAE in the folder `sae`."""
    features = {
        f"f{i}": {
            "sae": {"path": "sae", **(sae or {})}, "index": i, "label": f"feature {i}", **feature
        }
        for i in indices
    }  # fmt: skip
    signals = {f"s{i}": {"feature": f"f{i}", "agg": "value", "gte": 1.0} for i in indices}
    rule = {
        "id": "7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11",
        "name": "all_of_them",
        "title": "All",
        "status": "test",
        "severity": "low",
        "signals": signals,
        "condition": "all of s*",
        "message": "{rule.title}",
        "tags": ["site.test"],
        "falsepositives": [],
    }
    path = directory / "rules.yaml"
    header = {"version": 1, "ruleset": {"name": "x", "version": "1.0.0"}}
    path.write_text(json.dumps({**header, "features": features, "rules": [rule]}))
    return path
