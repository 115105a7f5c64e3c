"""LLVM IR helpers of all generators: vectors, unaligned memory, counted loops, intrinsics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
VOID = ir.VoidType()
_BYTES = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "float": 4}  # of an LLVM type


def vector(element: ir.Type, count: int) -> ir.VectorType:
    """The type of `count` elements."""
    return ir.VectorType(element, count)


def const(element: ir.Type, count: int, value: float) -> ir.Constant:
    """A vector constant of one value."""
    return ir.Constant(vector(element, count), [value] * count)


def function(module: ir.Module, symbol: str, parameters: Sequence[str]) -> tuple[ir.Function, ir.IRBuilder]:
    """A new external void function of int64 parameters, and a builder in its entry block."""
    defined = ir.Function(module, ir.FunctionType(VOID, [I64] * len(parameters)), symbol)
    for argument, name in zip(defined.args, parameters):
        argument.name = name
    return defined, ir.IRBuilder(defined.append_basic_block("entry"))


def intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """Call the LLVM intrinsic `name`."""
    module = builder.module
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    declared = module.globals.get(name) or ir.Function(module, kind, name)
    return builder.call(declared, arguments)


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
    """Load a value of `kind` from an int64 address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, align: int = 1) -> None:
    """Store a value to an int64 address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def at(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    """address + a constant number of bytes."""
    return builder.add(address, I64(offset)) if offset else address


def word(builder: ir.IRBuilder, record: ir.Value, index: int, kind: ir.Type = I64) -> ir.Value:
    """Field `index` of a record of int64 words, read as `kind`."""
    return load(builder, at(builder, record, 8 * index), kind, 8)


def splat(builder: ir.IRBuilder, value: ir.Value, count: int) -> ir.Value:
    """`count` copies of a scalar."""
    kind = vector(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), const(I32, count, 0))


def halves(builder: ir.IRBuilder, value: ir.Value) -> list[ir.Value]:
    """The even and the odd elements of a vector."""
    count = value.type.count // 2
    parts = [ir.Constant(vector(I32, count), list(range(first, 2 * count, 2))) for first in (0, 1)]
    return [builder.shuffle_vector(value, value, part) for part in parts]


def concatenate(builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """One vector of all parts, in order (their number is a power of two)."""
    while len(parts) > 1:
        paired = []
        for first, second in zip(parts[::2], parts[1::2]):
            order = ir.Constant(vector(I32, 2 * first.type.count), list(range(2 * first.type.count)))
            paired.append(builder.shuffle_vector(first, second, order))
        parts = paired
    return parts[0]


def piece(builder: ir.IRBuilder, value: ir.Value, first: int, count: int) -> ir.Value:
    """`count` consecutive elements of a vector, from `first` on."""
    order = ir.Constant(vector(I32, count), list(range(first, first + count)))
    return builder.shuffle_vector(value, value, order)


def store_first(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, count: int) -> None:
    """Store the first `count` elements of a vector, in pieces of powers of two."""
    if count == value.type.count:
        store(builder, value, address)
        return
    size, first = _BYTES[str(value.type.element)], 0
    while first < count:
        part = 1 << ((count - first).bit_length() - 1)
        store(builder, piece(builder, value, first, part), at(builder, address, size * first))
        first += part


def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Prefetch the cache line at an address, which may be unmapped."""
    pointer = builder.inttoptr(address, I8.as_pointer())
    intrinsic(builder, "llvm.prefetch.p0", VOID, [pointer, I32(0), I32(3), I32(1)])  # to read, kept, data


@contextmanager
def repeat(builder: ir.IRBuilder, count: ir.Value) -> Iterator[ir.Value]:
    """A loop run `count` times, not at all for 0; yields the index. Variables live in allocas, which LLVM promotes."""
    scope = builder.function
    place = variable(builder, I64(0))
    head, body, after = (scope.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.load(place)
    builder.cbranch(builder.icmp_signed("<", index, count), body, after)
    builder.position_at_end(body)
    yield index
    builder.store(builder.add(index, I64(1)), place)
    builder.branch(head)
    builder.position_at_end(after)


def variable(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A mutable variable, allocated in the entry block."""
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


def advance(builder: ir.IRBuilder, place: ir.Value, amount: ir.Value) -> None:
    """Add to a variable."""
    builder.store(builder.add(builder.load(place), amount), place)
