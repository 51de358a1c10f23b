"""Rows of another watchlist for the taps of a running graph, which reads the same buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from saeguard.integrations.vllm.tap import Tap
from saeguard.integrations.vllm.tap_rows import filled, is_scaled, norms_of
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.watchlist import Site, Watchlist


def refill(taps: Sequence[Tap], watchlist: Watchlist, elsewhere: Sequence[Site] = ()) -> list[Tap]:
    """These taps with the rows of another watchlist, in tensors of their own on the same device;
    the buffers in use are not touched. A site that it does not watch gets no features.

    Args:
        elsewhere: what other stages of the pipeline tap.

    Raises:
        UnsupportedError: it does not fit into the buffers that the running graph reads.
    """
    sites = {site.hook_point: site for site in watchlist.sites}
    tapped = {site.hook_point for site in (*(tap.site for tap in taps), *elsewhere)}
    for needed in sites:
        if needed not in tapped:
            raise UnsupportedError(
                f"the watchlist needs {needed.place}, and the running graph taps only "
                f"{', '.join(hook_point.place for hook_point in sorted(tapped))}",
                "restart the server",
            )
    return [_refilled(tap, sites.get(tap.site.hook_point) or _emptied(tap.site)) for tap in taps]


def overwrite(taps: Sequence[Tap], new: Sequence[Tap]) -> list[Tap]:
    """Copy refilled rows into the buffers in use, on the current stream, without waiting: whatever
    that stream runs later reads the new ones.
    """
    with torch.inference_mode():  # the buffers may have been made in it
        for tap, source in zip(taps, new, strict=True):
            _copy(source.rows, tap.rows)
            _copy(source.bias, tap.bias)
            _copy(source.threshold, tap.threshold)
            if source.norm is not None and tap.norm is not None:
                _copy(source.norm, tap.norm)
    return [replace(tap, site=source.site) for tap, source in zip(taps, new, strict=True)]


def _copy(source: torch.Tensor, target: torch.Tensor) -> None:
    target.copy_(source, non_blocking=True)
    if source.is_cuda:  # made on another stream: not to be freed before the copy has run
        source.record_stream(torch.cuda.current_stream(source.device))


def _refilled(tap: Tap, site: Site) -> Tap:
    capacity = len(tap.bias)
    if len(site.features) > capacity:
        raise UnsupportedError(
            f"the watchlist has {len(site.features)} features at {site.hook_point.place}, and the "
            f"running graph has room for {capacity}",
            "restart the server",
        )
    if is_scaled(site) and tap.norm is None:
        raise UnsupportedError(
            f"the watchlist has an SAE that scales its input at {site.hook_point.place}, and "
            "the running graph scales none there",
            "restart the server",
        )
    num_inputs, device = tap.rows.shape[1], tap.rows.device
    rows, bias, threshold = filled(site, capacity, num_inputs, device, tap.rows.dtype)
    norm = None if tap.norm is None else norms_of(site, capacity, device)
    return replace(tap, site=site, rows=rows, bias=bias, threshold=threshold, norm=norm)


def _emptied(site: Site) -> Site:
    return replace(
        site,
        features=(),
        weight=site.weight[:0],
        bias=site.bias[:0],
        threshold=site.threshold[:0],
        golden_scores=site.golden_scores[:, :0],
    )
