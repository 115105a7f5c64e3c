"""From a Numba function or an LLVM IR generator to the address of machine code, through the object cache.

Both sources become an object file with one exported symbol, cached on disk (`object_cache`) and linked by llvmlite. A
warm process imports llvmlite alone, not Numba.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from graphopt.kernels.core import object_cache
from graphopt.kernels.core.states import quickly_pickled
from graphopt.kernels.core.struct_layouts import Kind, descriptor_words, record_words
from graphopt.machine.cpu import host_cpu

# The kind of a parameter: "i64", "f32" are passed by value, "T*" as the address of T, a NamedTuple field by field.
_NUMBA_NAMES = {
    "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16",
    "i32": "int32", "u32": "uint32", "i64": "int64", "f32": "float32", "f64": "float64",
}  # fmt: skip
_PURE_SYMBOLS = frozenset({
    "memcpy", "memset", "memmove", "expf", "logf", "erff", "tanhf", "exp", "log", "erf", "tanh", "rintf", "rint",
    "floorf", "ceilf", "roundevenf", "fmaf", "fma", "powf", "sqrtf", "truncf", "trunc", "floor", "ceil",
})  # fmt: skip

_lock = threading.RLock()
_engines: list[Any] = []
_addresses: dict[str, int] = {}
_listeners: list[Callable[[str], None]] = []


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Kernel:
    """A step's kernel: a Numba function `name(lo, hi, worker, **fields)` named by module and attribute.

    `fields` maps each further parameter, in order, to its kind: "i64", "f32*", … or a record (`struct_layouts`). The
    function computes tiles lo … hi − 1, returns nothing and cannot raise. `address()` is a C function
    `void(int64 *descriptor, int64 lo, int64 hi, int64 worker)`.
    """

    source: str
    fields: Mapping[str, Kind] = field(hash=False)

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.source.partition(":")[2]

    def address(self) -> int:
        """Address of the compiled step; compiles or loads it when first asked. Raises ValueError for bad sources."""
        return _address(self.key, lambda: _compile_numba(self.key, self.source, self.fields, stepped=True))

    @property
    def words(self) -> dict[str, str]:
        """Name and kind of each word of the step's descriptor; not to be changed."""
        return _words(self)

    @property
    def key(self) -> str:
        """Key in the object cache, within a generation."""
        return _key(self)


@cache
def _words(kernel: Kernel) -> dict[str, str]:
    return descriptor_words(kernel.fields)


@cache
def _key(kernel: Kernel) -> str:
    return f"step:{kernel.source}:{kernel.words}"


@dataclass(frozen=True, slots=True)
class Function:
    """A Numba function compiled with its plain C signature: every parameter in order with its kind."""

    source: str
    fields: Mapping[str, str] = field(hash=False)

    def address(self) -> int:
        """Address of the compiled function; compiles or loads it when first asked."""
        return _address(self.key, lambda: _compile_numba(self.key, self.source, self.fields, stepped=False))

    @property
    def key(self) -> str:
        """Key in the object cache, within a generation."""
        return f"function:{self.source}:{self.fields}"


@quickly_pickled
@dataclass(frozen=True, slots=True)
class MicroKernel:
    """A function written as LLVM IR: `module:emit` is called as emit(module, symbol, *arguments).

    `arguments` are values whose repr identifies the variant (a level's name, tile sizes, flags). emit must define an
    external function called `symbol` in `module`, an llvmlite.ir.Module.
    """

    source: str
    arguments: tuple[Hashable, ...]

    def address(self) -> int:
        """Address of the compiled function; compiles or loads it when first asked."""
        return _address(self.key, lambda: _compile_ir(self.key, self))

    @property
    def key(self) -> str:
        """Key in the object cache, within a generation."""
        return f"ir:{self.source}:{self.arguments!r}"


class Library:
    """The kernels of a plan. Read from disk, a library links all their objects in one go: a tenth of the time."""

    __slots__ = ("units",)

    def __init__(self, units: Iterable[Kernel | MicroKernel]) -> None:
        self.units = tuple(dict.fromkeys(units))

    def __getstate__(self) -> tuple[Kernel | MicroKernel, ...]:
        return self.units

    def __setstate__(self, units: tuple[Kernel | MicroKernel, ...]) -> None:
        self.units = units
        with _lock:
            absent = [unit.key for unit in units if unit.key not in _addresses]
            codes = {key: object_cache.load_object(key) for key in absent}
            _link({key: code for key, code in codes.items() if code is not None})


