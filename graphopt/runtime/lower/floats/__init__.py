"""Lowering of float32 operators that stand between operations on kernels: functions of one element, norms, pieces."""
