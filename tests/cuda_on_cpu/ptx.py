"""PTX, as NVRTC makes it of a kernel's text -> C++ for the fibers, so that it can be run here.

``build.py`` compiles the CUDA C; this takes the other road, by NVIDIA's own compiler:

    CUDA C  --NVRTC-->  PTX  --translated-->  C++ behind ptx.h  --g++-->  the fibers of runtime.cpp

so that what runs is what a GPU gets, inline PTX included: registers in their order, addresses in
another block of the cluster, waiting loops, predicates. A register is a variable of its width, a
label a label, an instruction a line of C++ that does what the PTX ISA says of it. What is not
known here does not compile: UntranslatedError names it.

    with ptx.route(): ...      RawModule takes this road in here; route("sm_80"), for older GPUs

Two things are left to the C library and to the compiler: ex2, lg2 and rcp.approx are as exact as
float allows (a GPU's are off by an ulp or two), and mul and add are rounded one by one where ptxas
may contract them.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from unittest import mock

from . import build, nvrtc

OPTIONS = ("-std=c++17", "-ftz=true")  # what kernels/cuda/source.py asks for and CuPy adds


class UntranslatedError(Exception):
    """An instruction, or a form of one, that the translation does not know."""


def compiled(text: str, arch: str = "sm_90", options: Sequence[str] = ()) -> str:
    """The PTX that NVRTC makes of this text, kept by content and version.

    Its first line, a comment, tells which parameters are pointers."""
    arguments = [f"-arch=compute_{arch[3:]}", *OPTIONS, *options]

    def make() -> str:
        return f"// pointers: {_pointers(text, options)}\n{nvrtc.ptx(text, arguments)}"

    return nvrtc.kept("ptx-{}.ptx", [*arguments, text], make)


def _pointers(text: str, options: Sequence[str]) -> str:
    """Which of the kernel's parameters are pointers: to PTX these are numbers like others."""
    with tempfile.NamedTemporaryFile("w", suffix=".cu") as file:
        file.write(text)
        file.flush()
        said = build._run(["g++", "-E", "-P", *options, "-x", "c++", file.name])
    found = re.search(r"__global__[^{]*?\w+\s*\(([^(){]*)\)\s*\{", said.stdout)
    if found is None:
        raise build.CompileError(said.stderr or "no __global__ function")
    return " ".join(str(int("*" in p)) for p in found[1].split(",") if p.strip())


# Translation

_TYPES = {
    "pred": "bool", "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t", "b16": "uint16_t",
    "u16": "uint16_t", "s16": "int16_t", "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t",
    "b64": "uint64_t", "u64": "uint64_t", "s64": "int64_t", "f32": "float", "f64": "double",
}  # fmt: skip
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
_SPECIAL = {
    **{f"%{name}.{axis}": f"{ours}.{axis}" for name, ours in (
        ("tid", "threadIdx"), ("ctaid", "blockIdx"), ("ntid", "blockDim"), ("nctaid", "gridDim"),
    ) for axis in "xyz"},
    "%laneid": "gpu_lane()", "%cluster_ctarank": "gpu::cluster_rank()", "WARP_SZ": "32u",
}  # fmt: skip
_HERE = "{FILE, __LINE__}"

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
            "lo": "<", "ls": "<=", "hi": ">", "hs": ">="}  # fmt: skip
