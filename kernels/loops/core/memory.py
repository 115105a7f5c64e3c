"""Intrinsics for Numba functions: typed pointers from addresses, atomics, calls through addresses."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_WORD = ir.IntType(64)
_ON_X86 = llvm.get_process_triple().startswith(("x86_64", "i686"))


def _pointer_to(element: Any) -> Any:
    pointer_type: Any = types.CPointer

    @intrinsic
    def pointer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return pointer_type(element)(types.int64), codegen

    return pointer


i8_at = _pointer_to(types.int8)
u8_at = _pointer_to(types.uint8)
i16_at = _pointer_to(types.int16)
i32_at = _pointer_to(types.int32)
i64_at = _pointer_to(types.int64)
f32_at = _pointer_to(types.float32)


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """The address in a typed pointer."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], _WORD)

    return types.int64(pointer), codegen


@intrinsic
def atomic_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address; returns its previous value."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """The int64 at an address, acquired."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Release an int64 to an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        builder.store_atomic(arguments[1], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """The CPU's hint of a spin loop."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _ON_X86:
            function = builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), ()))
            builder.call(function, ())
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def cycle_counter(typingctx: Any) -> Any:
    """The CPU's time-stamp counter."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.readcyclecounter", (), ir.FunctionType(_WORD, ()))
        return builder.call(function, ())

    return types.int64(), codegen


def _call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind = ir.FunctionType(ir.VoidType(), [_WORD] * (len(arguments) - 1))
    builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
    return context.get_dummy_value()


@intrinsic
def call0(typingctx: Any, function: Any) -> Any:
    """Call the void function at an address."""
    return types.void(types.int64), _call


@intrinsic
def call2(typingctx: Any, function: Any, a: Any, b: Any) -> Any:
    """Call the void function at an address with two int64 arguments."""
    return types.void(*[types.int64] * 3), _call


@intrinsic
def call4(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Call the void function at an address with four int64 arguments."""
    return types.void(*[types.int64] * 5), _call


@intrinsic
def call6(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Call the void function at an address with six int64 arguments."""
    return types.void(*[types.int64] * 7), _call


@intrinsic
def call7(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any:
    """Call the void function at an address with seven int64 arguments."""
    return types.void(*[types.int64] * 8), _call


@intrinsic
def call8(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Call the void function at an address with eight int64 arguments."""
    return types.void(*[types.int64] * 9), _call
