"""Keep CompilationMode.VLLM_COMPILE on the CPU platform. Tests only.

Exercises VllmBackend -> piecewise split -> serialisable artifact -> AOT reload without a GPU.
"""

from __future__ import annotations

from vllm.compilation.passes.inductor_pass import InductorPass
from vllm.config import CompilationMode
from vllm.platforms.cpu import CpuPlatform


class NoPasses(InductorPass):
    """Stands in for PostGradPassManager, one of whose passes needs a CUDA-only op."""

    def __init__(self):
        self.passes = []

    def configure(self, config):
        pass

    def add(self, graph_pass):
        pass

    def __call__(self, graph):
        pass

    def uuid(self):
        return "none"


def keep():
    """Runs in the engine's process, before its start."""
    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):
        compilation = vllm_config.compilation_config
        mode = compilation.mode
        original(cls, vllm_config)  # downgrades mode 3 to DYNAMO_TRACE_ONCE
        if mode == CompilationMode.VLLM_COMPILE:
            compilation.mode = mode
            compilation.compile_sizes = compilation.compile_sizes or []

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    CpuPlatform.get_pass_manager_cls = classmethod(lambda cls: f"{__name__}.{NoPasses.__name__}")
