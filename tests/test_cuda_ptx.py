"""The inline PTX of kernels/cuda, and the PTX that NVRTC makes of all of it.

Three holds. A table: every ``asm`` statement of the sources, operand by operand, with what it
rests on in the PTX ISA; a difference fails. The form of what NVRTC makes of the waiting loops. And
the PTX itself, run on the fibers (``cuda_on_cpu/ptx.py``): the numbers of the gate's networks.
Mutants of the inline PTX show what each of these catches.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import build, gate, nvrtc, ptx
from cuda_on_cpu.cupy_on_cpu import installed
from cuda_on_cpu.device import CUDARuntimeError, KernelError, imagined
from cuda_on_cpu.launch import SCHEDULES, Function
from oracle import sgd

import gpubp

if build.missing():
    pytest.skip(str(build.missing()), allow_module_level=True)

EVERYTHING = os.environ.get("GPUBP_EVERYTHING") == "1"
FOLDER = files("gpubp.kernels") / "cuda"


@pytest.fixture
def needs_nvrtc() -> None:
    if nvrtc.library() is None:
        missing = "NVRTC is not installed: pip install 'cuda-toolkit[nvrtc]==13.*'"
        if os.environ.get("GPUBP_REQUIRE_NVRTC") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


def sources() -> dict[str, str]:
    """The texts of kernels/cuda by name, without comments."""
    return {
        path.name: build._without_comments(path.read_text())
        for path in sorted(FOLDER.iterdir(), key=lambda p: p.name)
        if path.name.endswith((".cu", ".cuh"))
    }


# The table

Operands = tuple[tuple[str, str], ...]  # constraint and expression


@dataclass(frozen=True)
class Statement:
    """One asm statement; ``function`` is it in CUDA C, and the name of its twin in cuda.h."""

    file: str
    function: str
    lines: tuple[str, ...]
    outputs: Operands = ()
    inputs: Operands = ()
    volatile: bool = True
    memory: bool = True  # clobbered: no access of memory moves across it


def words(name: str, count: int) -> Operands:
    return tuple(("r", f"{name}[{i}]") for i in range(count))


def sums(name: str) -> Operands:
    return tuple(("+f", f"{name}[{i}]") for i in range(4))


def try_wait(semantics: str) -> Statement:
    return Statement(
        "cluster.cuh", f"mbarrier_try_wait_{semantics}",
        ("{", ".reg .pred p;",
         f"mbarrier.try_wait.parity.{semantics}.cluster.shared::cta.b64 p, [%1], %2;",
         "selp.u32 %0, 1, 0, p;", "}"),
        (("=r", "done"),), (("r", "barrier"), ("r", "parity")),
    )  # fmt: skip


_FRAGMENTS = (sums("d"), words("a", 4) + words("b", 2), True, False)
# Each with what it rests on, section by section of the PTX ISA (9.0), in our words.
TABLE: dict[Statement, str] = {
    Statement(
        "cluster.cuh", "cluster_ctarank", ("mov.u32 %0, %%cluster_ctarank;",),
        (("=r", "rank"),), volatile=False, memory=False,
    ): "%cluster_ctarank: the rank of this block within its cluster, in 32 bits, the same always.",
    Statement(
        "cluster.cuh", "mapa", ("mapa.shared::cluster.u32 %0, %1, %2;",),
        (("=r", "there"),), (("r", "address"), ("r", "rank")), False, False,
    ): "mapa d, a, b: d is, in the block of rank b, the address that corresponds to a; with "
       ".shared::cluster a and d are addresses in shared memory.",
    Statement(
        "cluster.cuh", "barrier_cluster",
        ("barrier.cluster.arrive.release.aligned;", "barrier.cluster.wait.acquire.aligned;"),
    ): "barrier.cluster: what was written before an arrive.release is seen after a wait.acquire by "
       "all threads of the cluster; .aligned: all threads of a warp execute it together.",
    Statement(
        "cluster.cuh", "mbarrier_init_release",
        ("mbarrier.init.shared::cta.b64 [%0], %1;", "fence.mbarrier_init.release.cluster;"),
        (), (("r", "barrier"), ("r", "arrivals")),
    ): "mbarrier.init: phase 0, that many arrivals expected. fence.mbarrier_init orders the init "
       "before what the cluster's barrier releases; it is for nothing else.",
    Statement(
        "cluster.cuh", "mbarrier_arrive_expect_tx",
        ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;",),
        (), (("r", "barrier"), ("r", "bytes")),
    ): "mbarrier.arrive.expect_tx: adds the bytes to the phase's tx-count, then arrives with count "
       "1; .release in the block if nothing is said; _ : the state is not wanted.",
    try_wait("relaxed"): "mbarrier.try_wait.parity: true once the phase of that parity is over, "
       "false after a while, so it stands in a loop. .relaxed orders nothing: a fence follows, as "
       "in the ISA's example under fence, try_wait.relaxed.cluster and then this fence.",
    Statement(
        "cluster.cuh", "fence_acquire_cluster",
        ("fence.acquire.sync_restrict::shared::cluster.cluster;",),
    ): "fence.acquire with .sync_restrict::shared::cluster: acquires for objects in the cluster's "
       "shared memory alone; its scope has to be .cluster.",
    try_wait("acquire"): "As above; .acquire at the scope of the cluster: what the phase's "
       "completion counted is seen after it.",
    Statement(
        "cluster.cuh", "st_async",
        ("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
         "[%0], {%1, %2, %3, %4}, [%5];",),
        (), (("r", "to"), ("r", "v.x"), ("r", "v.y"), ("r", "v.z"), ("r", "v.w"), ("r", "barrier")),
    ): "st.async [a], b, [mbar]: b in order to a, aligned to the vector's size; then a complete-tx "
       "of its bytes on mbar, in the same block as a, with release at the scope of the cluster.",
    Statement("grid.cuh", "fence_acq_rel_gpu", ("fence.acq_rel.gpu;",)):
       "fence.acq_rel.gpu before an atomic and after a strong read that sees it: release and "
       "acquire patterns at the scope of all threads of the GPU.",
    Statement(
        "async_copy.cuh", "cp_async_16", ("cp.async.cg.shared.global [%0], [%1], 16, %2;",),
        (), (("r", "to"), ("l", "from"), ("r", "bytes")),
    ): "cp.async.cg dst, src, 16, src-size: 16 bytes to dst, in shared memory, of which src-size "
       "come from src and the others are 0; both aligned to 16; by the second-level cache alone.",
    Statement("async_copy.cuh", "cp_async_commit_group", ("cp.async.commit_group;",)):
       "cp.async.commit_group: the copies of this thread that belong to no group are one.",
    Statement(
        "async_copy.cuh", "cp_async_wait_group", ("cp.async.wait_group %0;",),
        (), (("n", "LEFT"),),
    ): "cp.async.wait_group N: until at most N of the newest groups of this thread are pending; "
       "what they wrote is visible to the thread that waited, to others behind a barrier.",
    Statement(
        "mma.cuh", "cvt_rna_tf32", ("cvt.rna.tf32.f32 %0, %1;",), (("=r", "word"),), (("f", "x"),),
        False, False,
    ): "cvt.rna.tf32.f32: to nearest, ties away from zero, in a register of 32 bits.",
    Statement(
        "mma.cuh", "cvt_rn_bf16", ("cvt.rn.bf16.f32 %0, %1;",), (("=h", "bits"),), (("f", "x"),),
        False, False,
    ): "cvt.rn.bf16.f32: to nearest, ties to even, in a register of 16 bits.",
    Statement(
        "mma.cuh", "mma_m16n8k8_tf32",
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};",), *_FRAGMENTS,
    ): "Matrix fragments for mma.m16n8k8, .tf32, with groupID g = lane / 4 and t = lane % 4: "
       "a0 to a3 are rows g, g + 8, g, g + 8 and columns t, t, t + 4, t + 4; b0, b1 rows t, t + 4 "
       "of column g; d0, d1 row g, d2, d3 row g + 8, columns 2 t and 2 t + 1.",
    Statement(
        "mma.cuh", "mma_m16n8k16_bf16",
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};",), *_FRAGMENTS,
    ): "Matrix fragments for mma.m16n8k16, .bf16: a register is two neighbours along k, the first "
       "in the low half; registers as above with columns 2 t and 2 t + 8, d as above.",
}  # fmt: skip


def statements(name: str, text: str) -> Iterator[Statement]:
    """The asm statements of a text without comments."""
    for found in re.finditer(r"\basm\b\s*(volatile\b)?\s*\(", text):
        strings: list[str] = []
        code, at, depth = "", found.end(), 1
        while depth:  # to the bracket that closes it; strings are put aside
            if literal := re.compile(r'"((?:\\.|[^"\\])*)"').match(text, at):
                code, at = f'{code}"{len(strings)}"', literal.end()
                strings.append(literal[1])
                continue
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            code += text[at] if depth else ""
            at += 1
        template, *rest = code.split(":")
        outputs, inputs, clobbers = [*rest, "", "", ""][:3]

        def literals(part: str, strings: list[str] = strings) -> list[str]:
            return [strings[int(i)] for i in re.findall(r'"(\d+)"', part)]

        def operands(part: str, strings: list[str] = strings) -> Operands:
            given = re.findall(r'"(\d+)"\s*\(((?:[^()]|\([^()]*\))*)\)', part)
            return tuple((strings[int(i)], " ".join(value.split())) for i, value in given)

        whole = "".join(literals(template)).replace("\\t", "")
        enclosing = re.findall(r"__device__ inline [\w ]*?(\w+)\(", text[: found.start()])
        yield Statement(
            name, enclosing[-1], tuple(whole.split("\\n")), operands(outputs), operands(inputs),
            found[1] is not None, "memory" in literals(clobbers),
        )  # fmt: skip


def in_sources(edit: Callable[[str], str] = lambda text: text) -> list[Statement]:
    return [s for name, text in sources().items() for s in statements(name, edit(text))]


def test_every_asm_statement_is_in_the_table() -> None:
    found = in_sources()
    assert len(set(found)) == len(found)
    assert {s.function: s for s in found} == {s.function: s for s in TABLE}
    assert sum(len(re.findall(r"\b_*asm_*\b", text)) for text in sources().values()) == len(found)
    assert all(why.endswith(".") for why in TABLE.values())
    twins = set(re.findall(r"^inline [\w ]+?(\w+)\(", (build.HERE / "cuda.h").read_text(), re.M))
    assert {s.function for s in TABLE} <= twins


def test_only_single_instructions_have_two_texts() -> None:
    """All else is compiled by g++, too. Of plain C it is one read, at which a fiber gives way."""
    blocks = {}
    for text in sources().values():
        assert "ON_CPU" not in text.replace("#ifndef GPUBP_CUDA_ON_CPU\n", "")
        for block in text.split("#ifndef GPUBP_CUDA_ON_CPU\n")[1:]:
            depth, inside = 1, ""
            for line in block.splitlines():
                depth += line.startswith("#if")
                depth -= line.startswith("#endif")
                if not depth:
                    break
                inside += "" if line.startswith("#") else f"{line}\n"
            functions = re.findall(
                r"inline [^(]*?(\w+)\([^{]*\)\n\{\n(.*?)\n\}\n", inside, re.DOTALL
            )
            assert inside.count("__device__") == len(functions)
            blocks |= dict(functions)
    assert blocks.pop("read_anew").strip() == "return *(const volatile unsigned*)counter;"
    assert blocks.keys() == {s.function for s in TABLE}
    for body in blocks.values():
        declared = r"(?:unsigned(?: short)? (\w+);\s*)?"
        assert re.fullmatch(rf"\s*{declared}asm\b[^;]*(?:;[^;]*)*\);\s*(?:return \w+;)?", body), (
            body
        )
        assert body.count("asm") == 1


# What NVRTC makes of it

CLUSTERED = gate.Case((9, 5, 3), batch=4, rows=14, update=sgd(0.9, l2=0.03), cluster=2, threads=64)
GRID = gate.Case((7, 5, 3), batch=6, rows=16, multiprocessors=3, stepper="cooperative")


def text_of(case: gate.Case, kernel: str) -> str:
    """The text of that kernel of this case; nothing is run."""
    with installed(), imagined(collected={}, multiprocessors=8) as machine, gate.forced(case):
        gate.results(case, gpubp.get_backend("cuda"), runs=1)
        (text,) = (t for t, name in (machine.collected or {}).items() if name == kernel)
    return text


def made_of(case: gate.Case, kernel: str, arch: str = "sm_90") -> list[str]:
    """The instructions and labels of its PTX."""
    text = text_of(case, kernel)
    lines = (line.partition("//")[0].strip() for line in ptx.compiled(text, arch).split("\n"))
    return [line.replace("\t", "") for line in lines if line]


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_grids_barrier_reads_its_counter_anew_between_its_fences(arch: str) -> None:
    text = "\n".join(made_of(GRID, "cooperative", arch))
    barriers = re.findall(
        r"fence\.acq_rel\.gpu;\natom\.global\.add\.u32 %\w+, \[(%\w+)\], 1;\n"
        r"(\$\w+):\nld\.volatile\.global\.u32 (%\w+), \[\1\];\n"
        r"sub\.s32 (%\w+), \3, %\w+;\nsetp\.lt\.s32 (%\w+), \4, 0;\n@\5 bra \2;\n"
        r"fence\.acq_rel\.gpu;\n", text,
    )  # fmt: skip
    assert len(barriers) == 3
    assert text.count("ld.volatile") == text.count("atom") == 3
    assert text.count("fence") == 6
    assert ".nc" not in text  # others write what these loads read


@pytest.mark.usefixtures("needs_nvrtc")
def test_a_cluster_waits_anew_acquires_and_counts_where_it_sends() -> None:
    text = "\n".join(made_of(CLUSTERED, "resident"))
    (wait,) = re.finditer(
        r"(\$\w+):\n\{\n\.reg \.pred p;\n"
        r"mbarrier\.try_wait\.parity\.relaxed\.cluster\.shared::cta\.b64 p, \[%\w+\], %\w+;\n"
        r"selp\.u32 (%\w+), 1, 0, p;\n\}\nsetp\.eq\.s32 (%\w+), \2, 0;\n@\3 bra \1;\n", text,
    )  # fmt: skip
    behind = text[wait.end() :].split("fence.acquire.sync_restrict::shared::cluster.cluster;")[0]
    assert not re.search(r"^(@\S+ )?(ld|st|bra|bar|\$)", behind, re.MULTILINE)
    assert text.count("fence.acquire") == 1
    maps = {d: (address, rank) for d, address, rank in re.findall(
        r"mapa\.shared::cluster\.u32 (%\w+), (%\w+), (%\w+);", text)}  # fmt: skip
    sends = re.findall(r"st\.async\.\S+ \[(%\w+)\], \{[^}]*\}, \[(%\w+)\];", text)
    assert len(sends) >= 2
    assert len(maps) == 2 * len(sends)
    for to, barrier in sends:
        assert maps[to][1] == maps[barrier][1]  # one block
        assert maps[to][0] != maps[barrier][0]
    assert len({maps[to][1] for to, _ in sends}) == 2  # this one and the other
    assert ".nc" not in text


def machine_code_of(case: gate.Case, kernel: str, arch: str) -> str:
    """The operations of its machine code, and labels as they are, in one line."""
    if nvrtc.disassembler() is None:
        pytest.skip("nvdisasm is not installed: pip install 'cuda-toolkit[nvdisasm]==13.*'")
    code = nvrtc.machine_code(text_of(case, kernel), arch)
    found = re.findall(
        r"^(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)(?: +`\((\.L_x_\d+)\))?",
        code, re.MULTILINE,
    )  # fmt: skip
    return " ".join(f"{label}{operation}{f' {to}' if to else ''}" for label, operation, to in found)


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_machine_code_of_a_grids_barrier(arch: str) -> None:
    """ptxas keeps that form: fences of the GPU that empty the first cache around a loop that reads
    past it; and reads nothing through the cache for constants."""
    code = machine_code_of(GRID, "cooperative", arch)
    fence = r"MEMBAR\.(?:SC|ALL)\.GPU(?: \w*ERRBAR)* CCTL\.IVALL"
    barriers = re.findall(
        rf"{fence}(?: (?!LDG|STG)\S+)*? ATOMG\S*ADD\.STRONG\.GPU (\.L_x_\d+) LDG\.E\.STRONG\.SYS"
        rf"(?: (?:CCTL\.IVALL|YIELD|[IV]\S+))*(?: BRA)? \1 {fence}", code,
    )  # fmt: skip
    assert len(barriers) == 3, code
    assert "CONSTANT" not in code


@pytest.mark.usefixtures("needs_nvrtc")
def test_the_machine_code_of_a_clusters_step_has_no_fence_of_the_gpu() -> None:
    """But in the one barrier of the whole cluster, before the first step."""
    code = machine_code_of(CLUSTERED, "resident", "sm_90")
    assert code.count("MEMBAR.ALL.GPU") == code.count("CCTL.IVALL") == 1
    before, _, behind = code.partition("UCGABAR_ARV UCGABAR_WAIT CCTL.IVALL")
    assert "MEMBAR.ALL.GPU" in before
    assert "SYNCS.EXCH.64" in before
    assert behind.count("STAS.128") >= 2
    assert "SYNCS.PHASECHK.TRANS64.TRYWAIT" in behind
    assert "CONSTANT" not in code


# Run

_SOME = ("ragged", "bf16, tile 2", "cooperative", "resident", "resident, deep",
         "resident, softmax")  # fmt: skip


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("name", gate.CASES if EVERYTHING else _SOME)
def test_the_ptx_computes_the_reference_s_numbers(name: str) -> None:
    """On all six schedules, with the same bits."""
    case, first = gate.CASES[name], None
    for schedule in SCHEDULES:
        with ptx.route() as texts:
            found = gate.on_cuda(case, schedule=schedule)
        assert texts  # it has come this way
        assert gate.right(case, found), schedule
        first = found if first is None else first
        for key, array in found.items():
            np.testing.assert_array_equal(array, first[key], err_msg=f"{key}, {schedule}")


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("name", ["tf32, tile 1", *(["cooperative"] if EVERYTHING else [])])
def test_the_ptx_for_older_gpus_does_too(name: str) -> None:
    case = gate.CASES[name]
    with ptx.route("sm_80"):
        assert gate.right(case, gate.on_cuda(case, compute_capability="80"))


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("schedule", ["forward", "reverse"])
def test_a_wait_that_acquires_by_itself(schedule: str) -> None:
    """What compilers before CUDA 13 get, where what is sent arrives early and where it is late."""
    with ptx.route(edit=lambda text: text.replace("__CUDACC_VER_MAJOR__ >= 13", "0")) as texts:
        assert gate.right(CLUSTERED, gate.on_cuda(CLUSTERED, schedule=schedule))
    assert "__CUDACC_VER_MAJOR__ >= 13" in texts[0]


# One product of a warp, by the ISA's table: no tile of ours stands between.
_PRODUCT = {
    "mma_m16n8k8_tf32": """
    unsigned a_w[4], b_w[2];
    for (int r = 0; r < 4; r++) a_w[r] = cvt_rna_tf32(a[(g + r % 2 * 8) * 8 + t + r / 2 * 4]);
    for (int r = 0; r < 2; r++) b_w[r] = cvt_rna_tf32(b[(t + r * 4) * 8 + g]);""",
    "mma_m16n8k16_bf16": """
    unsigned a_w[4], b_w[2];
    for (int r = 0; r < 4; r++) {
        const float* at = a + (g + r % 2 * 8) * 16 + 2 * t + r / 2 * 8;
        a_w[r] = cvt_rn_bf16(at[0]) | unsigned(cvt_rn_bf16(at[1])) << 16;
    }
    for (int r = 0; r < 2; r++) {
        const float* at = b + (2 * t + r * 8) * 8 + g;
        b_w[r] = cvt_rn_bf16(at[0]) | unsigned(cvt_rn_bf16(at[8])) << 16;
    }""",
}


def product_of_a_warp(name: str) -> str | None:
    """What is wrong with D += A B by that instruction; operands need rounding, ties among them."""
    mma = (FOLDER / "mma.cuh").read_text()
    code = f"""{mma}
