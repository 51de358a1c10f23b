"""Kernels to run the engine's tests with: `pytest.mark.usefixtures("kernels")` runs them twice."""

import pytest

from saeguard.rules.engine.kernels import COMPILED, NUMPY


@pytest.fixture(params=["compiled", "numpy"])
def kernels(request, monkeypatch):
    """Engines made in the test use these."""
    chosen = COMPILED if request.param == "compiled" else NUMPY
    if chosen is None:
        pytest.skip("the extension was not built: pip install -e . builds it where there is cc")
    monkeypatch.setattr("saeguard.rules.engine.kernels.in_use", chosen)
    return chosen
