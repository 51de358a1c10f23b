"""Copies of device tensors on the host, which nobody on the engine's thread waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


class ToHost:
    """Copies on a stream of its own, beside the forward pass. Without a GPU there is nothing to do:
    tensors are where they should be.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(
        self, tensors: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], Callable[[], None]]:
        """The copies, and a function that waits until they are there; for another thread.

        Args:
            tensors: made on the current stream, of which nothing is written to afterwards.
        """
        stream = self._stream
        if stream is None:
            return list(tensors), lambda: None
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            # Into pinned memory, which PyTorch keeps and hands out again once the copy has run.
            host = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
            for tensor in tensors:
                if tensor.is_cuda:  # not to be given to another before the copy has run
                    tensor.record_stream(stream)
            event = torch.cuda.Event(blocking=True)  # whoever waits sleeps
            event.record(stream)

        def wait() -> None:
            # In a thread that has chosen no device, CUDA would occupy memory on the first one.
            with torch.cuda.device(self._device):
                event.synchronize()

        return host, wait