extern "C" __global__ void __launch_bounds__(32) kernel(const float* a, const float* b, float* d)
{{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;{_PRODUCT[name]}
    float sum[4];
    for (int r = 0; r < 4; r++) sum[r] = d[(g + r / 2 * 8) * 8 + 2 * t + r % 2];
    {name}(sum, a_w, b_w);
    for (int r = 0; r < 4; r++) d[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = sum[r];
}}"""
    depth, bits = (8, 10) if "tf32" in name else (16, 7)
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> Any:  # one bit more than the operands have, so that half are ties
        return np.ldexp(rng.integers(2**bits, 2 ** (bits + 2), shape), -bits).astype(np.float32)

    def rounded(x: Any) -> Any:
        scale = np.ldexp(1.0, bits - np.frexp(x)[1] + 1)
        ties_away = np.floor(x * scale + 0.5) / scale  # x > 0
        return ties_away if "tf32" in name else np.rint(x * scale) / scale

    with installed() as cupy, imagined():
        a, b, d = draw(16, depth), draw(depth, 8), draw(16, 8)
        on_device = [cupy.asarray(array) for array in (a, b, d)]
        cupy.RawModule(code=code).get_function("kernel")((1,), (32,), tuple(on_device))
        found = cupy.asnumpy(on_device[2])
    exact = d.astype(np.float64) + rounded(a.astype(np.float64)) @ rounded(b.astype(np.float64))
    wrong = np.abs(found - exact) > 20 * 2.0**-24 * exact
    return f"wrong at {wrong.sum()} of {wrong.size} places" if wrong.any() else None


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("name", _PRODUCT)
def test_a_warps_product_has_the_isas_fragments(name: str) -> None:
    """The instruction in PTX and its twin in cuda.h."""
    assert product_of_a_warp(name) is None
    with ptx.route():
        assert product_of_a_warp(name) is None


# The translation itself, against exact arithmetic: instructions that C++ has no operator for

_INSTRUCTIONS = """// pointers: 1 1 1
.version 8.0
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 of_f, .param .u64 of_u, .param .u64 to)
.maxntid 256, 1, 1
{
	.reg .pred %p<2>;
	.reg .f32 %f<5>;
	.reg .b32 %r<9>;
	.reg .b64 %rd<5>;
	ld.param.u64 %rd1, [of_f];
	ld.param.u64 %rd2, [of_u];
	ld.param.u64 %rd3, [to];
	mov.u32 %r0, %tid.x;
	mul.lo.s32 %r8, %r0, 12;
	cvt.u64.u32 %rd0, %r8;
	add.s64 %rd1, %rd1, %rd0;
	add.s64 %rd2, %rd2, %rd0;
	shl.b64 %rd0, %rd0, 2;
	add.s64 %rd3, %rd3, %rd0;
	ld.global.f32 %f1, [%rd1];
	ld.global.f32 %f2, [%rd1+4];
	ld.global.f32 %f3, [%rd1+8];
	ld.global.u32 %r1, [%rd2];
	ld.global.u32 %r2, [%rd2+4];
	ld.global.u32 %r3, [%rd2+8];
	fma.rm.f32 %f4, %f1, %f2, %f3;
	st.global.f32 [%rd3], %f4;
	add.rz.f32 %f4, %f1, %f3;
	st.global.f32 [%rd3+4], %f4;
	fma.rn.f32 %f4, %f1, %f2, %f3;
	st.global.f32 [%rd3+8], %f4;
	mul.ftz.f32 %f4, %f1, 0f00800000;
	st.global.f32 [%rd3+12], %f4;
	bfi.b32 %r4, %r1, %r2, %r3, 7;
	st.global.u32 [%rd3+16], %r4;
	shr.s32 %r4, %r1, %r3;
	st.global.u32 [%rd3+20], %r4;
	shl.b32 %r4, %r1, %r3;
	st.global.u32 [%rd3+24], %r4;
	mul.hi.s32 %r4, %r1, %r2;
	st.global.u32 [%rd3+28], %r4;
	mul.wide.s32 %rd4, %r1, %r2;
	shr.u64 %rd4, %rd4, 16;
	cvt.u32.u64 %r4, %rd4;
	st.global.u32 [%rd3+32], %r4;
	shfl.sync.bfly.b32 %r4|%p1, %r1, 5, 31, -1;
	st.global.u32 [%rd3+36], %r4;
	setp.ltu.f32 %p1, %f1, %f3;
	selp.b32 %r4, %r1, %r2, %p1;
	@!%p1 bra $L_1;
	add.s32 %r4, %r4, -1;
$L_1:
	st.global.u32 [%rd3+40], %r4;
	cvt.rzi.s32.f32 %r4, %f1;
	st.global.u32 [%rd3+44], %r4;
	ret;
}
"""


def towards(exact: Fraction, down: bool) -> np.float32:
    """The float32 below, or of those around the one nearer to zero."""
    nearest = np.float32(float(exact))
    if not down and exact < 0:
        return np.float32(-towards(-exact, True))
    return (
        nearest if Fraction(float(nearest)) <= exact else np.nextafter(nearest, np.float32("-inf"))
    )


def test_instructions_do_what_the_isa_says() -> None:
    rng, n = np.random.default_rng(8), 256
    f = np.ldexp(rng.uniform(-1, 1, (n, 3)), rng.integers(-12, 13, (n, 3))).astype(np.float32)
    f[:32, 2] = -(f[:32, 0] * f[:32, 1])  # almost nothing is left
    u = rng.integers(0, 2**32, (n, 3), np.uint32)
    u[:, 2] %= 48  # shifts of more than there is, too
    with installed() as cupy, imagined():
        out = cupy.zeros((n, 12), np.uint32)
        kernel = Function("kernel", ptx.load(_INSTRUCTIONS)["kernel"], False)
        kernel((1,), (n,), (cupy.asarray(f), cupy.asarray(u), out))
        found = cupy.asnumpy(out)
    real = found[:, :4].copy().view(np.float32)
    for i in range(n):
        a, b, c = (Fraction(float(value)) for value in f[i])
        assert real[i, 0] == towards(a * b + c, True), i
        assert real[i, 1] == towards(a + c, False), i
        assert abs(Fraction(float(real[i, 2])) - (a * b + c)) <= abs(a * b + c) / 2**24
        small = abs(a) < 1  # times the least normal number
        assert real[i, 3] == (0 if small else float(a) * 2.0**-126), i
        x, y, by = (int(value) for value in u[i])
        signed = [value - (value >> 31 << 32) for value in (x, y)]
        ones = (127 << by) % 2**32 if by < 32 else 0
        product = signed[0] * signed[1]
        wanted = [
            (y & ~ones) | ((x << by) & ones), signed[0] >> min(by, 31), x << by if by < 32 else 0,
            product >> 32, product >> 16, int(u[i ^ 5, 0]), (x - 1) if a < c else y, int(a),
        ]  # fmt: skip
        assert list(found[i, 4:]) == [value % 2**32 for value in wanted], i


def test_what_is_not_known_is_not_translated() -> None:
    for line, said in (
        ("ld.global.nc.f32 %f1, [%rd1];", "nc"), ("fence.acq_rel.cta;", "cta"),
        ("bar.sync 1;", "barrier"), ("sin.approx.f32 %f1, %f2;", "sin"),
        ("atom.global.add.f32 %f1, [%rd1], %f2;", "atom"),
    ):  # fmt: skip
        with pytest.raises(ptx.UntranslatedError, match=said):
            ptx.Kernel(_INSTRUCTIONS.replace("ret;", f"{line}\n\tret;"))


# Mutants


@dataclass(frozen=True)
class Mutant:
    """A text put in another's place, in that file; ``runs``: running it shows, too."""

    where: str
    old: str
    new: str
    runs: bool = True

    def __call__(self, text: str) -> str:
        return text.replace(self.old, self.new)