_ARITHMETIC = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
_MMA = {
    "m16n8k8.row.col.f32.tf32.tf32.f32": "mma_m16n8k8_tf32",
    "m16n8k16.row.col.f32.bf16.bf16.f32": "mma_m16n8k16_bf16",
}
# Instructions that threads meet or speak by: each in these very forms. {0}, {1}, ... are operands.
_EXACT = {
    "bar.sync": "gpu::sync_threads(HERE);",
    "bar.warp.sync": "gpu::sync_warp(uint32_t({0}), HERE);",
    "fence.acq_rel.gpu": "gpu::fence();",
    "barrier.cluster.arrive.release.aligned": "self_.cluster(HERE);",
    "barrier.cluster.wait.acquire.aligned": "self_.wait_for_cluster(HERE);",
    "mbarrier.init.shared::cta.b64": "gpu::mbarrier_init({0}, {1}, HERE);",
    "fence.mbarrier_init.release.cluster": "",  # with barrier.cluster behind it, which orders here
    "mbarrier.arrive.expect_tx.shared::cta.b64": "gpu::mbarrier_arrive({1}, {2}, HERE);",
    "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64":
        "{0} = true; gpu::mbarrier_wait({1}, {2}, false, HERE);",
    "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64":
        "{0} = true; gpu::mbarrier_wait({1}, {2}, true, HERE);",
    "fence.acquire.sync_restrict::shared::cluster.cluster": "gpu::fence_cluster();",
    "mapa.shared::cluster.u32": "{0} = gpu::in_block({1}, {2}, HERE);",
    "ld.volatile.global.u32": "{0} = gpu::read_anew(at<uint32_t>({1}), HERE);",
    "cp.async.commit_group": "cp_async_commit_group();",
    "cp.async.wait_group": "cp_async_wait_group<{0}>();",
    "cp.async.cg.shared.global": "cp_async_16(uint32_t({0}), at<void>({1}), {3}, FILE, __LINE__);",
    "cvt.rna.tf32.f32": "{0} = cvt_rna_tf32({1});",
    "cvt.rn.bf16.f32": "{0} = cvt_rn_bf16({1});",
}  # fmt: skip


