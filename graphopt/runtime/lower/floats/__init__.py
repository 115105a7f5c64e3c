"""Lowering of float32 operators between operations on kernels: functions of one element, norms, selections."""