_D = "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
MUTANTS = {
    "the grid's fence is the block's": Mutant("grid", "fence.acq_rel.gpu", "fence.acq_rel.cta"),
    "no fence of the grid": Mutant("grid", "fence.acq_rel.gpu;", "", runs=False),
    "accesses may move across the fence": Mutant("grid", '::: "memory"', ":::", runs=False),
    "the counter is read once": Mutant("grid", "(const volatile unsigned*)", "(const unsigned*)"),
    "a block too few is waited for": Mutant("grid", "- value) < 0", "- value) < -1"),
    "a block too many is waited for": Mutant("grid", "- value) < 0", "- value) <= 0"),
    "mapa of this block": Mutant("cluster", '"r"(address), "r"(rank)', '"r"(address), "r"(0)'),
    "mapa's operands swapped": Mutant("cluster", "%0, %1, %2;\" : \"=r\"(there)",
                                      "%0, %2, %1;\" : \"=r\"(there)"),
    "another place as the mbarrier": Mutant("cluster", "%4}, [%5];", "%4}, [%0];"),
    "16 bytes in another order": Mutant("cluster", "{%1, %2, %3, %4}", "{%2, %1, %3, %4}"),
    "half of 16 bytes": Mutant("cluster", ".v4.b32 \"\n", ".v2.b32 \"\n"),
    "the parity of phase 0 always": Mutant("cluster", "p, [%1], %2;", "p, [%1], 0;"),
    "done when it is not": Mutant("cluster", "selp.u32 %0, 1, 0, p;", "selp.u32 %0, 0, 1, p;"),
    "half of the bytes expected": Mutant("cluster", '"r"(bytes)', '"r"(bytes / 2)'),
    "an arrival too many expected": Mutant("cluster", '"r"(arrivals)', '"r"(arrivals + 1)'),
    "no fence behind the wait": Mutant(
        "cluster", "fence.acquire.sync_restrict::shared::cluster.cluster;", ""),
    "a fence of another sort": Mutant(
        "cluster", "fence.acquire.sync_restrict::shared::cluster.cluster", "fence.acq_rel.cta"),
    "a wait of the block's scope": Mutant("cluster", "relaxed.cluster", "relaxed.cta"),
    "the cluster's barrier without wait": Mutant(
        "cluster", "\\n\\tbarrier.cluster.wait.acquire.aligned;", ""),
    "the cluster's barrier relaxed": Mutant("cluster", "arrive.release", "arrive.relaxed"),
    "no fence behind init": Mutant(
        "cluster", "\\n\\tfence.mbarrier_init.release.cluster;", "", runs=False),
    "the wait may be left out": Mutant("cluster", 'asm volatile("{', 'asm("{', runs=False),
    "rows of A swapped": Mutant("mma", "{%4, %5, %6, %7}", "{%5, %4, %6, %7}"),
    "halves of A swapped": Mutant("mma", "{%4, %5, %6, %7}", "{%4, %6, %5, %7}"),
    "halves of B swapped": Mutant("mma", "{%8, %9}", "{%9, %8}"),
    "columns of D swapped": Mutant("mma", _D, _D.replace("{%0, %1", "{%1, %0")),
    "columns of C swapped": Mutant("mma", _D, _D.replace("9}, {%0, %1", "9}, {%1, %0")),
    "tf32 not rounded": Mutant("mma", "cvt.rna.tf32.f32", "mov.b32"),
    "bf16 rounded towards zero": Mutant("mma", "cvt.rn.bf16", "cvt.rz.bf16"),
}  # fmt: skip


