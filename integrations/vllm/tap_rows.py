"""A site's rows as the tensors that the op reads, with unused rows up to a capacity."""

from __future__ import annotations

import torch

from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.watchlist import NORMS, Site

_CAPACITY_STEP = 64


def capacity_for(num_features: int) -> int:
    """Rows of a layer's buffers. The spare ones are for later watchlists."""
    return -(-num_features // _CAPACITY_STEP) * _CAPACITY_STEP


def filled(
    site: Site, capacity: int, num_inputs: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, bias and threshold, with unused rows up to the capacity; as in `Tap`."""
    _check_width(site, num_inputs)
    num_features, width = site.weight.shape
    weight = torch.zeros(capacity, num_inputs)
    weight[:num_features, :width] = torch.from_numpy(site.weight)
    bias = torch.zeros(capacity)
    bias[:num_features] = torch.from_numpy(site.bias)
    threshold = torch.full((capacity,), torch.inf)
    threshold[:num_features] = torch.from_numpy(site.threshold)
    return _rows(weight, device, dtype), bias.to(device), threshold.to(device)


def is_scaled(site: Site) -> bool:
    return any(norm != "none" for norm in site.norms)


def norms_of(site: Site, capacity: int, device: torch.device) -> torch.Tensor:
    norm = torch.zeros(capacity, dtype=torch.int64)
    norm[: len(site.norms)] = torch.tensor([NORMS.index(name) for name in site.norms])
    return norm.to(device)


def _check_width(site: Site, num_inputs: int) -> None:
    width = site.weight.shape[1]
    is_router = site.hook_point.kind == "router"
    if is_router and width > num_inputs:
        raise UnsupportedError(
            f"the watchlist watches expert {(width - 1) // 2} of layer {site.hook_point.layer}, "
            f"whose router has experts 0 to {num_inputs // 2 - 1}",
            "name another expert",
        )
    if not is_router and width != num_inputs:
        raise UnsupportedError(
            f"the watchlist has rows of {width} at {site.hook_point.place}, but this model has "
            f"{num_inputs} there",
            "use SAEs or probes of this model",
        )


def _rows(weight: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return weight.to(device)
    return halves(weight, dtype).to(device)


def halves(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of 16 bits, and below them rows of what these lack."""
    high = weight.to(dtype)
    low = (weight - high.float()).to(dtype)
    return torch.cat([high, low])
