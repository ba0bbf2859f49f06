"""C headers compute what `predict` computes, as C99 and as C++11, with every warning an error."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
from own_formulas import EXPORTED_TEXTS

import gpu_backprop as gb
from gpu_backprop.data import Arrays, Preprocessing, load_digits
from gpu_backprop.data.encoding import NUMBERS, Encoding
from gpu_backprop.interop import c_header
from gpu_backprop.interop.c_text import LAYERS as EXPORTED
from gpu_backprop.interop.c_text import MATH, c_string, literal, quantise
from gpu_backprop.network.layers import LAYERS
from gpu_backprop.network.own_activations import activation_of_texts

WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
COMPILERS = {"c": ["cc", "-std=c99"], "cpp": ["c++", "-std=c++11"]}
CLOSE = {"float32": 1e-5, "float64": 1e-12}

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


class Programs:
    """Headers in a folder, compiled together, which takes as long as one."""

    def __init__(self, folder):
        self.folder, self.networks = folder, {}

    def add(self, name, network, **how):
        self.networks[name] = network
        return c_header.export(network, self.folder / f"{name}.h", **how)

    def compile(self, language="c"):
        lines = []
        for name, network in self.networks.items():
            number = "double" if network.dtype == np.float64 else "float"
            takes = f"run_{name}(const {number} *x, {number} *y, int rows)"
            lines += [
                f'#include "{name}.h"', f"void {takes};",
                f"void {takes} {{",
                f"  for (; rows--; x += {name}_INPUTS, y += {name}_OUTPUTS) {name}_predict(x, y);", "}",
            ]  # fmt: skip
        text = "\n".join(lines) + "\n"
        source = self.folder / f"all.{language}"
        source.write_text(text if language == "c" else f'extern "C" {{\n{text}}}\n', encoding="utf-8")
        library = self.folder / f"{language}.so"
        command = [*COMPILERS[language], *WARNINGS, "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(library))
        return self

    def run(self, name, x):
        dtype = np.float64 if self.networks[name].dtype == np.float64 else np.float32
        outputs = int(re.search(r"_OUTPUTS (\d+)", (self.folder / f"{name}.h").read_text(encoding="ascii"))[1])
        x, y = np.ascontiguousarray(x, dtype), np.empty((len(x), outputs), dtype)
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (x, y))
        getattr(self.library, f"run_{name}")(*pointers, len(x))
        return y


def assert_close(found, wanted, network="float32"):
    """To 1e-5 of the largest, of a network in float32."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= CLOSE[network] * np.abs(wanted).max()


def taught(preprocessing, activation="identity"):
    """A network that knows how its data are prepared."""
    outputs = 1 if activation == "sigmoid" else preprocessing.outputs
    net = gb.Network(preprocessing.inputs, [gb.Dense(8, "tanh"), gb.Dense(outputs, activation)], seed=1)
    net.preprocessing, net.classes = preprocessing, preprocessing.classes
    return net


def of_every_layer(activation, dtype):
    layers = [
        gb.Periodic(3), gb.Bias("tanh"), gb.Scale(), gb.Dense(7, activation), gb.Dropout(0.5),
        gb.Dense(4, activation, bias=False),
    ]  # fmt: skip
    assert {type(layer) for layer in layers} == set(LAYERS.values()) == set(EXPORTED)
    return gb.Network(5, layers, dtype=dtype, seed=3)


@pytest.mark.parametrize("language", COMPILERS)
def test_activations_and_layers(tmp_path, language):
    programs, x = Programs(tmp_path), np.random.default_rng(0).normal(0, 3, (200, 5))
    for dtype in CLOSE:
        for activation in gb.ACTIVATIONS:
            programs.add(f"{activation}_{dtype}", of_every_layer(activation, dtype))
    programs.compile(language)
    for name, net in programs.networks.items():
        assert_close(programs.run(name, x), net.predict(x.astype(net.dtype)), net.dtype.name)