def shown_by_running(mutant: Mutant) -> str | None:
    """What the first schedule says on which something is wrong."""
    cases = {"grid": GRID, "cluster": CLUSTERED}
    for schedule in ("forward", "reverse", "greedy", "greedy-reverse"):
        with ptx.route(edit=mutant) as texts:
            try:
                if mutant.where == "mma":
                    wrong = [w for name in _PRODUCT if (w := product_of_a_warp(name))]
                else:
                    case = cases[mutant.where]
                    found = gate.on_cuda(case, schedule=schedule)
                    wrong = [] if gate.right(case, found) else ["wrong numbers"]
            except (KernelError, CUDARuntimeError, ptx.UntranslatedError, nvrtc.NVRTCError,
                    ValueError) as error:  # fmt: skip
                wrong = [f"{type(error).__name__}: {error}"]
        assert any(mutant.old in text for text in texts), "the kernel does not have it"
        if wrong:
            return f"{schedule}: {wrong[0]}"
    return None


@pytest.mark.usefixtures("needs_nvrtc")
def test_the_judge_of_mutants_is_fair() -> None:
    for where in ("grid", "cluster", "mma"):
        assert shown_by_running(Mutant(where, "__device__", "__device__")) is None


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_of_the_ptx_is_caught(name: str) -> None:
    """By the table, if it changes an asm statement, and by running it."""
    mutant = MUTANTS[name]
    text = sources()[f"{mutant.where}.cuh"]
    assert mutant.old in text
    changed = in_sources(mutant) != in_sources()
    shown = shown_by_running(mutant) if mutant.runs else None
    assert changed or shown, "nothing shows"
    assert shown or not mutant.runs, "running it shows nothing"


# Races, as ThreadSanitizer sees them in the PTX: a fence of the grid that no schedule shows. (That
# of a cluster shows in the numbers, too, where what is sent arrives late.)


@pytest.mark.usefixtures("needs_nvrtc")
@pytest.mark.parametrize(
    ("where", "mutant"),
    [("grid", "no fence of the grid"), ("cluster", "no fence behind the wait")][: 1 + EVERYTHING],
)
def test_fences_order_what_the_ptx_does(where: str, mutant: str) -> None:
    if why := build.missing("thread"):
        pytest.skip(why)
    done = build.sanitized("thread", Path(__file__), where, mutant)
    right, _, wrong = done.stderr.partition("== a fence less\n")
    assert "WARNING" not in right, right[:3000]
    assert "data race" in wrong, wrong[:3000]
    assert ".ptx:" in wrong


def main(where: str, mutant: str) -> None:
    """That network's PTX as it is, then the mutant's, in a process of ThreadSanitizer's."""
    case = {"grid": GRID, "cluster": CLUSTERED}[where]
    for edit in (lambda text: text, MUTANTS[mutant]):
        with ptx.route(edit=edit):
            gate.on_cuda(replace(case, rows=2 * case.batch + 3), runs=1)
        print("== a fence less", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
