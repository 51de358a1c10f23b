"""What the tests of the organism share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ORGANISM = Path(__file__).parents[2] / "examples" / "organism"


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """Make the organism's scripts importable, as they are when run."""
    for module in ("torch", "transformers", "sae_lens", "sklearn"):
        pytest.importorskip(module)
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(ORGANISM))
    yield
    sys.path.remove(str(ORGANISM))