class Kernel:
    """One .entry of a PTX text, read: its name, parameters, bounds, and its body as C++."""

    def __init__(self, ptx: str) -> None:
        found = re.search(r"\.visible \.entry (\w+)\(([^)]*)\)([^{]*)\{(.*)\n\}", ptx, re.DOTALL)
        if found is None or len(re.findall(r"\.(?:entry|func)\b", ptx)) != 1:
            raise UntranslatedError("one kernel without functions beside it is what is known")
        self.name, parameters, directives, body = found.groups()
        self.parameters = [p.split()[1:] for p in parameters.split(",") if p.strip()]
        self.pointers = [flag == "1" for flag in ptx.partition("\n")[0].split()[2:]]
        threads = re.search(r"\.maxntid (\d+)", directives)
        cluster = re.search(r"\.reqnctapercluster (\d+)", directives)
        self.threads = int(threads[1]) if threads else 1024
        self.cluster = int(cluster[1]) if cluster else 1
        self.registers: dict[str, str] = {}
        self.places: dict[str, str] = {}  # names of parameters and shared arrays -> C++
        self.first_line = ptx.count("\n", 0, found.start(4)) + 1
        self.head: list[str] = []
        self.passed: set[str] = set()  # labels, so far
        for i, (kind, *_, name) in enumerate(self.parameters):
            self.places[name] = name
            ours = _TYPES[kind[1:]]
            self.head.append(f"const {ours} {name} = *static_cast<const {ours}*>(arguments[{i}]);")
        for name in re.findall(r"^\.extern \.shared [^;]*?(\w+)\[\];", ptx, re.MULTILINE):
            self._shared(name, "gpu::dynamic_shared()")
        self.lines = [self._line(line.strip()) for line in body.split("\n")]

    def _shared(self, name: str, where: str) -> None:
        self.places[name] = name
        self.head.append(f"const uint32_t {name} = gpu::shared_address({where}, {_HERE});")

    # Operands

    def _register(self, name: str) -> str:
        return name.replace("%", "").replace("$", "_")

    def value(self, operand: str, kind: str) -> str:
        """A source operand as a number of this PTX type."""
        wanted = _TYPES[kind]
        if operand in self.registers:
            has = self.registers[operand]
            name = self._register(operand)
            if has == wanted:
                return name
            if "float" in (has, wanted) or "double" in (has, wanted):
                return f"gpu::bits<{wanted}>({name})"
            return f"{wanted}({name})"
        if operand in _SPECIAL:
            return f"{wanted}({_SPECIAL[operand]})"
        if operand in self.places:
            return f"{wanted}({operand})"
        if found := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})", operand):
            bits = f"0x{found[1]}u" if found[1] else f"0x{found[2]}ull"
            return f"gpu::bits<{wanted}>({bits})"
        if re.fullmatch(r"-?\d+|0x[0-9A-Fa-f]+", operand):
            if kind == "pred":
                return "true" if int(operand, 0) else "false"
            number = int(operand, 0) % (1 << 64)
            return f"{wanted}({number}ull)"
        raise UntranslatedError(f"operand {operand} as {kind}")

    def put(self, operand: str, kind: str, expression: str) -> str:
        """To a register, from a number of this type: wider registers are extended by its sign."""
        if operand == "_":
            return f"{expression};"
        has, given = self.registers[operand], _TYPES[kind]
        name = self._register(operand)
        floats = {"float", "double"}
        if has != given and (has in floats or given in floats):
            return f"{name} = gpu::bits<{has}>({given}({expression}));"
        if kind[0] == "s" and has != given:
            signed = has.replace("uint", "int")
            return f"{name} = {has}({signed}({given}({expression})));"
        return f"{name} = {given}({expression});" if has == given else (
            f"{name} = {has}({given}({expression}));"
        )  # fmt: skip

    def address(self, operand: str) -> tuple[str, str]:
        """What is between the brackets: the base and its C++ value with the offset."""
        inside = operand[1:-1]
        found = re.fullmatch(r"([%$\w]+)(?:\+(-?\d+))?", inside)
        if found is None:
            raise UntranslatedError(f"address {operand}")
        base, offset = found[1], found[2] or "0"
        if base in self.registers:
            wide = self.registers[base]
            return base, f"{wide}({self._register(base)} + {wide}({offset}))"
        if base in self.places:
            return base, f"uint32_t({base} + uint32_t({offset}))"
        raise UntranslatedError(f"address {operand}")

    # Lines

    def _line(self, line: str) -> str:
        line = line.partition("//")[0].strip()
        if not line or line.startswith(".pragma"):
            return ""
        if line in "{}":
            return line
        if line.startswith(".reg"):
            return self._declare(line)
        if found := re.match(r"\.shared \.align \d+ \.b8 (\w+)\[(\d+)\];", line):
            self._shared(found[1], f"&gpu::shared<char[{found[2]}]>([] {{}})")
            return ""
        if found := re.fullmatch(r"(\$\w+):", line):
            self.passed.add(found[1])
            return f"{self._register(found[1])}:;"
        found = re.fullmatch(r"(?:@(!?)(%?\w+)\s+)?([\w.:]+)\s*(.*);", line)
        if found is None:
            raise UntranslatedError(line)
        operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^\s,{}\[\]]+", found[4])
        did = self._instruction(found[3], operands)
        if found[2]:
            return f"if ({found[1]}{self._register(found[2])}) {{ {did} }}"
        return did

    def _declare(self, line: str) -> str:
        found = re.fullmatch(r"\.reg \.(\w+)\s+(%?\w+)(?:<(\d+)>)?;", line)
        if found is None:
            raise UntranslatedError(line)
        kind, name, count = _TYPES[found[1]], found[2], found[3]
        names = [f"{name}{i}" for i in range(int(count))] if count else [name]
        self.registers |= dict.fromkeys(names, kind)
        listed = ", ".join(self._register(n) for n in names)
        if count:  # of the whole kernel: a goto may not pass a declaration
            self.head.append(f"{kind} {listed};")
            return ""
        return f"{kind} {listed};"

    def _instruction(self, opcode: str, o: list[str]) -> str:
        if opcode in _EXACT:
            if opcode == "bar.sync" and o != ["0"]:
                raise UntranslatedError(f"{opcode} {o}: another barrier than 0")
            if opcode == "mbarrier.arrive.expect_tx.shared::cta.b64" and o[0] != "_":
                raise UntranslatedError(f"{opcode} {o}: with a result")
            if opcode == "cp.async.cg.shared.global" and o[2] != "16":
                raise UntranslatedError(f"{opcode} {o}: of another size than 16")
            given = [self._plain(operand, opcode) for operand in o]
            return _EXACT[opcode].format(*given).replace("HERE", _HERE)
        base, *parts = opcode.split(".")
        translate: Callable[[str, list[str], list[str]], str] | None
        translate = getattr(self, f"_do_{base}", None)
        if opcode.startswith("st.async."):
            translate = self._st_async
        elif base in _ARITHMETIC or base in ("mul", "mad", "fma", "div", "rem", "min", "max"):
            translate = self._arithmetic
        elif base in ("neg", "abs", "not", "ex2", "lg2", "rcp", "sqrt", "rsqrt", "clz", "popc"):
            translate = self._unary
        if translate is None:
            raise UntranslatedError(opcode)
        return translate(opcode, parts, o)

    def _plain(self, operand: str, opcode: str) -> str:
        if operand.startswith("["):
            return self.address(operand)[1]
        if operand in self.registers:
            return self._register(operand)
        if operand == "_":
            return operand
        return self.value(operand, opcode.rpartition(".")[2] if opcode[-1].isdigit() else "u32")

    def _do_mov(self, opcode: str, parts: list[str], o: list[str]) -> str:
        kind = parts[-1]
        if "{" in o[0] + o[1]:
            return self._packed(kind, o)
        return self.put(o[0], kind, self.value(o[1], kind))

    def _packed(self, kind: str, o: list[str]) -> str:
        """A register from halves, or the halves of one."""
        vector = re.findall(r"[%\w]+", o[0] if "{" in o[0] else o[1])
        bits = 8 * _BYTES[kind[1:]] // len(vector)
        if "{" in o[0]:
            whole = self.value(o[1], kind)
            return " ".join(
                self.put(name, f"b{bits}", f"{whole} >> {i * bits}")
                for i, name in enumerate(vector) if name != "_"
            )  # fmt: skip
        parts = (
            f"{_TYPES[kind]}({self.value(v, f'b{bits}')}) << {i * bits}"
            for i, v in enumerate(vector)
        )
        return self.put(o[0], kind, " | ".join(parts))

    def _ftz(self, parts: list[str], expression: str) -> str:
        return f"flushed({expression})" if "ftz" in parts else expression

    def _source(self, parts: list[str], operand: str, kind: str) -> str:
        value = self.value(operand, kind)
        constant = operand.startswith("0f")
        return f"flushed({value})" if "ftz" in parts and kind == "f32" and not constant else value

    def _arithmetic(self, opcode: str, parts: list[str], o: list[str]) -> str:
        base, kind = opcode.partition(".")[0], parts[-1]
        modifiers = set(parts[:-1])
        rounds = {"fma.rm": "rounded_down", "add.rz": "rounded_to_zero"}.get(opcode[:6])
        known = {"rn", "ftz", "lo", "hi", "wide"} | ({opcode[4:6]} if rounds else set())
        if modifiers - known or kind not in _TYPES or (rounds and kind != "f32"):
            raise UntranslatedError(opcode)
        a, b, *c = (self._source(parts, operand, kind) for operand in o[1:3]) if (
            "wide" in modifiers
        ) else (self._source(parts, operand, kind) for operand in o[1:])  # fmt: skip
        double = kind[0] + str(2 * int(kind[1:])) if kind != "pred" else ""
        if kind[0] == "f":
            if rounds:  # a sum of two doubles: the product is exact
                first, last = (f"double({a}) * {b}", c[0]) if c else (a, b)
                result = f"{rounds}({first}, {last})"
            elif base == "fma":
                result = f"fma{'f' if kind == 'f32' else ''}({a}, {b}, {c[0]})"
            elif base in ("min", "max"):
                result = f"f{base}{'f' if kind == 'f32' else ''}({a}, {b})"
            else:
                result = f"{a} {({'mul': '*', 'div': '/'} | _ARITHMETIC)[base]} {b}"
            return self.put(o[0], kind, self._ftz(parts, result))
        if base in ("mul", "mad"):
            if "wide" in modifiers:
                wide = _TYPES[double]
                result = f"{wide}({a}) * {wide}({b})"
                if base == "mad":
                    result += f" + {self.value(o[3], double)}"
                return self.put(o[0], double, result)
            if "hi" in modifiers:
                bits = int(kind[1:])
                wide = ("__int128" if kind[0] == "s" else "unsigned __int128") if (
                    bits == 64
                ) else _TYPES[double]  # fmt: skip
                result = f"{wide}({a}) * {wide}({b}) >> {bits}"
            else:
                result = f"{a} * {b}"
            if base == "mad":
                result = f"{_TYPES[kind]}({result}) + {c[0]}"
        elif base in ("div", "rem"):
            result = f"{a} {'/' if base == 'div' else '%'} {b}"
        elif base in ("min", "max"):
            result = f"{a} {'<' if base == 'min' else '>'} {b} ? {a} : {b}"
        elif kind == "pred" or not c:
            result = f"{a} {_ARITHMETIC[base]} {b}"
        else:
            raise UntranslatedError(opcode)
        return self.put(o[0], kind, result)

    def _unary(self, opcode: str, parts: list[str], o: list[str]) -> str:
        base, kind = opcode.partition(".")[0], parts[-1]
        if set(parts[:-1]) - {"rn", "ftz", "approx"}:
            raise UntranslatedError(opcode)
        a = self._source(parts, o[1], kind)
        f = "f" if kind == "f32" else ""
        if base in ("clz", "popc"):
            word = self.value(o[1], f"u{kind[1:]}")
            return self.put(o[0], "u32", f"{base}({word})")
        functions = {
            "neg": f"-{a}", "not": f"!{a}" if kind == "pred" else f"~{a}",
            "abs": f"fabs{f}({a})" if kind[0] == "f" else f"{a} < 0 ? -{a} : {a}",
            "ex2": f"exp2{f}({a})", "lg2": f"log2{f}({a})", "rcp": f"1 / {a}",
            "sqrt": f"sqrt{f}({a})", "rsqrt": f"1 / sqrt{f}({a})",
        }  # fmt: skip
        return self.put(o[0], kind, self._ftz(parts if kind == "f32" else [], functions[base]))

    def _do_copysign(self, opcode: str, parts: list[str], o: list[str]) -> str:
        sign, magnitude = (self.value(operand, parts[-1]) for operand in o[1:])
        f = "f" if parts[-1] == "f32" else ""
        return self.put(o[0], parts[-1], f"copysign{f}({magnitude}, {sign})")

    def _shift(self, opcode: str, parts: list[str], o: list[str]) -> str:
        kind, to_left = parts[-1], opcode.startswith("shl")
        a, by, bits = self.value(o[1], kind), self.value(o[2], "u32"), int(kind[1:])
        if to_left:
            beyond = f"{_TYPES[kind]}(0)"
        else:
            beyond = (
                f"{_TYPES[kind]}({a} >> {bits - 1})" if kind[0] == "s" else f"{_TYPES[kind]}(0)"
            )
        shifted = f"{_TYPES[kind]}({a} {'<<' if to_left else '>>'} ({by} & {bits - 1}))"
        if o[2].isdigit() and int(o[2]) < bits:
            return self.put(o[0], kind, shifted)
        return self.put(o[0], kind, f"{by} < {bits} ? {shifted} : {beyond}")

    _do_shl = _do_shr = _shift

    def _do_bfi(self, opcode: str, parts: list[str], o: list[str]) -> str:
        kind = parts[-1]
        field, into = (self.value(operand, kind) for operand in o[1:3])
        at, length = (self.value(operand, "u32") for operand in o[3:])
        return self.put(o[0], kind, f"inserted({field}, {into}, {at}, {length})")

    def _do_setp(self, opcode: str, parts: list[str], o: list[str]) -> str:
        compare, kind = parts[0], parts[-1]
        if len(parts) > 2 and parts[1:-1] != ["ftz"]:
            raise UntranslatedError(opcode)
        a, b = (self._source(parts, operand, kind) for operand in o[1:])
        if kind[0] == "f" and compare in ("num", "nan"):
            both = f"{a} == {a} && {b} == {b}"
            return self.put(o[0], "pred", both if compare == "num" else f"!({both})")
        if kind[0] == "f" and compare.endswith("u") and compare[:-1] in _COMPARE:
            result = f"!({a} == {a} && {b} == {b}) || {a} {_COMPARE[compare[:-1]]} {b}"
        elif kind[0] == "f" and compare == "ne":  # false where one is NaN, as C's is not
            result = f"{a} < {b} || {a} > {b}"
        else:
            result = f"{a} {_COMPARE[compare]} {b}"
        return self.put(o[0], "pred", result)

    def _do_selp(self, opcode: str, parts: list[str], o: list[str]) -> str:
        kind = parts[-1]
        a, b = (self.value(operand, kind) for operand in o[1:3])
        return self.put(o[0], kind, f"{self._register(o[3])} ? {a} : {b}")

    def _do_cvt(self, opcode: str, parts: list[str], o: list[str]) -> str:
        *modifiers, to, source = parts
        a = self._source(modifiers, o[1], source)
        mode = {m for m in modifiers if m != "ftz"}
        floats = (to[0] == "f") + (source[0] == "f")
        if floats == 2 and mode == {"sat"}:
            a = f"saturated({a})"
        elif floats == 2 and mode == {"rni"} and to == source:
            a = f"rint{'f' if to == 'f32' else ''}({a})"
        elif floats == 1 and to[0] != "f" and mode in ({"rzi"}, {"rni"}):
            a = f"converted<{_TYPES[to]}>({f'rint({a})' if mode == {'rni'} else a})"
        elif mode - {"rn"} or (floats == 1 and to[0] != "f"):
            raise UntranslatedError(opcode)
        return self.put(o[0], to, self._ftz(modifiers if to == "f32" else [], f"{_TYPES[to]}({a})"))

    def _do_cvta(self, opcode: str, parts: list[str], o: list[str]) -> str:
        """Generic addresses are the CPU's own, as those of global memory are."""
        space, generic = parts[-2].partition("::")[0], self.value(o[1], "u64")
        if space == "global":
            return self.put(o[0], "u64", generic)
        if space == "shared" and "to" in parts:
            place = f"reinterpret_cast<const void*>({generic})"
            return self.put(o[0], "u64", f"gpu::shared_address({place}, {_HERE})")
        if space == "shared":
            place = f"window.place<char, 1>({self.value(o[1], 'u32')}, {_HERE})"
            return self.put(o[0], "u64", f"reinterpret_cast<uintptr_t>({place})")
        raise UntranslatedError(opcode)

    def _place(self, opcode: str, parts: list[str], operand: str) -> tuple[str, str, int]:
        """The pointer of a load or store, its type, and how many numbers it moves."""
        *modifiers, kind = parts
        count = next((int(m[1:]) for m in modifiers if m in ("v2", "v4")), 1)
        space = next((m for m in modifiers if m.partition("::")[0] in
                      ("global", "shared", "param", "local", "const")), "generic")  # fmt: skip
        if set(modifiers) - {space, f"v{count}"}:  # .nc: others write what these kernels read
            raise UntranslatedError(opcode)
        _, where = self.address(operand)
        pointer = f"{_TYPES[kind]}, {count * _BYTES[kind[1:]]}"
        if space.partition("::")[0] == "shared":
            return f"window.place<{pointer}>({where}, {_HERE})", kind, count
        if space in ("generic", "global"):
            return f"place<{pointer}>({where}, {_HERE})", kind, count
        raise UntranslatedError(opcode)

    def _do_ld(self, opcode: str, parts: list[str], o: list[str]) -> str:
        if parts[0] == "param":
            name = o[1][1:-1]
            kind = next(k for k, *_, n in self.parameters if n == name)[1:]
            return self.put(o[0], parts[1], f"gpu::bits<{_TYPES[parts[1]]}>({name})"
                            if parts[1][0] == "f" and kind[0] != "f" else name)  # fmt: skip
        pointer, kind, count = self._place(opcode, parts, o[1])
        if count == 1:
            return self.put(o[0], kind, f"*{pointer}")
        to = re.findall(r"[%\w]+", o[0])
        loads = " ".join(
            self.put(name, kind, f"from[{i}]") for i, name in enumerate(to) if name != "_"
        )
        return f"{{ const auto* const from = {pointer}; {loads} }}"

    def _do_st(self, opcode: str, parts: list[str], o: list[str]) -> str:
        pointer, kind, count = self._place(opcode, parts, o[0])
        if count == 1:
            return f"*{pointer} = {self.value(o[1], kind)};"
        stores = " ".join(
            f"to[{i}] = {self.value(name, kind)};"
            for i, name in enumerate(re.findall(r"[%\w]+", o[1]))
        )
        return f"{{ auto* const to = {pointer}; {stores} }}"

    def _st_async(self, opcode: str, parts: list[str], o: list[str]) -> str:
        if opcode != "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32":
            raise UntranslatedError(opcode)
        values = ", ".join(self.value(v, "b32") for v in re.findall(r"[%\w]+", o[1]))
        to, barrier = self.address(o[0])[1], self.address(o[2])[1]
        return f"st_async({to}, uint4{{{values}}}, {barrier}, FILE, __LINE__);"

    def _do_atom(self, opcode: str, parts: list[str], o: list[str]) -> str:
        if opcode != "atom.global.add.u32":
            raise UntranslatedError(opcode)
        counter = f"at<uint32_t>({self.address(o[1])[1]})"
        return self.put(o[0], "u32", f"atomicAdd({counter}, {self.value(o[2], 'u32')})")

    def _do_red(self, opcode: str, parts: list[str], o: list[str]) -> str:
        if opcode != "red.global.add.u32":
            raise UntranslatedError(opcode)
        return f"atomicAdd(at<uint32_t>({self.address(o[0])[1]}), {self.value(o[1], 'u32')});"

    def _do_shfl(self, opcode: str, parts: list[str], o: list[str]) -> str:
        """d|p, a, lanes, clamp, mask: butterflies."""
        target, _, inside = o[0].partition("|")
        if opcode != "shfl.sync.bfly.b32":
            raise UntranslatedError(opcode)
        a, *others = (self.value(operand, "u32") for operand in o[1:])
        lanes, clamp, mask = others
        did = f"{{ const uint32_t source = butterfly({lanes}, {clamp}); "
        if inside:
            did += f"{self._register(inside)} = source == (gpu_lane() ^ {lanes}); "
        shuffled = f"uint32_t(gpu::shuffle({mask}, {a}, source, {_HERE}))"
        return f"{did}{self.put(target, 'b32', shuffled)} }}"

    def _do_mma(self, opcode: str, parts: list[str], o: list[str]) -> str:
        form = ".".join(parts[2:])
        if parts[:2] != ["sync", "aligned"] or form not in _MMA:
            raise UntranslatedError(opcode)
        d, a, b, c = (re.findall(r"[%\w]+", each) for each in o)
        sums = ", ".join(self.value(v, "f32") for v in c)
        words = [", ".join(self.value(v, "b32") for v in each) for each in (a, b)]
        stores = " ".join(self.put(name, "f32", f"sum[{i}]") for i, name in enumerate(d))
        return (
            f"{{ float sum[4] = {{{sums}}}; const unsigned a[4] = {{{words[0]}}}, "
            f"b[2] = {{{words[1]}}}; {_MMA[form]}(sum, a, b, FILE, __LINE__); {stores} }}"
        )

    def _do_bra(self, opcode: str, parts: list[str], o: list[str]) -> str:
        back = f"self_.turn({_HERE}); " if o[0] in self.passed else ""
        return f"{back}goto {self._register(o[0])};"

    def _do_ret(self, opcode: str, parts: list[str], o: list[str]) -> str:
        return "return;"

    _do_exit = _do_ret

    # The text

    def cpp(self) -> str:
        """A C++ text, line for line, behind ptx.h."""
        described = ", ".join(
            "{1, 'V', 0}" if pointer
            else f"{{0, '{'f' if kind[1] == 'f' else 'i'}', {_BYTES[kind[2:]]}}}"
            for (kind, *_), pointer in zip(self.parameters, self.pointers, strict=True)
        )  # fmt: skip
        body = "\n".join(self.lines)
        return f"""#include "cuda.h"
#include "ptx.h"
#define FILE "{self.name}.ptx"
static void run(void** arguments) {{ {" ".join(self.head)}
[[maybe_unused]] const ptx::Window window; [[maybe_unused]] ptx::Thread self_;
#line {self.first_line} "{self.name}.ptx"
{body}
}}
static const gpu::Parameter parameters[] = {{{described or "{}"}}};
extern "C" const gpu::Kernel gpu_kernels[] = {{
  {{"{self.name}", run, parameters, {len(self.parameters)}, {self.threads}, {self.cluster}}}}};
extern "C" const int gpu_kernel_count = 1;
"""


