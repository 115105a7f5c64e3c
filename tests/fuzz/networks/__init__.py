"""Random networks in the forms in which quantizers write them: layers over images or tokens, then a quantizer.

The blocks of `graphopt.testing` are for rewrites; these are for kernels: every layer that `graphopt.runtime.lower`
recognises, with the attributes that exporters give it, quantized as `onnxruntime.quantization` does it.
"""

from .feeds import feeds_of, odd_feeds
from .quantizers import quantized
from .whole import network

__all__ = ["feeds_of", "network", "odd_feeds", "quantized"]
