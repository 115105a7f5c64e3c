"""A few words of LLVM IR that every generator speaks: vectors, unaligned memory, counted loops, intrinsics."""

# mypy: ignore-errors

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
VOID = ir.VoidType()
_BYTES = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "float": 4}


def vector(element, count):
    """The type of `count` elements."""
    return ir.VectorType(element, count)


def const(element, count, value):
    """A vector constant of one value."""
    return ir.Constant(vector(element, count), [value] * count)


def function(module, symbol, parameters):
    """A new external void function of int64 parameters, and a builder in its entry block."""
    made = ir.Function(module, ir.FunctionType(VOID, [I64] * len(parameters)), symbol)
    for argument, name in zip(made.args, parameters):
        argument.name = name
    return made, ir.IRBuilder(made.append_basic_block("entry"))


def intrinsic(builder, name, result, arguments):
    """Call the LLVM intrinsic `name`."""
    module = builder.module
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    declared = module.globals.get(name) or ir.Function(module, kind, name)
    return builder.call(declared, arguments)


def load(builder, address, kind, align=1):
    """Load a value of `kind` from an int64 address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder, value, address, align=1):
    """Store a value to an int64 address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def at(builder, address, offset):
    """address + a constant number of bytes."""
    return builder.add(address, I64(offset)) if offset else address


def word(builder, record, index, kind=I64):
    """Field `index` of a record of int64 words, read as `kind`."""
    return load(builder, at(builder, record, 8 * index), kind, 8)


def splat(builder, value, count):
    """`count` copies of a scalar."""
    kind = vector(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), const(I32, count, 0))


def halves(builder, value):
    """The even and the odd elements of a vector."""
    count = value.type.count // 2
    parts = [ir.Constant(vector(I32, count), list(range(first, 2 * count, 2))) for first in (0, 1)]
    return [builder.shuffle_vector(value, value, part) for part in parts]


def concatenate(builder, parts):
    """One vector of all parts, in order (their number is a power of two)."""
    while len(parts) > 1:
        paired = []
        for first, second in zip(parts[::2], parts[1::2]):
            order = ir.Constant(vector(I32, 2 * first.type.count), list(range(2 * first.type.count)))
            paired.append(builder.shuffle_vector(first, second, order))
        parts = paired
    return parts[0]


def piece(builder, value, first, count):
    """`count` neighbouring elements of a vector."""
    order = ir.Constant(vector(I32, count), list(range(first, first + count)))
    return builder.shuffle_vector(value, value, order)


def store_first(builder, value, address, count):
    """Store the first `count` elements of a vector, in pieces of powers of two."""
    if count == value.type.count:
        store(builder, value, address)
        return
    size, first = _BYTES[str(value.type.element)], 0
    while first < count:
        part = 1 << ((count - first).bit_length() - 1)
        store(builder, piece(builder, value, first, part), at(builder, address, size * first))
        first += part


@contextmanager
def repeat(builder, count):
    """A loop run `count` times, not at all for 0; yields nothing: variables live in allocas, which LLVM promotes."""
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


def variable(builder, value):
    """A place for a mutable value, allotted in the entry block."""
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


def advance(builder, place, amount):
    """Add to a variable."""
    builder.store(builder.add(builder.load(place), amount), place)
