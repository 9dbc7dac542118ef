"""Products on tensor cores: precision="tf32" and "bf16", their stated errors, and who may ask.

The truth is float64; the yardstick is the twin, the plain expression with both operands rounded. On
the stand-in for CuPy, except for what also a GPU can be asked through ``Network``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import KernelError, imagined
from cuda_on_cpu.launch import SCHEDULES
from oracle import flat, normwise, rounded_to
from test_kernels import ratio

import gpubp
from gpubp.activation import ACTIVATIONS

BITS = {"tf32": 11, "bf16": 8}  # significant, the leading one included
ROUNDING = {name: 2.0**-bits for name, bits in BITS.items()}  # of an operand, at most
SIZES = (1, 7, 15, 16, 17, 31, 33, 127, 785)
rng = np.random.default_rng(61)


@pytest.fixture
def cupy() -> Iterator[Any]:
    if why := build.missing():
        pytest.skip(why)
    with installed() as module:
        yield module


# Products


def forward(cupy: Any, precision: str, x: Any, w: Any) -> Any:
    """x w^T by forward.cu."""
    from gpubp.kernels.cuda.launch import load_product, run_length

    (m, k), n = x.shape, len(w)
    x, w, b = cupy.asarray(x), cupy.asarray(w), cupy.zeros(n, np.float32)
    z, a = cupy.empty((m, n), np.float32), cupy.empty((m, n), np.float32)
    kernel = load_product(
        "forward", precision, {"sigma": ACTIVATIONS["identity"].sigma}, (m, n, k),
        GATHER=0, Input="T", N="n", K="k",
        X_RUN=run_length(x, x.dtype), W_RUN=run_length(w, x.dtype),
    )  # fmt: skip
    kernel.product(m, n, m, n, k, x, w, b, z, a)
    return z.get()


def backward(cupy: Any, precision: str, delta: Any, w: Any) -> Any:
    """delta w by bp2.cu, where sigma' = 1."""
    from gpubp.kernels.cuda.launch import load_product

    (m, n), k = delta.shape, w.shape[1]
    out, z = cupy.empty((m, k), np.float32), cupy.zeros((m, k), np.float32)
    kernel = load_product(
        "bp2", precision, {"sigma_prime": ACTIVATIONS["identity"].sigma_prime}, (m, k, n),
        N="n", K="k", DELTA_RUN=1, W_RUN=1,
    )  # fmt: skip
    kernel.product(m, k, m, n, k, cupy.asarray(delta), cupy.asarray(w), z, z, out)
    return out.get()


def outer(cupy: Any, precision: str, delta: Any, a: Any) -> Any:
    """delta^T a by outer_sum.cu, with BP3's sums in a last column."""
    from gpubp.kernels.cuda.launch import load_product

    (m, n), k = delta.shape, a.shape[1]
    product, column_sum = cupy.empty((n, k), np.float32), cupy.empty(n, np.float32)
    kernel = load_product(
        "outer_sum", precision, {}, (n, k, m),
        GATHER=0, UPDATE=0, PENALTY=0, Input="T", N="n", K="k", DELTA_RUN=1, X_RUN=1,
    )  # fmt: skip
    kernel.product(n, k, m, n, k, cupy.asarray(delta), cupy.asarray(a), product, column_sum)
    return np.column_stack([product.get(), column_sum.get()])


# (rows, columns, depth): each size in each place, beside sizes that are others' multiples.
SHAPES = [*zip(SIZES, SIZES[3:] + SIZES[:3], SIZES[5:] + SIZES[:5], strict=True), (7, 33, 1),
          (40, 64, 36), (127, 785, 16), (9, 10, 128)]  # fmt: skip


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("which", ["forward", "bp2", "outer_sum"])
def test_error_of_a_product(which: str, precision: str, cupy: Any) -> None:
    """At most 2^-bits of sum |a||b| for each operand, and 2^-23 for each number added; and, in the
    mean over all shapes, at most twice the twin's error."""
    function = {"forward": forward, "bp2": backward, "outer_sum": outer}[which]
    found, twins, exact = [], [], []
    for rows, columns, depth in SHAPES:
        a = rng.standard_normal((rows, depth)).astype(np.float32)
        b = rng.standard_normal((columns, depth)).astype(np.float32)
        sides = {"forward": (a, b), "bp2": (a, b.T.copy()), "outer_sum": (a.T.copy(), b.T.copy())}
        z = function(cupy, precision, *sides[which])
        if which == "outer_sum":
            sums = a.astype(float).sum(axis=1)
            bound = depth * 2.0**-23 * np.abs(a).sum(axis=1)
            assert (np.abs(z[:, -1] - sums) <= bound + 1e-30).all(), "BP3 sums unrounded numbers"
            z = z[:, :-1]
        a64, b64 = a.astype(float), b.astype(float)
        truth, scale = a64 @ b64.T, np.abs(a64) @ np.abs(b64).T
        u = ROUNDING[precision]
        assert (np.abs(z - truth) <= (2 * u + u * u + depth * 2.0**-23) * scale).all()
        found.append(z)
        twins.append(rounded_to(BITS[precision], a) @ rounded_to(BITS[precision], b).T)
        exact.append(truth)
    assert ratio(found, twins, exact) <= 2
    # As far from float32 as was asked for: this is no float32 product.
    plain = [np.float32(u) for u in exact]
    assert ratio(found, plain, exact) > 20


