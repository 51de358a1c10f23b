"""Whether the op, on this device, says what a float64 evaluation says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from saeguard.integrations.vllm.tap import Tap
from saeguard.monitor.errors import UnsupportedError


def self_test(taps: Sequence[Tap]) -> None:
    """Run the op on each site's golden inputs, on this device, without touching the live buffers.

    Raises:
        UnsupportedError: a gate flips, or a score is off by more than the arithmetic explains.
    """
    for tap in taps:
        dtype = torch.float32 if tap.rows.dtype == torch.float32 else tap.rows.dtype
        golden = torch.from_numpy(tap.site.golden_inputs).to(tap.rows.device, dtype)
        inputs = nn.functional.pad(golden, (0, tap.rows.shape[1] - golden.shape[1]))
        scores = torch.zeros(len(inputs), tap.scores.shape[1], device=tap.scores.device)
        calls = torch.zeros_like(tap.calls)
        torch.ops.saeguard.tap(inputs, tap.rows, tap.bias, tap.threshold, tap.norm, scores, calls)
        got = scores[:, : tap.width].cpu().numpy()
        # Inputs rounded to 16 bits explain a difference of their own size; in fp32 there is none
        # to explain.
        tolerance = 1e-4 if dtype == torch.float32 else 5e-2
        error = np.abs(got - tap.site.golden_scores) / (1.0 + np.abs(tap.site.golden_scores))
        if not (error <= tolerance).all():
            worst = tap.site.features[int(np.nanargmax(error.max(axis=0)))].name
            raise UnsupportedError(
                f"the golden self-test of {tap.site.hook_point.place} failed at feature {worst!r}: "
                f"off by {np.nanmax(error):.2g} (tolerance {tolerance:g})"
            )
