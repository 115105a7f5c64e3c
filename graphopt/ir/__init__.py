"""The intermediate representation: a small typed SSA graph, independent of files, passes and runtimes."""

from .carried import Opaque, Port
from .clone import clone_graph, clone_model, clone_node
from .collector import collector_paused, collector_running
from .constant import Constant
from .graph import RETURN, Graph, IRError, Listener, Node, Owner, Use, Value, captures, outer_values, producers_of
from .model import Function, FunctionId, Model, model_of
from .printer import node_lines, to_text
from .types import Array, Dim, DType, OptionalType, OtherType, SequenceType, TensorType, Type, refine
from .verifier import VerifyError, verify

__all__ = [
    "RETURN", "Array", "Constant", "DType", "Dim", "Function", "FunctionId", "Graph", "IRError", "Listener",
    "Model", "Node", "Opaque", "OptionalType", "OtherType", "Owner", "Port", "SequenceType", "TensorType",
    "Type", "Use", "Value", "VerifyError", "captures", "clone_graph", "clone_model", "clone_node",
    "collector_paused", "collector_running", "model_of", "node_lines", "outer_values", "producers_of", "refine",
    "to_text", "verify",
]  # fmt: skip