def test_nan_and_infinity_stay(cupy: Any) -> None:
    for precision, bad in itertools.product(BITS, (np.nan, np.inf, -np.inf)):
        x, w = np.ones((3, 20), np.float32), np.ones((4, 20), np.float32)
        x[1, 13] = bad
        z = forward(cupy, precision, x, w)
        np.testing.assert_array_equal(z[1], np.full(4, bad))
        np.testing.assert_array_equal(z[[0, 2]], np.full((2, 4), 20))


# The instructions, as the PTX ISA describes them


def test_rounding_of_operands(cupy: Any) -> None:
    """To nearest; in the middle tf32 away from zero, bf16 to even; NaN and infinity stay."""
    code = """extern "C" __global__ void kernel(const float* x, unsigned* tf32, unsigned* bf16) {
        const int i = threadIdx.x + blockDim.x * blockIdx.x;
        tf32[i] = Tf32::rounded(x[i]); bf16[i] = unsigned(Bf16::rounded(x[i])) << 16; }"""
    text = import_module("gpubp.kernels.cuda.source")._file("mma.cuh") + code
    exponents = rng.integers(-30, 30, 4096)
    x = (rng.standard_normal(4096) * 2.0**exponents).astype(np.float32)
    x[:8] = [np.inf, -np.inf, 0, -0.0, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8]
    tf32, bf16 = cupy.empty(4096, np.uint32), cupy.empty(4096, np.uint32)
    kernel = cupy.RawModule(code=text).get_function("kernel")
    kernel((16,), (256,), (cupy.asarray(x), tf32, bf16))
    tf32, bf16 = tf32.get().view(np.float32), bf16.get().view(np.float32)
    np.testing.assert_array_equal(tf32, np.where(np.isinf(x), x, rounded_to(11, x)))
    near = [np.float32(u) for u in rounded_to(8, x)]
    near[6], near[7] = np.float32(1), np.float32(1 + 4 * 2**-8)  # the middles, to even
    np.testing.assert_array_equal(bf16, np.where(np.isinf(x), x, near))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("precision", BITS)