def test_every_number_of_an_activation(tmp_path):
    """Also those that overflow where a formula is not careful."""
    x = np.array([-1e4, -100, -20, -1, -1e-3, 0, 1e-3, 1, 20, 80, 1e4])[:, None]
    programs = Programs(tmp_path)
    for activation in set(gb.ACTIVATIONS) - {"exp", "softmax"}:
        programs.add(activation, gb.Network(1, [gb.Bias(activation)], dtype="float64"))
    programs.compile()
    for name, net in programs.networks.items():
        np.testing.assert_allclose(programs.run(name, x), net.predict(x), rtol=1e-9, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("language", COMPILERS)
def test_expressions(tmp_path, language):
    """Each is a function, once; numbers are those that overflow where a step is not careful."""
    x = (np.array([[-1], [1]]) * [0, 1e-12, 1e-7, 1e-3, 0.7, 1, 3, 20, 80, 1e4]).reshape(-1, 1)
    programs = Programs(tmp_path)
    for name, texts in EXPORTED_TEXTS.items():
        own = activation_of_texts(name, *texts)
        for dtype in CLOSE:
            programs.add(f"{name}_{dtype}", gb.Network(1, [gb.Bias(own), gb.Bias(), gb.Bias(own)], dtype=dtype))
            text = (tmp_path / f"{name}_{dtype}.h").read_text(encoding="ascii")
            assert text.count("static inline") == 2 and bool(MATH.search(text)) <= (dtype == "float64")
    programs.compile(language)
    for name, net in programs.networks.items():
        close, wanted = CLOSE[net.dtype.name], net.predict(x.astype(net.dtype))
        np.testing.assert_allclose(programs.run(name, x), wanted, rtol=1e3 * close, atol=close, err_msg=name)


# Rows of data ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    """Columns of numbers, some of which are missing, and one that never changes."""
    generator = np.random.default_rng(1)
    columns = {name: generator.normal(100, 30, 80).astype(np.float32).astype(float) for name in ("a", 'b "?', "c*/")}
    columns["a"][::7] = np.nan
    return columns | {
        "same": np.full(80, 4.0),
        "label": generator.choice(["u", "v\\", "é"], 80),
        "y": columns["c*/"] ** 2,
    }


def test_preprocessing(tmp_path, rows):
    """All scalings, with an input for what is missing, of classes and of quantities; a row is as it is in the file."""
    programs, data = Programs(tmp_path), {}
    for numbers in NUMBERS:
        for clip in (False, True):
            encoding = Encoding(numbers=numbers, clip=clip, indicator=clip, clip_target=clip)
            for target, activation in (("label", "softmax"), ("y", "identity")):
                name = f"{numbers}_{clip}_{target}"
                data[name] = {key: values for key, values in rows.items() if key not in {"label", "y"} - {target}}
                prepared = Preprocessing.fit(data[name], target, impute="mean", encoding=encoding)
                programs.add(name, taught(prepared, activation))
    programs.compile()
    for name, net in programs.networks.items():
        x = np.stack([data[name][column] for column in net.preprocessing.columns], axis=1)
        y = net.predict(net.preprocessing.transform(data[name]))
        assert_close(programs.run(name, x), y if net.classes else net.preprocessing.inverse(y))


def test_arrays(tmp_path):
    x, labels = load_digits()
    lacking = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    lacking[::5, 1] = np.nan
    data = {
        "digits": Arrays("digits", x, labels),
        "images": Arrays("images", np.arange(600, dtype=np.uint8).reshape(50, 3, 4), np.arange(50) % 3),
        "lacking": Arrays("lacking", lacking, lacking[:, 0] > 0),
    }
    programs = Programs(tmp_path)
    for name, each in data.items():
        net = taught(Preprocessing.fit(each, encoding=Encoding(indicator=name == "lacking")), "softmax")
        programs.add(name, net)
    programs.compile()
    for name, net in programs.networks.items():
        given = data[name].x.reshape(len(data[name].x), -1)
        assert_close(programs.run(name, given), net.predict(net.preprocessing.transform(data[name])))


def test_prepared_rows_and_one_output(tmp_path, rows):
    data = {"a": rows["same"] * np.arange(80), "is it": np.where(np.arange(80) % 3, "yes", "no")}
    net = taught(Preprocessing.fit(data, "is it"), "sigmoid")
    programs = Programs(tmp_path)
    programs.add("prepared", net, preprocessing=False)
    x = net.preprocessing.transform(data)
    y = net.predict(x)
    assert_close(programs.compile().run("prepared", x), np.hstack([1 - y, y]))
    assert "prepared already" in (tmp_path / "prepared.h").read_text(encoding="ascii")


def test_names_and_what_a_program_gets(tmp_path, rows):
    """Whatever columns and classes are called, and however the file; the label is that of the largest output."""
    data = {name: values for name, values in rows.items() if name != "y"}
    net = taught(Preprocessing.fit(data, "label", impute="mean"), "softmax")
    c_header.export(net, tmp_path / "2nd try.h")
    program = """
#include <stdio.h>
#include "2nd try.h"
int main(void) {
  float x[_2nd_try_INPUTS] = {NAN, 1, 2, 3}, y[_2nd_try_OUTPUTS];
  int i;
  _2nd_try_predict(x, y);
  for (i = 0; i < _2nd_try_INPUTS; ++i) puts(_2nd_try_columns[i]);
  for (i = 0; i < _2nd_try_OUTPUTS; ++i) puts(_2nd_try_classes[i]);
  printf("%d\\n", _2nd_try_label(y));
  return 0;
}
"""
    (tmp_path / "main.c").write_text(program, encoding="utf-8")
    subprocess.run([*COMPILERS["c"], *WARNINGS, "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout.decode().splitlines()
    assert said[:4] == net.preprocessing.columns and said[4:7] == net.classes
    row = {"a": [np.nan], 'b "?': [1.0], "c*/": [2.0], "same": [3.0]}
    assert int(said[7]) == net.predict(net.preprocessing.transform(row)).argmax()


def test_no_name_is_without_the_prefix(tmp_path):
    """Two headers go into one program, and nothing that a formula calls is missing its f."""
    for activation in gb.ACTIVATIONS:
        c_header.export(of_every_layer(activation, "float32"), tmp_path / "net.h")
        text = (tmp_path / "net.h").read_text(encoding="ascii")
        assert set(re.findall(r"^(?:static|#define) .*?(\w+)(?:\[|\(| \d)", text, re.MULTILINE)) == set(
            re.findall(r"^(?:static|#define) .*?(net_\w+)(?:\[|\(| \d)", text, re.MULTILINE)
        )
        assert not MATH.search(text)


# Eight bits -----------------------------------------------------------------------------------------------------------


def test_weights_of_eight_bits(tmp_path):
    """The program computes with the rounded weights, and the error is that which it makes."""
    x, labels = load_digits()
    data = Arrays("digits", x, labels)
    net = taught(Preprocessing.fit(data), "softmax")
    prepared = net.preprocessing.transform(data)
    gb.Trainer(net, batch_size=64).fit(prepared, labels, epochs=10, progress=False)
    programs = Programs(tmp_path)
    error = programs.add("small", net, int8=True, rows=data)
    found, exact = programs.compile().run("small", x), net.predict(prepared)
    assert error.rows == "1,797 given rows" and error.relabelled < 0.01
    assert error.largest == pytest.approx(np.abs(found - exact).max(), rel=1e-3)
    assert error.mean == pytest.approx(np.abs(found - exact).mean(), rel=1e-3)
    assert error.relabelled == pytest.approx((found.argmax(axis=1) != exact.argmax(axis=1)).mean())
    assert f"   {error}." in (tmp_path / "small.h").read_text(encoding="ascii")


@pytest.mark.parametrize("dtype", CLOSE)
def test_a_sample_is_drawn_where_there_are_no_rows(tmp_path, dtype):
    error = c_header.export(of_every_layer("tanh", dtype), tmp_path / "net.h", int8=True)
    assert str(error) == str(c_header.measure_int8(of_every_layer("tanh", dtype)))
    assert "measured on 1,000 rows of standard normal numbers, as the network reads them" in str(error)
    assert error.relabelled is None and 0 < error.mean < error.largest < 0.1


def test_rounding_by_units():
    weight = np.array([[1.0, 0, 0.02], [-0.5, 0, -1.27], [0.003, 0, 0.0]], np.float32)
    codes, scales = quantise(weight)
    assert codes.tolist() == [[127, 0, 2], [-64, 0, -127], [0, 0, 0]]
    np.testing.assert_allclose(scales, [1 / 127, 0, 0.01], rtol=1e-6)


# What is written and refused ------------------------------------------------------------------------------------------


def test_numbers_keep_their_bits():
    values = np.array([0, -0.0, 1, -5, 0.1, 1 / 3, 1e-45, 3.4e38, 16777217, 1e10], np.float32)
    assert [np.float32(literal(value).rstrip("f")) for value in values] == values.tolist()
    assert [literal(np.float32(value)) for value in (1, -0.0, 1e10)] == ["1.0f", "-0.0f", "1e+10f"]
    assert [literal(value) for value in (np.float64(2), 0.1, np.int8(-3))] == ["2.0", "0.1", "-3"]
    assert c_string('a"b\\?é\n') == r'"a\042b\134\077\303\251\012"'


class OwnLayer(gb.Dense):
    pass


def test_what_is_refused(tmp_path):
    texts = {"a": [1.0, 2.0, 3.0, 4.0], "city": list("uvuv"), "y": [1.5, 2.5, 3.0, 9.0]}
    mixed, plain = taught(Preprocessing.fit(texts, "y")), gb.Network(2, [gb.Dense(2)])
    mean = gb.Network(2, [gb.Dense(2)], seed=[1, 2])
    mean.averaged = True
    broken = plain.copy()
    broken.layers[0].weight[...] = np.nan
    own = dataclasses.replace(gb.ACTIVATIONS["tanh"], name="own")
    for given, how, why in (
        (gb.Trainer(plain), {}, "got Trainer: of a trainer it is trainer.network"),
        (gb.Network(2, plain.layers, seed=[1, 2]), {}, "is 2 networks side by side"),
        (mean, {}, "is the mean of 2 members, and a header holds one: export it to ONNX, or a member"),
        (mixed, {}, "takes columns of numbers alone, and these are none: 'city'. Export the network to ONNX"),
        (broken, {}, "has NaN or infinite parameters"),
        (gb.Network(2, [gb.Dense(2, own)]), {}, "an activation that is a function of your own"),
        (gb.Network(2, [OwnLayer(2)]), {}, "is a layer of your own"),
        (plain, {"rows": np.zeros((1, 2))}, "rows are for measuring what int8=True changes"),
        (plain, {"int8": True, "rows": np.zeros((0, 2))}, "there are no rows to measure"),
        (plain, {"int8": True, "rows": np.zeros((1, 3))}, "x has 3 features a sample"),
    ):
        with pytest.raises(gb.InputError, match=why):
            c_header.export(given, tmp_path / "no.h", **how)
    with pytest.raises(gb.InputError, match=r"cannot write .*nowhere"):
        c_header.export(plain, tmp_path / "nowhere" / "net.h")
    assert list(tmp_path.iterdir()) == []
