"""What is proven on a GPU runs where there is one; what makes sense without runs on both."""

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
