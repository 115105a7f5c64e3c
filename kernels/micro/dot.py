"""The four-deep dot product acc[c] += Σ_i a[4k + i] · w[4k + i, c] in every form a level may have."""

from __future__ import annotations

from llvmlite import ir

from graphopt.kernels.micro.vectors import I8, I16, I32, const, halves, intrinsic, vector

_BUSD = {4: "128", 8: "256", 16: "512"}


def busd(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """One vpdpbusd: u8 · s8 summed exactly in int32."""
    lanes = acc.type.count
    a = builder.bitcast(activations, vector(I8, 4 * lanes))
    return intrinsic(builder, f"llvm.x86.avx512.vpdpbusd.{_BUSD[lanes]}", acc.type, [acc, a, weights])


def maddubs(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """vpmaddubsw, vpmaddwd by ones, vpaddd: exact where no u8 · s8 pair sum leaves int16."""
    a = builder.bitcast(activations, vector(I8, 32))
    pairs = intrinsic(builder, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), [a, weights])
    sums = intrinsic(builder, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), [pairs, const(I16, 16, 1)])
    return builder.add(acc, sums)


def maddwd(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """vpmaddwd, vpaddd on int16 pairs: exact for any u8 and s8 values widened."""
    a = builder.bitcast(activations, weights.type)
    return builder.add(acc, intrinsic(builder, "llvm.x86.avx2.pmadd.wd", acc.type, [a, weights]))


def maddwd_pairs(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """Even and odd bytes widened to int16 in place, vpmaddwd twice: exact for any u8 · s8, without a widened copy."""
    words = vector(I16, 2 * acc.type.count)
    a, w = builder.bitcast(activations, words), builder.bitcast(weights, words)
    eight = const(I16, words.count, 8)
    for left, right in (
        (builder.and_(a, const(I16, words.count, 255)), builder.ashr(builder.shl(w, eight), eight)),
        (builder.lshr(a, eight), builder.ashr(w, eight)),
    ):
        acc = builder.add(acc, intrinsic(builder, "llvm.x86.avx2.pmadd.wd", acc.type, [left, right]))
    return acc


def signed(builder: ir.IRBuilder, acc: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """`maddubs` of |left| · (right with left's sign): exact for s8 · s8 where right is not −128."""
    magnitude = intrinsic(builder, "llvm.abs.v32i8", left.type, [left, ir.Constant(ir.IntType(1), 0)])
    return maddubs(builder, acc, magnitude, intrinsic(builder, "llvm.x86.avx2.psign.b", left.type, [right, left]))


def widen(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """Generic vector IR: products of int16 operands are exact in int32; no instruction set assumed."""
    lanes = acc.type.count
    a = builder.zext(builder.bitcast(activations, vector(I8, 4 * lanes)), vector(I32, 4 * lanes))
    products = builder.mul(a, builder.sext(weights, vector(I32, 4 * lanes)))
    even, odd = halves(builder, products)
    first, second = halves(builder, builder.add(even, odd))
    return builder.add(acc, builder.add(first, second))


FORMS = {"vpdpbusd": busd, "vpmaddubsw": maddubs, "vpmaddwd": maddwd_pairs, "widen": widen}
