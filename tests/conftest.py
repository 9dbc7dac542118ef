"""Every backend as a parameter of one test body.

``backend`` runs over all of them, ``fast_backend`` over those that are checked against
"reference". Where there is a GPU they include "cuda". Where there is none, "cuda" is a skip with
its reason, under GPUBP_REQUIRE_CUDA=1 a failure, and "cuda-on-cpu" runs the same host code and the
same kernels on the stand-in for CuPy of tests/cuda_on_cpu.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined

import gpubp


def _cuda() -> list[Any]:
    if os.environ.get("GPUBP_REQUIRE_CUDA") == "1":
        return ["cuda"]
    try:
        gpubp.get_backend("cuda")
    except gpubp.BackendUnavailable as error:
        skip = pytest.param("cuda", marks=pytest.mark.skip(reason=str(error)))
        missing = build.missing()
        marks = pytest.mark.skip(reason=str(missing)) if missing else ()
        return [skip, pytest.param("cuda-on-cpu", marks=marks)]
    return ["cuda"]


CUDA = _cuda()
_LONG = {"long_on_the_stand_in": "cuda-on-cpu", "long_on_the_chip": "panels-cuda-on-cpu"}
# The files that take longest, which begin first, so that no worker ends alone.
_LONGEST = ("test_kernels", "test_cuda_gates", "test_cuda_compile", "test_engines",
            "test_sgd_truth", "test_cuda_ptx", "test_truth", "test_cuda_fit", "test_kernel_cache",
            "test_cuda_precision", "test_cuda_host", "test_bench_gpu", "test_network")  # fmt: skip
_FIRST = {name: place for place, name in enumerate(_LONGEST)}


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As under nohup and behind "&" in a script: what is tested here is a process that takes Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# On the stand-in a kernel takes a thousand times a GPU's time, its compilation a tenth of a second.
# What another test there tells, too, only longer or in the other dtype, is thorough.
_TOLD_IN_FLOAT32 = ("test_kernels.py", "test_truth.py", "test_cuda_fit.py")
_TOLD_ELSEWHERE = ("gallery_to_all_six_digits", "steps_of_sklearn",
                   "same_accuracy[cuda-on-cpu-bf16", "test_numbers[M")  # fmt: skip


def _is_thorough(item: pytest.Item) -> bool:
    if "cuda-on-cpu" not in item.name and "test_numbers[" not in item.name:
        return False
    twice = item.path.name in _TOLD_IN_FLOAT32 and "float64" in item.name
    return twice or any(words in item.name for words in _TOLD_ELSEWHERE)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "long_on_the_stand_in(*words): cuda-on-cpu runs only the cases whose id holds one of these "
        "words, all of them under GPUBP_EVERYTHING=1; reference, cpu and cuda run every case",
    )
    config.addinivalue_line(
        "markers",
        "long_on_the_chip(*words): the same for kernels that stay on the stand-in's chip, which "
        "have the place of the cpu's panels",
    )
    config.addinivalue_line(
        "markers",
        "thorough: takes longer than it is likely to tell; left out of the default run, asked for "
        "by -m thorough, as .ci/run does, or by GPUBP_EVERYTHING=1",
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is left out of the default run, and what begins first."""
    for item in filter(_is_thorough, items):
        item.add_marker(pytest.mark.thorough)
    asked = "thorough" in (config.option.markexpr or "")

    def runs(item: pytest.Item) -> bool:
        if item.get_closest_marker("thorough") and not asked:
            return False
        for name, where in _LONG.items():
            mark = item.get_closest_marker(name)
            if mark and where in item.name and not any(word in item.name for word in mark.args):
                return False
        return True

    if os.environ.get("GPUBP_EVERYTHING") != "1":
        config.hook.pytest_deselected(items=[item for item in items if not runs(item)])
        items[:] = filter(runs, items)
    items.sort(key=lambda item: _FIRST.get(item.path.stem, len(_FIRST)))


@contextmanager
def opened(name: str) -> Iterator[gpubp.Backend]:
    """The backend of that name; "cuda-on-cpu" is "cuda" on the stand-in for CuPy.

    On a GPU it trains by graphs, as any network can be: tests of other Steppers ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUBP_CUDA_STEPPER", "graph")
        if name != "cuda-on-cpu":
            yield gpubp.get_backend(name)
            return
        with installed(), imagined():
            yield gpubp.get_backend("cuda")


@pytest.fixture(params=["reference", "cpu", *CUDA])
def backend(request: pytest.FixtureRequest) -> Iterator[gpubp.Backend]:
    """Each backend in turn."""
    with opened(request.param) as found:
        yield found


@pytest.fixture(params=["cpu", *CUDA])
def fast_backend(request: pytest.FixtureRequest) -> Iterator[gpubp.Backend]:
    """Each backend that must compute what "reference" defines."""
    with opened(request.param) as found:
        yield found


@pytest.fixture(params=CUDA)
def cuda_backend(request: pytest.FixtureRequest) -> Iterator[gpubp.Backend]:
    """The CUDA backend, on a GPU or on the stand-in."""
    with opened(request.param) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_setting_stays() -> Iterator[None]:
    """A test that leaves one of GPUBP_... set fails itself, and not some other after it."""

    def settings() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("GPUBP_")}

    before = settings()
    yield
    assert settings() == before