def on_compile(listener: Callable[[str], None]) -> Callable[[], None]:
    """Call `listener(key)` before each cold compilation; returns the function that removes it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def _symbol(key: str) -> str:
    return "graphopt_" + hashlib.sha256(key.encode()).hexdigest()[:32]


def _address(key: str, compile_text: Callable[[], str]) -> int:
    address = _addresses.get(key)
    if address is not None:
        return address
    with _lock:
        if key in _addresses:
            return _addresses[key]
        code = object_cache.load_object(key)
        if code is None:
            for listener in tuple(_listeners):
                listener(key)
            code = _emit(_symbol(key), compile_text())
            object_cache.store_object(key, code)
        _link({key: code})
        return _addresses[key]


@cache
def _target() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=host_cpu()[0],
        features=llvm.get_host_cpu_features().flatten(),
        opt=3, reloc="default", codemodel="jitdefault", jit=True,
    )  # fmt: skip


def _link(codes: Mapping[str, bytes]) -> None:
    """Link objects, by their kernels' keys, and record the addresses of their symbols."""
    import llvmlite.binding as llvm

    if not codes:
        return
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    for code in codes.values():
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)  # owns the code's memory
    _addresses.update({key: int(engine.get_function_address(_symbol(key))) for key in codes})


def _emit(symbol: str, text: str) -> bytes:
    """Object code of an LLVM module whose only exported function is `symbol`."""
    import llvmlite.binding as llvm

    target = _target()
    module = llvm.parse_assembly(text)
    module.triple = llvm.get_process_triple()
    module.data_layout = str(target.target_data)
    for function in module.functions:
        if function.is_declaration:
            if not function.name.startswith("llvm.") and function.name not in _PURE_SYMBOLS:
                raise ValueError(f"kernel needs {function.name}: a kernel may not allocate, raise or call into Python")
        elif function.name != symbol:
            function.linkage = "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))


def _compile_ir(key: str, kernel: MicroKernel) -> str:
    from llvmlite import ir

    module_name, _, attribute = kernel.source.partition(":")
    module = ir.Module(name="graphopt")
    getattr(import_module(module_name), attribute)(module, _symbol(key), *kernel.arguments)
    return str(module)


def _numba_type(kind: Kind) -> Any:
    import numba

    types: Any = numba.types
    if not isinstance(kind, str):
        return types.NamedTuple([_numba_type(word) for _, word in record_words("", kind)], kind)
    base = getattr(types, _NUMBA_NAMES[kind.rstrip("*")])
    return types.CPointer(base) if kind.endswith("*") else base


def _llvm_type(kind: str) -> str:
    return {"f32": "float", "f64": "double"}.get(kind, "ptr" if kind.endswith("*") else kind.replace("u", "i"))


def _compile_numba(key: str, source: str, fields: Mapping[str, Kind], *, stepped: bool) -> str:
    """LLVM text of the Numba function with a C entry: either its plain signature or the step ABI."""
    import numba

    module_name, _, attribute = source.partition(":")
    function = getattr(import_module(module_name), attribute)
    kinds = {"lo": "i64", "hi": "i64", "worker": "i64", **fields} if stepped else fields
    parameters = tuple(inspect.signature(function).parameters)
    if parameters != tuple(kinds):
        raise ValueError(f"{source} takes {parameters}, its declaration says {tuple(kinds)}")
    signature = tuple(_numba_type(kind) for kind in kinds.values())
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy", "boundscheck": False}
    njit: Any = numba.njit
    compiled = njit(signature, **options)(function).overloads[signature]
    inner = compiled.fndesc.llvm_func_name
    text: str = compiled.library.get_llvm_str().replace(" = common ", " = internal ")
    entry = _step_entry if stepped else _plain_entry
    return text + entry(_symbol(key), inner, descriptor_words(fields))


def _call(inner: str, arguments: list[str]) -> str:
    """A call by Numba's convention: a return slot and an exception slot first, an unused status back."""
    return f'  call i32 @"{inner}"(ptr %unused, ptr %unused, {", ".join(arguments)})\n  ret void\n}}\n'


def _plain_entry(symbol: str, inner: str, words: Mapping[str, str]) -> str:
    arguments = [f"{_llvm_type(kind)} %{name}" for name, kind in words.items()]
    head = f"\ndefine void @{symbol}({', '.join(arguments)}) {{\n  %unused = alloca [8 x i64]\n"
    return head + _call(inner, arguments)


def _step_entry(symbol: str, inner: str, words: Mapping[str, str]) -> str:
    head = f"\ndefine void @{symbol}(ptr %descriptor, i64 %lo, i64 %hi, i64 %worker) {{"
    lines = [head, "  %unused = alloca [8 x i64]"]
    arguments = ["i64 %lo", "i64 %hi", "i64 %worker"]
    for index, (name, kind) in enumerate(words.items()):
        lines.append(f"  %p.{name} = getelementptr i64, ptr %descriptor, i64 {index}")
        lines.append(f"  %f.{name} = load {_llvm_type(kind)}, ptr %p.{name}")
        arguments.append(f"{_llvm_type(kind)} %f.{name}")
    return "\n".join(lines) + "\n" + _call(inner, arguments)
