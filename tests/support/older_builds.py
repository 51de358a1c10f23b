"""What vLLM's CPU build of an older release needs to serve the models of tests."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from types import FunctionType
from typing import Any

import torch


def mend() -> None:
    """In a process that will start an engine of vLLM; the releases that need nothing stay as they
    are.
    """
    _keep_convolutions()
    _connect_kernels()


def _keep_convolutions() -> None:
    """Let vLLM not pack the weights of convolutions for a kernel that takes bfloat16 alone, as 0.30
    does with all of them where the processor has that type; later it leaves out those of float32.
    """
    from vllm import _custom_ops

    vars(_custom_ops).pop("causal_conv1d_weight_pack", None)


def _connect_kernels() -> None:
    """0.30 calls the kernels of speculation through dispatchers, but gives some of its own for CPUs
    to the names that were called before: without Triton, nothing can be speculated.
    """
    from vllm.utils import cpu_triton_utils
    from vllm.v1.sample import rejection_sampler
    from vllm.v1.spec_decode import utils

    for dispatcher in [*vars(rejection_sampler).values(), *vars(utils).values()]:
        kernel = getattr(dispatcher, "kernel", None)
        if isinstance(kernel, FunctionType) and hasattr(cpu_triton_utils, kernel.__name__):
            own = getattr(cpu_triton_utils, kernel.__name__)
            function = own.func
            if kernel.__name__ == "expand_kernel":  # theirs is for integers alone
                function = _expand
            dispatcher.kernel = type(own)(_renamed(function, "stride", "block_table_stride"))


def _expand(
    output: torch.Tensor,  # [tokens]
    input: torch.Tensor,  # [requests]
    cu_num_tokens: torch.Tensor,  # [requests]
    replace_from: int,
    replace_to: int,
    MAX_NUM_TOKENS: int,
) -> None:
    """Of each request the value as often as it has tokens."""
    num_tokens = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    replaced = torch.where(input == replace_from, replace_to, input)
    output.copy_(replaced.repeat_interleave(num_tokens))


def _renamed(function: Callable[..., None], old: str, new: str) -> Callable[..., None]:
    """The function, which is called by keywords, with another name for one of them if it has it."""
    parameters = signature(function).parameters
    if old not in parameters:
        return function

    def renamed(**values: Any) -> None:
        function(**{old if name == new else name: value for name, value in values.items()})

    renamed.__signature__ = signature(function).replace(
        parameters=[p.replace(name=new) if p.name == old else p for p in parameters.values()]
    )
    return renamed
