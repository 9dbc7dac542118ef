"""Every kernel compiles to machine code for the GPUs of three generations, and fits them.

No GPU and no driver is needed, only NVRTC: ``pip install "cuda-toolkit[nvrtc]==13.*"``. Without it
this is skipped, or fails under GPUBP_REQUIRE_NVRTC=1. The texts are those that training, scoring
and the two contract kernels ask for. ``python tests/test_cuda_compile.py`` shows the registers.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import nvrtc
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import imagined, machine
from oracle import CUSTOM_ACTIVATIONS, legal_pairs, sgd, steps

import gpubp
from gpubp.activation import ACTIVATIONS, SOFTMAX
from gpubp.backend import PRECISIONS
from gpubp.cost import COSTS
from gpubp.optimizer import Adam, AdamW, Lion, Update
from gpubp.parameters import Parameters
from gpubp.plan import Plan

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
EVERYTHING = os.environ.get("GPUBP_EVERYTHING") == "1"
STATIC_LIMIT = 48 << 10
MOST = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}  # with dynamic shared memory
REGISTERS = 65536  # of a multiprocessor, on all three

SIGMOID, TANH, QUADRATIC = ACTIVATIONS["sigmoid"], ACTIVATIONS["tanh"], COSTS["quadratic"]
RULES = [
    Update(),
    sgd(momentum=0.9),
    sgd(l2=0.03, l1=0.01),
    sgd(momentum=0.8, nesterov=True, l2=0.03, l1=0.01),
    Update(Lion()),
    Update(Adam()),
    Update(AdamW(amsgrad=True), l2=0.03),  # the most of all: three arrays, nine numbers
    Update(Adam(), l1=0.01, clip_norm=1.0),
]


# sizes, activations, cost, batch size, arithmetic (a dtype or a precision), rule, uint8 x, labels
Network = tuple[Any, ...]


def measured() -> Iterator[Network]:
    """Networks whose products have tiles of every shape, in each arithmetic."""
    for dtype in ("float32", "float64", "tf32", "bf16"):
        for sizes, batch in (
            ((784, 30, 10), 10), ((784, 128, 10), 128), ((784, 1024, 1024, 10), 512),
            ((785, 33, 7), 9), ((300, 2000, 3), 1000), ((784, 100, 60, 32, 10), 100),
        ):  # fmt: skip
            sigma = (SIGMOID,) * (len(sizes) - 1)
            yield (sizes, sigma, QUADRATIC, batch, dtype, RULES[3], True, True)


def most_of_all() -> Iterator[Network]:
    """Networks under the rule with the most numbers and arrays."""
    for dtype in ("float32", "float64"):
        for sizes, batch in (((784, 30, 10), 10), ((784, 128, 10), 128), ((785, 33, 7), 9)):
            yield (sizes, (SIGMOID,) * 2, QUADRATIC, batch, dtype, RULES[6], True, True)


def varied() -> Iterator[Network]:
    """Small networks with every activation, cost, rule and kind of data."""
    for rule, bytes_ in itertools.product(RULES, (True, False)):
        yield ((31, 17, 5), (TANH, SIGMOID), QUADRATIC, 9, "float32", rule, bytes_, not bytes_)
    hidden = [a for a in ACTIVATIONS.values() if a is not SOFTMAX]
    for activation in (*hidden, *CUSTOM_ACTIVATIONS):
        sigma = (activation, SIGMOID)
        yield ((9, 7, 3), sigma, QUADRATIC, 5, "float32", RULES[0], False, True)
    seen: set[Any] = set()
    for output, cost in legal_pairs():
        if output not in seen or cost not in seen:
            seen |= {output, cost}
            yield ((9, 7, 3), (TANH, output), cost, 5, "float64", RULES[0], False, False)


def resident() -> Iterator[Network]:
    """Networks that stay on the chip: the tallest batches and the widest layers, too."""
    sigmoid = (SIGMOID,) * 4
    kinds = itertools.product(("float32", "float64"), (RULES[0], RULES[3], RULES[6]))
    for turn, (dtype, rule) in enumerate(kinds):
        for sizes, batch in (
            ((784, 30, 10), 10), ((784, 100, 10), 10), ((784, 30, 10), 1), ((785, 33, 7), 9),
            ((17, 9, 7, 5, 3), 7), ((64, 30, 10), 32), ((300, 200, 3), 5), ((1, 1), 1),
        ):  # fmt: skip
            bytes_ = bool((batch + turn) % 2)
            sigma = sigmoid[: len(sizes) - 1]
            yield (sizes, sigma, QUADRATIC, batch, dtype, rule, bytes_, bytes_)
    yield ((64, 30, 10), sigmoid[:2], QUADRATIC, 60, "float32", RULES[3], True, True)


def texts(
    networks: Iterator[Network],
    steppers: tuple[str, ...] = ("graph", "cooperative"),
    arch: str = "sm_90",
) -> dict[str, str]:
    """text -> kernel, of all that these networks ask for on such a GPU; nothing is run."""
    with (
        installed() as cupy,
        imagined(collected={}, compute_capability=arch[3:]) as machine,
        pytest.MonkeyPatch.context() as patch,
    ):
        kernels = gpubp.get_backend("cuda").kernels
        from gpubp.kernels.cuda.cooperative import why_not_cooperative

        for sizes, activations, cost, batch, arithmetic, update, bytes_, labels in networks:
            precision = arithmetic if arithmetic in PRECISIONS else None
            dtype = "float32" if precision else arithmetic
            parameters = Parameters(cupy, sizes, dtype)
            states = len(update.rule.state)
            parameters.state = cupy.zeros((states, parameters.flat.size), dtype)
            x = cupy.zeros((batch, sizes[0]), np.uint8 if bytes_ else dtype)
            y = cupy.zeros(batch, np.int64) if labels else cupy.zeros((batch, sizes[-1]), dtype)
            weights = np.ones(batch) if update.l1 else None  # of examples
            plan = Plan(
                sizes, activations, cost, batch, dtype, update.rule, precision,
                weighted=weights is not None,
            )  # fmt: skip
            for stepper in steppers:
                if stepper == "cooperative" and why_not_cooperative(plan):
                    continue
                if stepper == "resident" and update.rule.clipped:
                    continue
                patch.setenv("GPUBP_CUDA_STEPPER", stepper)
                made = kernels.Stepper(plan, parameters, x, y)
                made.run(*steps(update, np.arange(batch), batch, 0.1), weights)
            kernels.score(parameters, activations, cost, x, y)
            delta, a = (cupy.ones((batch, n), dtype) for n in sizes[-2:])
            kernels.outer_sum(delta, a)
            kernels.hadamard_sigma_prime(a, a, a, activations[0])
        assert machine.collected is not None
        return dict(machine.collected)


@pytest.fixture(autouse=True)
def needs_nvrtc() -> None:
    if nvrtc.library() is None:
        missing = "NVRTC is not installed: pip install 'cuda-toolkit[nvrtc]==13.*'"
        if os.environ.get("GPUBP_REQUIRE_NVRTC") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


def constants(text: str) -> dict[str, str]:
    """Those at the head of the text."""
    head = text.partition("//")[0]
    return dict(line.split()[1:3] for line in head.splitlines() if line.startswith("#define"))


def threads(text: str) -> int:
    """Threads a block: as launched, from the constants at the head of the text."""
    return int(text.partition("#define BLOCK ")[2].split()[0])


def check(arch: str, kernels: dict[str, str]) -> None:
    """All of these fit a multiprocessor of that architecture; prints what they take of it."""
    found: dict[str, list[nvrtc.Usage]] = {}
    for text, kernel in kernels.items():
        usage = nvrtc.usage(text, arch, kernel, machine.options[text])
        head = f"{arch}, {kernel} with\n{text.partition('//')[0]}"
        assert usage.spilled == 0, f"registers spill: {head}"
        dynamic = constants(text).get("SHARED_BYTES", "0")
        assert usage.shared <= STATIC_LIMIT, f"too much shared memory: {head}"
        assert usage.shared + int(dynamic) <= MOST[arch], f"too much shared memory: {head}"
        assert usage.registers * threads(text) <= REGISTERS, f"no block fits: {head}"
        found.setdefault(kernel, []).append(usage)
    print(f"NVRTC {nvrtc.version()}, {arch}: registers and shared bytes at most, variants")
    for kernel, usages in sorted(found.items()):
        registers, shared = max(u.registers for u in usages), max(u.shared for u in usages)
        print(f"  {kernel:24}{registers:4}{shared:8}{len(usages):6}")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_measured_networks_fit(arch: str) -> None:
    """On sm_90 every second; on the others every fifth, which has all sizes but one and each
    arithmetic in turn; and under GPUBP_EVERYTHING=1, as .ci/run asks, each on all. Everywhere those
    under the largest update rule."""
    step = 1 if EVERYTHING else 2 if arch == "sm_90" else 5
    check(arch, texts(itertools.chain(itertools.islice(measured(), 0, None, step), most_of_all())))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_stays_on_the_chip_fits(arch: str) -> None:
    """By the rule, which lets a graph train what does not fit: in shared memory beside its own, in
    registers, in the clusters of these GPUs."""
    networks = list(resident())
    some = networks if arch == "sm_90" else networks[:: 1 if EVERYTHING else 3]
    found = texts(iter(some), ("",), arch)
    assert set(found.values()) >= {"resident"}
    check(arch, {text: kernel for text, kernel in found.items() if kernel == "resident"})


def test_all_formulas_rules_and_kinds_of_data_compile() -> None:
    found = texts(varied()) | texts(varied(), ("resident",))
    # By default every third, to see that they compile at all.
    check("sm_90", found if EVERYTHING else dict(list(found.items())[::3]))
    folder = files("gpubp.kernels") / "cuda"
    stems = {path.name[:-3] for path in folder.iterdir() if path.name.endswith(".cu")}
    of_large_layers = {"gather"} & set(texts(measured()).values())
    assert (
        set(found.values()) | of_large_layers == stems
    )  # there is no kernel that this file does not know


def test_a_kernel_that_spills_is_seen() -> None:
    text = """extern "C" __global__ void __launch_bounds__(1024) kernel(float* x) {
        float s[200];
        for (int i = 0; i < 200; i++) s[i] = x[i * 1024 + threadIdx.x];
        for (int k = 0; k < 9; k++) {
        #pragma unroll
            for (int i = 0; i < 200; i++) s[i] += s[(i * 7 + 3) % 200] * x[k];
        }
        #pragma unroll
        for (int i = 0; i < 200; i++) x[i * 1024 + threadIdx.x] = s[i]; }"""
    usage = nvrtc.compiled(text, "sm_90", "kernel")
    assert usage.spilled > 0 or usage.stack > 0
    with pytest.raises(nvrtc.NVRTCError, match="undefined"):
        nvrtc.compiled('extern "C" __global__ void kernel() { nothing(); }', "sm_90", "kernel")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-n", "0", "-q", "-rP"]))
