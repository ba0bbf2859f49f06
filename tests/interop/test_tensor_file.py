"""Safetensors files of PyTorch's names, written and read without it; what is no such file is refused in words."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpu_backprop as gb
from gpu_backprop.interop import pytorch


def network(dtype="float32"):
    return gb.Network(4, [gb.Dense(5, "relu"), gb.Dropout(0.5), gb.Bias(), gb.Dense(3)], dtype=dtype, seed=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_has_names_shapes_and_the_architecture(tmp_path, dtype):
    net, path = network(dtype), tmp_path / "net.safetensors"
    pytorch.write_safetensors(net, path)
    tensors = load_file(path)
    assert {name: array.shape for name, array in tensors.items()} == {
        "0.weight": (5, 4), "0.bias": (5,), "3.bias": (5,), "4.weight": (3, 5), "4.bias": (3,),
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["0.weight"].T, net.layers[0].weight)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert metadata["format"] == "pt"
    twin = gb.Network.from_architecture(json.loads(metadata["architecture"]), draw=False)
    pytorch.read_safetensors(path, twin)
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    with pytest.raises(gb.ModelFileError, match="it is a safetensors file, but of another program"):
        gb.load(path)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(
        gb.ModelFileError, match=r"^cannot write the parameters to .*none/net: No such file .*; give a path in a folder"
    ):
        pytorch.write_safetensors(network(), tmp_path / "none" / "net")
    with pytest.raises(gb.InputError, match=r"^network must be a gpu_backprop\.Network, got str\.$"):
        pytorch.write_safetensors("net.safetensors", network())


def header(text):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


DAMAGED = r"it is cut off or damaged \("
FILES = {
    "nothing": (b"", "it is cut off after 0 bytes"),
    "text": (b"0.weight,0.bias\n1,2\n", "it is not a safetensors file"),
    "pickle": (b"\x80\x04\x95" * 9, "it is not a safetensors file"),
    "cut off": (header(tensor())[:-3], "it is cut off after"),
    "no JSON": (header(b"{a: 1}"), DAMAGED + "its header"),
    "no object": (header({"a": 1}), DAMAGED + "its header"),
    "half": (header(tensor("BF16", (4,))) + bytes(8), "its tensor a is BF16"),
    "no dtype": (header({"a": {}}), "its tensor a is None"),
    "negative": (header(tensor(shape=(-2,))) + bytes(8), r"its tensor a has the shape \[-2\]"),
    "many axes": (header(tensor(shape=[1] * 70)) + bytes(4), r"its tensor a has the shape \[1, 1"),
    "large": (header(tensor(shape=(2**30, 2**30), offsets=(0, 2**62))) + bytes(8), DAMAGED + r"its tensors"),
    "short": (header(tensor()) + bytes(7), DAMAGED + "its tensors have 8 bytes, and 7 follow the header"),
    "elsewhere": (header(tensor(offsets=(8, 16))) + bytes(8), DAMAGED + "a lies in another place than belongs to it"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), FILES.values(), ids=FILES)
def test_a_bad_file_is_refused(tmp_path, data, said):
    path, net = tmp_path / "bad.safetensors", network()
    path.write_bytes(data)
    ends = r".*\. Give the path of a safetensors file of float32 or float64 tensors\.$"
    with pytest.raises(gb.ModelFileError, match=rf"^cannot read {re.escape(str(path))}: {said}{ends}"):
        pytorch.read_safetensors(path, net)
    assert net.parameters.tobytes() == network().parameters.tobytes()


def test_where_there_is_no_file(tmp_path):
    for path, said in (tmp_path / "gone", "No such file or directory"), (tmp_path, "it is a folder"):
        with pytest.raises(gb.ModelFileError, match=f": {said}. Give"):
            pytorch.read_safetensors(path, network())


def test_a_file_of_another_network_changes_nothing(tmp_path):
    path, net = tmp_path / "net.safetensors", network()
    before = net.parameters.tobytes()
    for tensors, said in (
        (
            {"0.weight": np.ones((5, 4))},
            r"must have 0\.weight, .*; 0\.bias, 3\.bias, 4\.weight, 4\.bias missing\.$",
        ),
        ({}, "missing"),
    ):
        save_file(tensors, path)
        with pytest.raises(gb.InputError, match=said):
            pytorch.read_safetensors(path, net)
    pytorch.write_safetensors(gb.Network(4, [gb.Dense(6, "relu"), gb.Dropout(0.5), gb.Bias(), gb.Dense(3)]), path)
    with pytest.raises(
        gb.InputError, match=r"^0\.weight is the weight of layer 1, .* the shape \(5, 4\), got \(6, 4\)"
    ):
        pytorch.read_safetensors(path, net)
    assert net.parameters.tobytes() == before
