"""Facts about operators, taken from ONNX's own schemas and shape inference wherever possible."""

from .contrib import DEFAULT_DOMAIN, has_contrib_types
from .einsum import einsum_terms
from .inference import infer, is_typed_here, type_body_inputs, update_types
from .padding import resolve_pads
from .protos import initializers_of, nested_graphs, tensor_proto, type_of, type_proto, walk_protos, write_attributes
from .schemas import attr, check_operator, is_deterministic, schema, schema_of, version_for
from .sizes import quotient, remainder, reshaped, same_by_count, same_sizes, total
from .support import is_implemented

__all__ = [
    "DEFAULT_DOMAIN", "attr", "check_operator", "einsum_terms", "has_contrib_types", "infer", "initializers_of",
    "is_deterministic", "is_implemented", "is_typed_here", "nested_graphs", "quotient", "remainder", "reshaped",
    "resolve_pads", "same_by_count", "same_sizes", "schema", "schema_of", "tensor_proto", "total", "type_body_inputs",
    "type_of", "type_proto", "update_types", "version_for", "walk_protos", "write_attributes",
]  # fmt: skip
