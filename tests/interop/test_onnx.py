"""ONNX files compute what `predict` computes: every activation and layer, and the preprocessing of tables."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import date, timedelta

import numpy as np
import pytest
from own_formulas import EXPORTED_TEXTS

import gpu_backprop as gb
from gpu_backprop.backend.expression import parse
from gpu_backprop.backend.expression_tree import COMPARISONS, OPERATORS
from gpu_backprop.backend.expression_tree import FUNCTIONS as FUNCTIONS_OF_TEXTS
from gpu_backprop.data import Arrays, Preprocessing, load_digits, read
from gpu_backprop.data.dates import DAY, EPOCH, FORMATS, PARTS, date_parts
from gpu_backprop.data.encoding import NUMBERS, PLAIN, TABULAR, Encoding
from gpu_backprop.data.number_columns import DateColumn
from gpu_backprop.data.scaling import StandardScaling
from gpu_backprop.data.table_inputs import TableInputs
from gpu_backprop.data.target import RegressionTarget
from gpu_backprop.interop import onnx as export
from gpu_backprop.interop.onnx_graph import FUNCTIONS, OPERATIONS
from gpu_backprop.interop.onnx_graph import LAYERS as EXPORTED
from gpu_backprop.network.layers import LAYERS
from gpu_backprop.network.own_activations import activation_of_texts

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

ROWS = np.random.default_rng(0).normal(0, 3, (200, 5))
CLOSE = {"float32": 1e-5, "float64": 1e-12}


def run(model, fed):
    """What ONNX Runtime makes of a model, by the names of its outputs."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, fed), strict=True))