def test_fragments_lie_where_ptx_has_them(precision: str, schedule: str, cupy: Any) -> None:
    """The tables of the PTX ISA: row and column of each register of each lane."""
    code = """extern "C" __global__ void kernel(const unsigned* a, const unsigned* b, float* d) {
        const int l = threadIdx.x;
        const unsigned x[4] = {a[4 * l], a[4 * l + 1], a[4 * l + 2], a[4 * l + 3]};
        const unsigned y[2] = {b[2 * l], b[2 * l + 1]};
        float sum[4] = {d[4 * l], d[4 * l + 1], d[4 * l + 2], d[4 * l + 3]};
        NAME::mma(sum, x, y);
        NAME::mma(sum, x, y);
        for (int i = 0; i < 4; i++) d[4 * l + i] = sum[i]; }"""
    code = code.replace("NAME", precision.capitalize())
    text = import_module("gpubp.kernels.cuda.source")._file("mma.cuh") + code
    per, depth = (1, 8) if precision == "tf32" else (2, 16)
    a = rng.integers(-9, 10, (16, depth)).astype(np.float32)  # exact in both
    b = rng.integers(-9, 10, (depth, 8)).astype(np.float32)
    c = rng.integers(-9, 10, (16, 8)).astype(np.float32)
    a_words, b_words = np.zeros((32, 4, per)), np.zeros((32, 2, per))
    for lane in range(32):
        group, place = lane >> 2, lane % 4
        for i in range(4 * per):  # a0 .. a3 or a0 .. a7
            row = group if (i // per) in (0, 2) else group + 8
            column = place * per + i % per + (depth // 2 if i >= 2 * per else 0)
            a_words[lane, i // per, i % per] = a[row, column]
        for i in range(2 * per):
            row = place * per + i % per + (depth // 2 if i >= per else 0)
            b_words[lane, i // per, i % per] = b[row, group]
    d = np.array([[c[(l >> 2) + 8 * (i >= 2), l % 4 * 2 + (i & 1)] for i in range(4)]
                  for l in range(32)], np.float32)  # fmt: skip

    def packed(words: Any) -> Any:
        bits = words.astype(np.float32).view(np.uint32)
        if per == 1:
            return cupy.asarray(bits.reshape(-1))
        return cupy.asarray(((bits[..., 0] >> 16) | (bits[..., 1] & 0xFFFF0000)).reshape(-1))

    found = cupy.asarray(d)
    with imagined(schedule=schedule):
        kernel = cupy.RawModule(code=text).get_function("kernel")
        kernel((1,), (32,), (packed(a_words), packed(b_words), found))
    right = c + 2 * (a @ b)
    for lane, i in itertools.product(range(32), range(4)):
        row, column = (lane >> 2) + 8 * (i >= 2), lane % 4 * 2 + (i & 1)
        assert found.get()[lane, i] == right[row, column]


def test_a_part_of_a_warp_cannot_multiply(cupy: Any) -> None:
    code = """extern "C" __global__ void kernel(float* d) {
        float sum[4] = {}; const unsigned a[4] = {}, b[2] = {};
        Tf32::mma(sum, a, b);
        d[0] = sum[0]; }"""
    text = import_module("gpubp.kernels.cuda.source")._file("mma.cuh") + code
    kernel = cupy.RawModule(code=text).get_function("kernel")
    kernel((1,), (64,), (cupy.zeros(1, np.float32),))
    with pytest.raises(KernelError, match="a whole warp"):
        kernel((1,), (48,), (cupy.zeros(1, np.float32),))


# Training


@pytest.mark.parametrize("precision", BITS)
def test_a_fit_reaches_the_same_accuracy(precision: str, cuda_backend: gpubp.Backend) -> None:
    """Digits of MNIST's size, in float32 on the CPU and in tf32 or bf16."""
    (x, y), test = gpubp.data.digits28(1000, rng=0), gpubp.data.digits28(500, rng=1)
    found = []
    for where, how in (("cpu", None), (cuda_backend, precision)):
        net = gpubp.Network([784, 30, 10], backend=where, rng=2, precision=how)
        net.fit(x, y, epochs=5, batch_size=10, learning_rate=3.0)
        found.append((net.evaluate(*test), flat(net)))
    (right, weights), (ours, rounded) = found
    assert right.accuracy is not None
    assert ours.accuracy is not None
    assert right.accuracy > 0.8
    assert abs(ours.accuracy - right.accuracy) <= 0.02
    assert abs(ours.cost - right.cost) <= 0.1 * right.cost
    assert 1e-6 < normwise(rounded, weights) < 0.1


def test_resumed_in_the_same_precision(cuda_backend: gpubp.Backend, tmp_path: Path) -> None:
    x, y = gpubp.data.digits28(50, rng=3)
    how: dict[str, Any] = {"batch_size": 10, "learning_rate": 1.0}
    settings: dict[str, Any] = {"backend": cuda_backend, "rng": 4, "precision": "bf16"}
    whole, broken = (gpubp.Network([784, 12, 10], **settings) for _ in range(2))
    whole.fit(x, y, epochs=2, **how)
    broken.fit(x, y, epochs=1, **how)
    broken.save(tmp_path / "net")
    again = gpubp.load(tmp_path / "net", cuda_backend, precision="bf16")
    again.fit(x, y, epochs=2, resume=True, **how)
    np.testing.assert_array_equal(flat(again), flat(whole))
    assert "precision='bf16'" in repr(again)


@pytest.mark.parametrize(
    ("settings", "machine", "words"),
    [
        ({"backend": "cpu", "precision": "tf32"}, {}, "or use backend='cuda' instead of 'cpu'"),
        ({"precision": "tf32", "dtype": "float64"}, {}, "use dtype='float32' instead of 'float64'"),
        ({"precision": "tf64"}, {}, "unknown precision 'tf64': did you mean 'tf32'?"),
        ({"precision": "fp8"}, {}, "unknown precision 'fp8'"),
        ({"precision": "bf16"}, {"compute_capability": "75"}, "capability 8.0 (Ampere, 2020), and"),
    ],
)
def test_who_may_not_ask(
    settings: dict[str, Any], machine: dict[str, Any], words: str, cupy: Any
) -> None:
    with imagined(**machine), pytest.raises(ValueError, match="precision") as caught:
        gpubp.Network([3, 2], **({"backend": "cuda"} | settings))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
