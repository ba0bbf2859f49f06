"""ONNX Runtime, which only predicts: a model of matrix products and activations, on its CPU provider."""

from __future__ import annotations

import os
from typing import Any

import onnx
import onnxruntime
from onnx import helper, numpy_helper

from comparison.peers.task import Peer, Task


class OnnxRuntime(Peer):
    """Gemm takes a bias, and is what exporters write for a dense layer."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
        model = model_of(task).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def reset(self) -> None:
        """It has nothing that changes."""

    def infer(self, x: Any) -> Any:
        return self.session.run(None, {"x": x})[0]


def model_of(task: Task) -> onnx.ModelProto:
    """Its layers, and a softmax."""
    nodes, arrays, name, last = [], [], "x", len(task.parameters) - 1
    for k, (w, b) in enumerate(task.parameters):
        arrays += [numpy_helper.from_array(w, f"w{k}"), numpy_helper.from_array(b, f"b{k}")]
        after = "Softmax" if k == last else {"tanh": "Tanh", "relu": "Relu"}[task.activation]
        nodes += [helper.make_node("Gemm", [name, f"w{k}", f"b{k}"], [f"z{k}"])]
        nodes += [helper.make_node(after, [f"z{k}"], [name := f"y{k}"])]
    inputs, outputs = len(task.parameters[0][0]), len(task.parameters[-1][1])
    ends = [
        helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, ["rows", units])
        for end, units in (("x", inputs), (name, outputs))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