@cache
def compile_kernels(
    text: str, defines: tuple[str, ...] = (), mode: str = build.MODE, arch: str = "sm_90"
) -> dict[str, build.Kernel]:
    """As build.compile_kernels, by NVRTC's PTX."""
    return load(compiled(text, arch, defines), mode)


def load(ptx: str, mode: str = build.MODE) -> dict[str, build.Kernel]:
    """The kernel of a PTX text, ready for the fibers."""
    build.runtime(mode)
    source = Kernel(ptx).cpp()
    headers = "".join((build.HERE / name).read_text() for name in ("cuda.h", "ptx.h"))
    mode_flags = [*build._MODES[mode], "-O0"]  # compiling is what takes the time
    digest = hashlib.sha256(headers.encode()).hexdigest()[:16]  # what is kept is of these headers
    flags = [*mode_flags, "-shared", "-Wl,-Bsymbolic", f"-I{build.HERE}", "-fwrapv",
             f"-DHEADERS_{digest}", "-x", "c++"]  # fmt: skip
    library = ctypes.CDLL(str(build._compiled(source, flags, f"{mode}-ptx-{{}}.so")))
    kernels = (build.Kernel * 1).in_dll(library, "gpu_kernels")
    return {kernel.name.decode(): kernel for kernel in kernels}


@contextmanager
def route(
    arch: str = "sm_90", edit: Callable[[str], str] = lambda text: text
) -> Iterator[list[str]]:
    """Kernels are compiled by NVRTC and their PTX is run, for the length of a ``with`` block; their
    texts may be edited before. Yields the texts that have been compiled so."""
    texts: list[str] = []

    def by_ptx(text: str, defines: tuple[str, ...] = (), mode: str = build.MODE) -> object:
        texts.append(text)
        return compile_kernels(edit(text), defines, mode, arch)

    with mock.patch.object(build, "compile_kernels", by_ptx):
        yield texts
