"""What is proven on a GPU runs where there is one; what makes sense without runs on both.

The parts for a GPU were written without one, and have not run yet. Unproven beyond them remain:

* tensor and pipeline parallelism on several GPUs;
* sleep mode, and weights loaded anew under captured graphs;
* fusions of vLLM around a tapped norm (all-reduce, quantisation), whose patterns a tap is to leave
  alone or to keep from matching;
* float8 and other quantised models;
* the cost: benchmarks/gpu_overhead.py.
"""

from __future__ import annotations

import pytest
import torch

NO_GPU = "torch.cuda is not available here"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each that there is, in turn."""
    name: str = request.param
    return name
