"""Small decoders in onnxruntime's own operators, as its builder of language models writes them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, KV_HEADS, SIZE, WORDS, INNER, LAYERS, LONGEST = 64, 4, 2, 16, 100, 128, 2, 64
BLOCK = 32
MICROSOFT = "com.microsoft"


class _Writer:
    """Nodes and weights of one model."""

    def __init__(self, packed):
        self.packed = packed
        self.rng = np.random.default_rng(0)
        self.nodes, self.weights = [], []

    def constant(self, name, array):
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op, inputs, outputs, domain="", **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def linear(self, x, y, rows, columns):
        """y = x W, of floats or of packed codes of 4 bits in blocks of 32 rows."""
        if not self.packed:
            weight = self.rng.standard_normal((rows, columns)) / np.sqrt(rows)
            return self.node("MatMul", [x, self.constant(f"{y}_w", weight.astype(np.float32))], [y])
        codes = self.rng.integers(0, 256, (columns, rows // BLOCK, BLOCK // 2), dtype=np.uint8)
        scales = self.rng.uniform(0.01, 0.03, columns * rows // BLOCK).astype(np.float32)
        operands = [x, self.constant(f"{y}_w", codes), self.constant(f"{y}_scales", scales)]
        sizes = {"K": rows, "N": columns, "bits": 4, "block_size": BLOCK}
        return self.node("MatMulNBits", operands, [y], MICROSOFT, **sizes)

    def embedding(self, indices, y):
        if not self.packed:
            table = self.rng.standard_normal((WORDS, WIDTH)).astype(np.float32)
            return self.node("Gather", [self.constant("table", table), indices], [y])
        codes = self.rng.integers(0, 256, (WORDS, WIDTH // 2), dtype=np.uint8)
        scales = self.rng.uniform(0.05, 0.15, (WORDS, WIDTH // BLOCK)).astype(np.float32)
        operands = [self.constant("table", codes), indices, self.constant("table_scales", scales)]
        return self.node("GatherBlockQuantized", operands, [y], MICROSOFT, block_size=BLOCK, quantize_axis=1)


def decoder(packed=False):
    """RMS norms, grouped attention with its cache and rotary embedding, gated layers; `packed`: weights of 4 bits."""
    w = _Writer(packed)
    angles = np.outer(np.arange(LONGEST), 1e4 ** -(np.arange(SIZE // 2) / (SIZE // 2))).astype(np.float32)
    w.constant("cos", np.cos(angles)), w.constant("sin", np.sin(angles))
    w.constant("axis", np.array([1])), w.constant("one", np.array(1))
    w.constant("gain", np.full(WIDTH, 1.1, np.float32))
    w.node("ReduceSum", ["mask", "axis"], ["total"])
    w.node("Sub", ["total", "axis"], ["last"])
    w.node("Cast", ["last"], ["lengths"], to=TensorProto.INT32)
    w.node("Shape", ["mask"], ["mask_sizes"])
    w.node("Gather", ["mask_sizes", "one"], ["longest"])
    w.node("Cast", ["longest"], ["steps"], to=TensorProto.INT32)
    x = w.embedding("ids", "embedded")
    normed = w.node("SimplifiedLayerNormalization", [x, "gain"], ["normed"], axis=-1, epsilon=1e-5, stash_type=1)
    tensor = helper.make_tensor_value_info
    inputs = [tensor("ids", TensorProto.INT64, ["b", "s"]), tensor("mask", TensorProto.INT64, ["b", "t"])]
    outputs = [tensor("logits", TensorProto.FLOAT, ["b", "s", WORDS])]
    for layer in range(LAYERS):

        def name(part, layer=layer):
            return f"{part}{layer}"

        heads = [
            w.linear(normed, name(part), WIDTH, HEADS * SIZE if part == "q" else KV_HEADS * SIZE) for part in "qkv"
        ]
        pasts = [name("past_k"), name("past_v")]
        inputs += [tensor(past, TensorProto.FLOAT, ["b", KV_HEADS, "p", SIZE]) for past in pasts]
        results = [name("attended"), name("new_k"), name("new_v")]
        outputs += [tensor(new, TensorProto.FLOAT, ["b", KV_HEADS, "t", SIZE]) for new in results[1:]]
        operands = [*heads, *pasts, "lengths", "steps", "cos", "sin"]
        shape = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": 1}
        w.node("GroupQueryAttention", operands, results, MICROSOFT, **shape)
        mixed = w.linear(results[0], name("mixed"), HEADS * SIZE, WIDTH)
        sums = [name("mid"), "", "", name("x")]
        w.node("SkipSimplifiedLayerNormalization", [x, mixed, "gain"], sums, MICROSOFT, epsilon=1e-5)
        up, gate = (w.linear(sums[0], name(part), WIDTH, INNER) for part in ("up", "gate"))
        w.node("Sigmoid", [gate], [name("sigmoid")])
        w.node("Mul", [gate, name("sigmoid")], [name("silu")])
        w.node("Mul", [name("silu"), up], [name("gated")])
        down = w.linear(name("gated"), name("down"), INNER, WIDTH)
        normed, x = name("out"), name("y")
        w.node(
            "SkipSimplifiedLayerNormalization", [sums[3], down, "gain"], [normed, "", "", x], MICROSOFT, epsilon=1e-5
        )
    w.linear(normed, "logits", WIDTH, WORDS)
    return _model(w, inputs, outputs)


def feeds(batch=1, steps=3, past=0, seed=0):
    """One call: a prompt with an empty cache (past 0), or later steps."""
    rng = np.random.default_rng(seed)
    names = [f"past_{part}{layer}" for layer in range(LAYERS) for part in "kv"]
    caches = {name: rng.standard_normal((batch, KV_HEADS, past, SIZE)).astype(np.float32) for name in names}
    ids = rng.integers(0, WORDS, (batch, steps))
    return {"ids": ids, "mask": np.ones((batch, past + steps), np.int64), **caches}


def experts():
    """A mixture of four experts of 4 bits, two a row, its rows turned by RotaryEmbedding before."""
    w = _Writer(True)
    angles = np.outer(np.arange(LONGEST), 1e4 ** -(np.arange(SIZE // 2) / (SIZE // 2))).astype(np.float32)
    w.constant("cos", np.cos(angles)), w.constant("sin", np.sin(angles))
    w.constant("places", np.array([0]))
    w.node("RotaryEmbedding", ["x", "places", "cos", "sin"], ["turned"], MICROSOFT, num_heads=HEADS)
    router = w.constant("router", w.rng.standard_normal((WIDTH, 4)).astype(np.float32))
    w.node("MatMul", ["turned", router], ["scores"])
    w.node("Reshape", ["scores", w.constant("rows", np.array([-1, 4]))], ["routed"])
    sizes = {"in": (4, 2 * INNER, WIDTH // 2), "out": (4, WIDTH, INNER // 2)}
    for part, shape in sizes.items():
        w.constant(part, w.rng.integers(0, 256, shape, dtype=np.uint8))
        w.constant(f"{part}_scales", w.rng.uniform(0.005, 0.015, shape[:2]).astype(np.float32))
    chosen = {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "expert_weight_bits": 4}
    operands = ["turned", "routed", "in", "in_scales", "", "out", "out_scales"]
    w.node("QMoE", operands, ["mixed"], MICROSOFT, normalize_routing_weights=1, **chosen)
    w.node("Add", ["mixed", "x"], ["y"])
    tensor = helper.make_tensor_value_info
    given, result = (tensor(name, TensorProto.FLOAT, ["b", "s", WIDTH]) for name in "xy")
    return _model(w, [given], [result])


def _model(w, inputs, outputs):
    graph = helper.make_graph(w.nodes, "decoder", inputs, outputs, w.weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
