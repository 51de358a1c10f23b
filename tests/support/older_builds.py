"""What vLLM's CPU build of an older release needs to serve the models of tests."""

from __future__ import annotations

from types import FunctionType


def mend() -> None:
    """In a process that will start an engine of vLLM; the releases that need nothing stay as they
    are.
    """
    _keep_convolutions()
    _connect_rejection_kernels()


def _keep_convolutions() -> None:
    """Let vLLM not pack the weights of convolutions for a kernel that takes bfloat16 alone, as 0.30
    does with all of them where the processor has that type; later it leaves out those of float32.
    """
    from vllm import _custom_ops

    vars(_custom_ops).pop("causal_conv1d_weight_pack", None)


def _connect_rejection_kernels() -> None:
    """0.30 calls the kernels that compare drafts through dispatchers, but gives its own for CPUs to
    the names that were called before: without Triton, nothing can be speculated.
    """
    from vllm.utils import cpu_triton_utils
    from vllm.v1.sample import rejection_sampler

    for dispatcher in vars(rejection_sampler).values():
        kernel = getattr(dispatcher, "kernel", None)
        if isinstance(kernel, FunctionType) and hasattr(cpu_triton_utils, kernel.__name__):
            dispatcher.kernel = getattr(cpu_triton_utils, kernel.__name__)
