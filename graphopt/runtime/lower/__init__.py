"""Lowering of graphs in QDQ, QOperator, dynamically quantized or float form to operations of one region IR."""
