"""Every backend as a parameter of one test body.

``backend`` runs over all of them, ``fast_backend`` over those that are checked against
"reference". Without a GPU "cuda" is a skip with its reason; under GPUBP_REQUIRE_CUDA=1 it fails.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

import gpubp


def _cuda() -> Any:
    if os.environ.get("GPUBP_REQUIRE_CUDA") == "1":
        return "cuda"
    try:
        gpubp.get_backend("cuda")
    except gpubp.BackendUnavailable as error:
        return pytest.param("cuda", marks=pytest.mark.skip(reason=str(error)))
    return "cuda"


CUDA = _cuda()


@pytest.fixture(params=["reference", "cpu", CUDA])
def backend(request: pytest.FixtureRequest) -> gpubp.Backend:
    """Each backend in turn."""
    return gpubp.get_backend(request.param)


@pytest.fixture(params=["cpu", CUDA])
def fast_backend(request: pytest.FixtureRequest) -> gpubp.Backend:
    """Each backend that must compute what "reference" defines."""
    return gpubp.get_backend(request.param)
