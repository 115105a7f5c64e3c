"""Lowering: graphs in QDQ, QOperator, dynamically quantized or float form become operations of one region IR."""