def assert_close(found, wanted, network="float32"):
    """To 1e-5 of the largest, of a network in float32."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= CLOSE[network] * np.abs(wanted).max()


def taught(preprocessing, activation="identity", units=8, seed=1):
    """A network that knows how its data are prepared."""
    outputs = 1 if activation == "sigmoid" else preprocessing.outputs
    net = gb.Network(preprocessing.inputs, [gb.Dense(units, "tanh"), gb.Dense(outputs, activation)], seed=seed)
    net.preprocessing, net.classes = preprocessing, preprocessing.classes
    return net


@pytest.mark.parametrize("seed", [3, [1, 2, 3]], ids=["one", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_activations_and_layers(activation, dtype, seed):
    layers = [
        gb.Periodic(3), gb.Bias("tanh"), gb.Scale(), gb.Dense(7, activation), gb.Dropout(0.5),
        gb.Dense(4, activation, bias=False),
    ]  # fmt: skip
    assert {type(layer) for layer in layers} == set(LAYERS.values()) == set(EXPORTED)
    net = gb.Network(5, layers, dtype=dtype, seed=seed)
    for layer in net.layers:  # biases begin at 0
        if isinstance(layer, gb.Bias | gb.Dense) and layer.bias is not None:
            layer.bias[...] = np.linspace(-1, 1, layer.bias.size).reshape(layer.bias.shape)
    if net.models_shape:
        net.averaged = True
    x = ROWS.astype(dtype)
    found = run(export.to_onnx(net), {"x": x})
    assert_close(found["probabilities" if activation == "softmax" else "y"], net.predict(x), dtype)


def test_every_number_of_an_activation():
    """Also those that overflow where a formula is not careful."""
    assert set(FUNCTIONS) == set(gb.ACTIVATIONS)
    x = np.array([-1e4, -100, -20, -1, -1e-3, 0, 1e-3, 1, 20, 80, 1e4])[:, None]
    for activation in set(FUNCTIONS) - {"exp", "softmax"}:
        net = gb.Network(1, [gb.Bias(activation)], dtype="float64")
        found = run(export.to_onnx(net), {"x": x})["y"]
        np.testing.assert_allclose(found, net.predict(x), rtol=1e-9, atol=1e-14, err_msg=activation)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", EXPORTED_TEXTS)
def test_expressions(name, dtype):
    """They need not be registered. The numbers too are compared that overflow where a step is not careful, and those of
    which 1 + z forgets most."""
    own = activation_of_texts(name, *EXPORTED_TEXTS[name])
    net = gb.Network(5, [gb.Dense(7, own), gb.Bias("tanh"), gb.Dense(4, own)], dtype=dtype, seed=3)
    x = ROWS.astype(dtype)
    assert_close(run(export.to_onnx(net), {"x": x})["y"], net.predict(x), dtype)
    net = gb.Network(1, [gb.Bias(own)], dtype=dtype)
    x = (np.array([[-1], [1]]) * [0, 1e-12, 1e-7, 1e-3, 0.7, 1, 3, 20, 80, 1e4]).reshape(-1, 1).astype(dtype)
    found = run(export.to_onnx(net), {"x": x})["y"]
    small = np.abs(x) < 2  # beyond, sin and cos of float32 differ
    np.testing.assert_allclose(found[small], net.predict(x)[small], rtol=CLOSE[dtype], atol=1e-30)
    np.testing.assert_allclose(found, net.predict(x), rtol=1e3 * CLOSE[dtype], atol=1e-9)


def test_expressions_use_all_of_the_grammar():
    trees = [parse(text, "z") for text, _ in EXPORTED_TEXTS.values()]
    assert {*FUNCTIONS_OF_TEXTS, *OPERATORS, *COMPARISONS, "**", "where"} <= set().union(*map(operations_of, trees))
    assert {*OPERATIONS} == {*COMPARISONS, *OPERATORS, *FUNCTIONS_OF_TEXTS} - {"sigmoid", "softplus"}


def operations_of(tree):
    if tree.op in ("number", "name"):
        return set()
    return {tree.op}.union(*map(operations_of, tree.args))


def test_what_a_file_says(tmp_path):
    x, labels = load_digits()
    net = taught(
        Preprocessing.fit({"first": x[:, 30], "second": x[:, 20], "digit": labels.astype(float)}, "digit"), "softmax"
    )
    for path in "a.onnx", "b.onnx":
        export.export(net, tmp_path / path)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import} == {
        "": export.OPSET,
        "ai.onnx.ml": export.ML_OPSET,
    }
    assert (model.producer_name, model.producer_version) == ("gpu_backprop", gb.__version__)
    assert model.ir_version == export.IR_VERSION
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["task"] == "classification"
    assert json.loads(told["columns"]) == ["first", "second"] and json.loads(told["classes"]) == list(range(10))
    assert [one.name for one in model.graph.input] == ["first", "second"]


def test_versions_belong_together():
    """Whatever reads the opset reads the layout of the file, and the operators of the other domain."""
    known = {(layout, opset): ml for _, layout, opset, ml, *_ in onnx.helper.VERSION_TABLE}
    assert known[export.IR_VERSION, export.OPSET] >= export.ML_OPSET


def test_digits():
    """Real rows, and an input for all pixels."""
    x, labels = load_digits()
    data = Arrays("digits", x, labels)
    net = taught(Preprocessing.fit(data), "softmax", units=30)
    prepared = net.preprocessing.transform(data)
    gb.Trainer(net, batch_size=64).fit(prepared, labels, epochs=10, progress=False)
    found = run(export.to_onnx(net), export.feeds(net.preprocessing, data))
    assert (found["label"] == net.predict_labels(prepared)).all() and (found["label"] == labels).mean() > 0.9
    assert_close(found["probabilities"], net.predict(prepared))


def test_images():
    pixels = Arrays("images", np.arange(600, dtype=np.uint8).reshape(50, 3, 4), np.arange(50) % 3)
    net = taught(Preprocessing.fit(pixels), "softmax")
    assert net.preprocessing.images
    found = run(export.to_onnx(net), export.feeds(net.preprocessing, pixels))
    assert_close(found["probabilities"], net.predict(net.preprocessing.transform(pixels)))


@pytest.mark.parametrize("numbers", NUMBERS)
def test_arrays_with_missing_numbers(numbers):
    x = np.random.default_rng(1).normal(size=(60, 4))
    x[::5, 1] = x[::7, 3] = np.nan
    x[:, 2] = 5  # which becomes 0, whatever a new row has
    data = Arrays("array", x, x[:, 0])
    net = taught(Preprocessing.fit(data, encoding=Encoding(numbers=numbers, clip=True, indicator=True)))
    new = Arrays("array", x * 3)
    assert net.inputs == 6
    found = run(export.to_onnx(net), export.feeds(net.preprocessing, new))
    assert_close(found["prediction"], net.preprocessing.inverse(net.predict(net.preprocessing.transform(new))))


# Tables ---------------------------------------------------------------------------------------------------------------


def write(path, new=False, rows=90):
    """Writes rows of all kinds: missing values, numbers as people write them, categories, dates; new ones have texts
    that no training row had."""
    generator = np.random.default_rng(new)
    lines = ["where,area,price,city,flag,size,day,moment,truth,label,value"]
    for row in range(rows):
        day = f"{generator.integers(1890, 2110)}-{row % 12 + 1:02}-{row % 28 + 1:02}"
        city = ["Oslo", "é", "e\u0301x", "true", " Bergen ", "n/a", f"rare {row}" if row < 30 else "Oslo"][row % 7]
        fields = [
            f"{2026000000 + 1.5 * row}", f"{generator.normal(100, 50):.2f}" if row % 7 else "",
            f'"$1,{generator.integers(100, 999)}.50"' if row % 5 else "NA", "unseen" if new and row % 3 == 0 else city,
            "maybe" if new and row % 4 == 0 else ["yes", "no"][row % 2],
            "huge" if new and row % 5 == 0 else ["small", "medium", "large", ""][row % 4],
            day if row % 9 else "", f"{day}T{row % 24:02}:{row % 60:02}:07.5+0{row % 3}:30",
            ["TRUE", "False", "true"][row % 3], "abc"[row % 3], f"{generator.normal(1000, 50):.1f}",
        ]  # fmt: skip
        lines.append(",".join(fields))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read(path)


ENCODINGS = {
    "plain": PLAIN,
    "tabular": TABULAR,
    **{numbers: Encoding(numbers=numbers, dates=True, rare=3) for numbers in NUMBERS},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("target", ["label", "value"])
def test_tables(tmp_path, target, encoding):
    """Missing values, unseen categories and numbers such as $1,745 are what they are to `predict`."""
    chosen = dataclasses.replace(ENCODINGS[encoding], ordinal={"size": ["small", "medium", "large"]})
    impute = None if chosen.indicator else "median"
    data = write(tmp_path / "rows.csv")
    prepared = Preprocessing.fit(data, target, impute=impute, encoding=chosen)
    net = taught(prepared, "softmax" if target == "label" else "identity")
    model = export.to_onnx(net)
    assert [one.name for one in model.graph.input if one.name != "moment offset"] == prepared.columns
    for rows in data, write(tmp_path / "new.csv", new=True):
        y = net.predict(prepared.transform(rows))
        found = run(model, export.feeds(prepared, rows))
        if target == "label":
            assert found["label"].tolist() == prepared.inverse(y).tolist()
            assert_close(found["probabilities"], y)
        else:
            np.testing.assert_allclose(found["prediction"], prepared.inverse(y), rtol=1e-7)
    assert prepared.unseen["city"] == 30  # so that this is about something


def test_texts_need_no_file(tmp_path):
    """What the page says that an input takes: also NaN, "" and the words for a missing text."""
    rows = {"size": ["a", "b", None, "a"], "much": [1.0, 2.0, None, 4.0], "label": ["x", "y", "y", "x"]}
    prepared = Preprocessing.fit(rows, "label", impute="mean")
    model = export.to_onnx(taught(prepared, "softmax"))
    missing = run(model, {"size": np.array([[""]], object), "much": np.array([[np.nan]])})
    assert missing["label"][0] in ("x", "y")
    for word in ("NA", "n/a", "null"):
        same = run(model, {"size": np.array([[word]], object), "much": np.array([[np.nan]])})
        assert same["probabilities"].tolist() == missing["probabilities"].tolist()


@pytest.mark.parametrize("format", FORMATS[:2], ids=["no zone", "zone"])
def test_every_part_of_a_date(format):
    """Of the first and last days of months and years, leap years too, over eight centuries."""
    days = [
        date(year, 1, 1) + timedelta(days=at) for year in range(1600, 2400, 7) for at in (-1, 0, 58, 59, 60, 364, 365)
    ]
    clock = np.array([(day - EPOCH).days for day in days]) * float(DAY) + np.arange(len(days)) % DAY * 61.5
    offset = np.where(np.arange(len(days)) % 2, 3600.0, -5400.0) if format.zone else np.zeros(len(days))
    wanted = date_parts(clock, offset)
    column = DateColumn("when", format, PARTS, StandardScaling(np.zeros(len(PARTS)), np.ones(len(PARTS))))
    target = RegressionTarget("y", StandardScaling(np.zeros(len(PARTS)), np.ones(len(PARTS))))
    net = gb.Network(len(PARTS), [gb.Scale()], dtype="float64")
    net.preprocessing = Preprocessing(TableInputs((column,), "mean"), target)
    fed = {"when": (clock + 946_684_800)[:, None]} | ({"when offset": offset[:, None]} if format.zone else {})
    np.testing.assert_allclose(run(export.to_onnx(net), fed)["prediction"], wanted, rtol=1e-6, atol=1e-6)


def test_intervals_and_the_range_of_the_target(tmp_path):
    data = write(tmp_path / "rows.csv")
    prepared = Preprocessing.fit(data, "value", encoding=TABULAR)
    net = taught(prepared)
    net.layers[1].weight[...] *= 9  # beyond the range
    x = prepared.transform(data)
    assert (prepared.inverse(net.predict(x)) != prepared.inverse(net.predict(x), clip=False)).any()
    net.intervals = gb.Intervals.fit(np.arange(40.0))
    for coverage, given in ((0.9, {}), (0.5, {"coverage": 0.5})):
        found = run(export.to_onnx(net, **given), export.feeds(prepared, data))
        for name, ends in zip(("low", "high"), net.predict_interval(x, coverage), strict=True):
            np.testing.assert_allclose(found[name], ends, rtol=1e-7)
    net.intervals = gb.Intervals.fit([1.0, 2.0])  # which promise 2/3 at most
    assert list(run(export.to_onnx(net), export.feeds(prepared, data))) == ["prediction"]
    with pytest.raises(gb.InputError, match=r"coverage of 0\.9 takes 9 rows"):
        export.to_onnx(net, coverage=0.9)


def test_one_output_of_two_classes():
    data = {"a": [0.0, 1.0, 2.0, 3.0], "is it": ["no", "yes", "no", "yes"]}
    prepared = Preprocessing.fit(data, "is it")
    net = taught(prepared, "sigmoid")
    y = net.predict(prepared.transform(data))
    found = run(export.to_onnx(net), export.feeds(prepared, data))
    assert found["label"].tolist() == np.where(y[:, 0] > 0.5, "yes", "no").tolist()
    assert_close(found["probabilities"], np.hstack([1 - y, y]))


def test_scores_are_not_called_probabilities():
    prepared = Preprocessing.fit({"a": [0.0, 1.0, 2.0, 3.0], "b": ["u", "v", "u", "v"]}, "b")
    assert [output.name for output in export.to_onnx(taught(prepared)).graph.output] == ["label", "scores"]


def test_columns_with_the_names_of_outputs_and_nodes():
    names = "label", "probabilities", "where", "cast", "x", "layers.0.weight", "constant"
    data = {name: np.arange(6.0) * k for k, name in enumerate(names)} | {"class": list("ababab")}
    prepared = Preprocessing.fit(data, "class", impute="mean")
    net = taught(prepared, "softmax")
    found = run(export.to_onnx(net), export.feeds(prepared, data))
    assert_close(found["predicted probabilities"], net.predict(prepared.transform(data)))


@pytest.mark.parametrize("where", ["column", "category", "class"])
def test_texts_that_are_damaged(where):
    """Half of a surrogate pair, which no UTF-8 holds; a byte 0 it does."""
    for damaged, bad in (("a\0b", False), ("\udce9", True)):
        name, text, label = (damaged if where == part else "k" for part in ("column", "category", "class"))
        data = {name: ["u", text, "u", text], "y": [label, "l", label, "l"]}
        net = taught(Preprocessing.fit(data, "y"), "softmax")
        if bad:
            with pytest.raises(gb.InputError, match=r"'\\udce9' is a text in the data that UTF-8"):
                export.to_onnx(net)
        else:
            assert run(export.to_onnx(net), export.feeds(net.preprocessing, data))["label"].tolist() == data["y"]


def test_prepared_rows(tmp_path):
    """Without the preprocessing of a table, whose outputs stay in the units of the data."""
    data = write(tmp_path / "rows.csv")
    prepared = Preprocessing.fit(data, "value", impute="mean", hashed={"city": 4})
    net, x = taught(prepared), prepared.transform(data)
    with pytest.raises(gb.InputError, match="column 'city' is hashed, by BLAKE2b"):
        export.to_onnx(net)
    found = run(export.to_onnx(net, preprocessing=False), {"x": x})
    np.testing.assert_allclose(found["prediction"], prepared.inverse(net.predict(x)), rtol=1e-7)


@pytest.mark.usefixtures("half_on_a_cpu")
def test_sixteen_bits_are_exported_as_their_float32_parameters():
    layers = [gb.Dense(9, "tanh"), gb.Dense(2)]
    half, single = (gb.Network(5, layers, dtype=dtype, seed=4) for dtype in ("float16", "float32"))
    x = ROWS.astype(np.float32)
    assert run(export.to_onnx(half), {"x": x})["y"].tolist() == run(export.to_onnx(single), {"x": x})["y"].tolist()


# What cannot be exported ----------------------------------------------------------------------------------------------


class OwnLayer(gb.Dense):
    pass


def test_what_is_refused(tmp_path):
    net = gb.Network(2, [gb.Dense(2, "softmax")])
    broken = net.copy()
    broken.layers[0].bias[...] = np.inf
    own = dataclasses.replace(gb.ACTIVATIONS["tanh"], name="own")
    for given, how, why in (
        (gb.Trainer(net), {}, "got Trainer: of a trainer it is trainer.network"),
        (
            gb.Network(2, net.layers, seed=[1, 2]),
            {},
            "is 2 networks side by side, and a file holds one: export a member",
        ),
        (
            gb.Network(2, [gb.Dense(2, own)]),
            {},
            "a function of your own, which cannot be exported; these can: identity,.* and what register_activation",
        ),
        (broken, {}, "has NaN or infinite parameters"),
        (gb.Network(2, [OwnLayer(2)]), {}, "is a layer of your own"),
        (net, {"coverage": 0.9}, "predicts classes, whose probabilities say how sure it is"),
        (gb.Network(2, [gb.Dense(2)]), {"coverage": 0.9}, "has no prediction intervals"),
    ):
        with pytest.raises(gb.InputError, match=why):
            export.export(given, tmp_path / "no.onnx", **how)
    with pytest.raises(gb.InputError, match=r"cannot write .*nowhere.*give a path in a folder that exists"):
        export.export(net, tmp_path / "nowhere" / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_member_of_a_population():
    x = ROWS.astype(np.float32)
    population = gb.Population(5, [gb.Dense(3)], settings=[{"seed": 1}, {"seed": 2}])
    assert_close(run(export.to_onnx(population.member(1)), {"x": x})["y"], population.predict(x)[1])
    with pytest.raises(gb.InputError, match=r"got Population: .*population\.member\(m\)"):
        export.to_onnx(population)


def test_more_than_a_file_holds(monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 100)
    with pytest.raises(gb.InputError, match="an ONNX file holds 2 GiB"):
        export.to_onnx(gb.Network(20, [gb.Dense(20)]))


def test_a_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(gb.MissingExtraError, match=r"needs onnx: pip install 'gpu-backprop\[onnx\]'"):
        export.export(gb.Network(2, [gb.Dense(2)]), tmp_path / "net.onnx")
