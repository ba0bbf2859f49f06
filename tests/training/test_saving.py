"""A model file brings the network back bit for bit, and no other file brings anything but a ModelFileError."""

from __future__ import annotations

import copy
import json
import mmap
import os
import pickle
import random
import struct
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as bytes_of

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, ModelFileError
from gpu_backprop.backend.formula import Activation
from gpu_backprop.data import Arrays, DataError, Preprocessing, Table
from gpu_backprop.network.initializers import Initializer, constant
from gpu_backprop.training import model_file, saving

LEARNED = list(model_file.LEARNED)
X = np.linspace(-1, 1, 12).reshape(3, 4)


def small(**settings) -> gb.Network:
    return gb.Network(4, [gb.Dense(5, "tanh"), gb.Dropout(0.5), gb.Dense(2, bias=False)], **settings)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def whole(path) -> bytes:
    """A good file's bytes; the file is at `path`."""
    gb.save(path, small())
    return path.read_bytes()


def metadata_of(whole: bytes) -> dict[str, str]:
    return json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])["__metadata__"]


def resealed(whole: bytes, edit=lambda architecture: None, **metadata: str | None) -> bytes:
    """A good file with a changed architecture or metadata and a digest that is right again."""
    tensors, old = tensors_of(whole), metadata_of(whole)
    architecture = json.loads(old["architecture"])
    edit(architecture)
    text = metadata.get("architecture") or json.dumps(architecture)
    learned = {name: value for name, value in (old | metadata).items() if name in LEARNED and value}
    new = old | {"architecture": text, "sha256": model_file.digest(text, tensors, learned)} | metadata
    return bytes_of(tensors, {key: value for key, value in new.items() if value is not None})


def refused(path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=match) as caught:
        gb.load(path, device="cpu")
    message = str(caught.value)
    assert message.startswith(f"cannot load {path}: ") and message.endswith(".")
    assert len(message) < 1000 and "\n" not in message


# What comes back ------------------------------------------------------------------------------------------------------

NETWORKS = {
    "one layer": lambda **s: gb.Network(4, [gb.Dense(1)], **s),
    "dropout and no bias": small,
    "bias layers": lambda **s: gb.Network(4, [gb.Bias("sigmoid"), gb.Dense(3, bias=False), gb.Bias("softmax")], **s),
    "periodic": lambda **s: gb.Network(4, [gb.Periodic(2, 3, learning_rate_factor=0.1), gb.Dense(2)], **s),
    "scale": lambda **s: gb.Network(4, [gb.Scale(weight_decay_factor=0), gb.Dense(2, "mish", init="ntp")], **s),
    "dropout alone": lambda **s: gb.Network(4, [gb.Dropout(0.25)], **s),
    "initializers": lambda **s: gb.Network(4, [gb.Dense(3, init="orthogonal"), gb.Dense(2, init=constant(0.5))], **s),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [7, 2**64 - 1, [3], [1, 2, 5]], ids=str)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_round_trip(path, make, seed, dtype):
    net = make(dtype=dtype, device="cpu", seed=seed)
    net.parameters += np.random.default_rng(0).standard_normal(net.parameters.shape) * (net.parameters != 0)
    gb.save(path, net)
    again = gb.load(path, device="cpu")
    assert again.architecture() == net.architecture()
    assert str(again) == str(net)
    np.testing.assert_array_equal(again.parameters, net.parameters)
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


def test_dropout_rates_of_members(path):
    net = gb.Network(4, [gb.Dropout([0.25, 0.0]), gb.Dense(3)], seed=[1, 2])
    gb.save(path, net)
    again = gb.load(path)
    assert again.architecture() == net.architecture() and again.layers[0].rate == (0.25, 0.0)
    np.testing.assert_array_equal(again.forward(X, training=True), net.forward(X, training=True))


def test_dropout_goes_on_where_it_was(path):
    net = small()
    for _ in range(3):
        net.forward(X, training=True)
    gb.save(path, net)
    again = gb.load(path)
    np.testing.assert_array_equal(again.forward(X, training=True), net.forward(X, training=True))
    assert (again.forward(X, training=True) != small().forward(X, training=True)).any()


def test_every_safetensors_reader_reads_it(whole, path):
    with safe_open(path, framework="numpy") as file:
        metadata, shapes = file.metadata(), {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118
    assert shapes == {"layers.0.weight": (4, 5), "layers.0.bias": (5,), "layers.2.weight": (5, 2), "random": (3, 3)}
    assert (metadata["program"], metadata["format"], len(metadata["sha256"])) == ("gpu_backprop", "1", 64)
    assert json.loads(metadata["architecture"]) == small().architecture()


def test_an_own_initializer_does_not_keep_its_weights_from_coming_back(path):
    own = Initializer("mine", lambda generator, shape: generator.random(shape))
    net = gb.Network(4, [gb.Dense(3, init=own)])
    gb.save(path, net)
    np.testing.assert_array_equal(gb.load(path).parameters, net.parameters)


def test_an_own_activation_is_refused_when_saving_not_when_loading(path):
    disguised = Activation("tanh", "", None, None)
    with pytest.raises(ModelFileError, match=r"Dense\(3, 'tanh'\): its activation is a function of your own"):
        gb.save(path, gb.Network(4, [gb.Dense(3, disguised)]))
    assert not path.exists()


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_save_takes_an_older_files_place(path, whole):
    gb.save(str(path), small(seed=1))
    assert path.read_bytes() != whole
    assert gb.load(str(path)).seed == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_an_interrupted_save_leaves_the_older_file_and_nothing_else(path, whole, monkeypatch, call, error):
    def interrupted(*arguments):
        raise error

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises((ModelFileError, KeyboardInterrupt)) as caught:
        gb.save(path, small(seed=1))
    if isinstance(error, OSError):
        assert caught.match("cannot save the network as .*: No space left on device; give")
    assert path.read_bytes() == whole
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_network_gives_the_same_bytes(path, dtype):
    net = small(dtype=dtype)
    net.classes = ["a", "b"]
    gb.save(path, net)
    first = path.read_bytes()
    for _ in range(5):
        gb.save(path, gb.load(path))
        assert path.read_bytes() == first
    assert len(first) <= saving.file_size(net)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_save_keeps_the_permissions(path, whole):
    path.chmod(0o600)
    gb.save(path, small(seed=1))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links need rights there")
def test_a_link_is_written_through(path, whole):
    link = path.with_name("latest")
    link.symlink_to(path)
    gb.save(link, small(seed=1))
    assert link.is_symlink()
    assert gb.load(path).seed == 1


def test_where_no_file_can_be_written(tmp_path, path):
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path, tmp_path / "gone" / "model", tmp_path / "file" / "model", tmp_path / ("x" * 300)):
        with pytest.raises(ModelFileError, match=r"cannot save the network as .*; give the name of a file in a folder"):
            gb.save(bad, small())
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_header_that_load_would_refuse_is_not_written(path, monkeypatch):
    monkeypatch.setattr(model_file, "HEADER_LIMIT", 300)
    with pytest.raises(ModelFileError, match="more layers or members"):
        gb.save(path, small())
    assert not path.exists()


# Reading --------------------------------------------------------------------------------------------------------------


def test_a_path_without_a_file(tmp_path):
    with pytest.raises(ModelFileError, match="No such file or directory; give the path of a file"):
        gb.load(tmp_path / "gone")
    with pytest.raises(ModelFileError, match="it is a folder; give the path of a file"):
        gb.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes there")
def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="not a regular file"):
        gb.load(path)


def test_a_mistake_in_the_device_is_not_the_files(whole, path):
    with pytest.raises(InputError, match="device must be"):
        gb.load(path, device="gpu")


@pytest.mark.parametrize("data", [b"PK\x03\x04" * 9, b"import os\n" * 9, b"\x80\x05pickled" * 9, b"\xff" * 8 + b"{}"])
def test_files_of_another_kind(path, data):
    refused(path, data, "it is not a safetensors file; give the path of a file that gpu_backprop.save wrote")


def test_a_header_too_long_to_be_ours(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", model_file.HEADER_LIMIT + 1) + b"{")
        file.truncate(model_file.HEADER_LIMIT + 100)  # no more on the disk than a few bytes
    with pytest.raises(ModelFileError, match="not a safetensors file"):
        gb.load(path)


def test_a_file_that_was_cut_off_anywhere(whole, path):
    for length in {*range(60), *range(0, len(whole), 37), len(whole) - 1}:
        refused(path, whole[:length], "it is cut off")


def test_another_programs_file(path):
    refused(path, bytes_of({"w": np.ones(3)}), "safetensors file, but of another program")
    refused(path, bytes_of({"w": np.ones(3)}, {"format": "pt"}), "safetensors file, but of another program")


@pytest.mark.parametrize("version", ["2", "0", "1.0", "", "x" * 999])
def test_a_newer_format(whole, path, version):
    refused(path, resealed(whole, format=version), f"it has format {version[:20]}, and .* understands format 1; inst")


def test_a_newer_format_may_look_quite_different(path):
    refused(path, bytes_of({"all": np.ones(3)}, {"program": "gpu_backprop", "format": "3"}), "it has format 3")


def test_resealing_alone_changes_nothing(whole, path):
    path.write_bytes(resealed(whole))
    np.testing.assert_array_equal(gb.load(path).parameters, small().parameters)


def test_altered_numbers(whole, path):
    refused(path, whole[:-1] + bytes([whole[-1] ^ 1]), "altered or damaged after it was written: its SHA-256 is not")


def test_an_altered_architecture(whole, path):
    refused(path, whole.replace(b"tanh", b"relu", 1), "SHA-256 is not right")
    refused(path, resealed(whole, sha256=None), "SHA-256 is not right")


def test_any_flipped_bit(whole, path):
    generator = random.Random(0)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            again = gb.load(path, device="cpu")
        except ModelFileError:
            continue
        # only a bit that means nothing may pass, such as a space of the header turned into another one
        np.testing.assert_array_equal(again.parameters, small().parameters)
        assert again.architecture() == small().architecture()


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda a: a.update(inputs=5), r"as layers.0.weight .* calls for F32 \[5, 5\], and it holds F32 \[4, 5\]"),
        (lambda a: a.update(inputs=10**15), "it holds"),
        (lambda a: a.update(dtype="float64"), r"calls for F64 \[4, 5\]"),
        (lambda a: a.update(dtype="float128"), "unknown dtype 'float128'"),
        (lambda a: a.update(seed=[0, 1]), r"calls for F32 \[2, 4, 5\]"),
        (lambda a: a["layers"][0].update(bias=False), "as layers.0.bias its architecture calls for nothing"),
        (lambda a: a["layers"][2].update(bias=True), "as layers.2.bias .* it holds nothing"),
        (lambda a: a["layers"][0].update(units=10**12), "it holds"),
        (lambda a: a["layers"][0].update(units=0), "units must be an integer"),
        (lambda a: a["layers"][0].update(units="5"), "units must be an integer"),
        (lambda a: a["layers"][0].update(activation="tnah"), "unknown activation 'tnah'"),
        (lambda a: a["layers"][0].update(activation=["tanh"]), "activation must be"),
        (lambda a: a["layers"][0].update(init="glorot"), "unknown initializer"),
        (lambda a: a["layers"][0].update(momentum=1), "momentum"),
        (lambda a: a["layers"][0].update(trainable=0), "trainable must be True or False"),
        (lambda a: a["layers"][0].update(learning_rate_factor=-1), "learning_rate_factor must be 0 or a number"),
        (lambda a: a["layers"][0].update(weight_decay_factor={"w": 1}), "weight_decay_factor has no 'w'"),
        (lambda a: a["layers"][1].update(trainable=False), "trainable"),
        (lambda a: a["layers"][1].update(rate=1.5), "rate"),
        (lambda a: a["layers"][1].update(rate=[0.5, 0.5]), "dropout rate must be one number"),
        (lambda a: a["layers"][1].update(rate=[]), "dropout rate must be one number"),
        (lambda a: a["layers"][1].update(kind="attention"), "unknown layer kind 'attention'"),
        (lambda a: a["layers"][1].update(kind=[]), "can build"),
        (lambda a: a["layers"].append({"kind": "dropout", "rate": 0.1}), r"as random .*U64 \[4, 3\]"),
        (lambda a: a.update(layers=a["layers"] * 30000), "it holds"),
        (lambda a: a.pop("seed"), "seed"),
        (lambda a: a.update(seed=-1), "seed must be"),
        (lambda a: a.update(seed="x" * 10**5), "seed must be"),
    ],
)  # fmt: skip
def test_an_architecture_that_does_not_fit(whole, path, edit, match):
    refused(path, resealed(whole, edit), match)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "1" * 5000, "[" * 10**5, '{"inputs": NaN}', "\x00", '{"layers": {}}']
)
def test_an_architecture_that_is_none(whole, path, text):
    refused(path, resealed(whole, architecture=text or " "), "its architecture is not one that .* can build")


JUNK = [None, True, -1, 0, 2.5, 1e308, 10**30, "", "x", [], [1], {}, {"name": "constant", "value": "x"}, {"": []}]


def test_junk_anywhere_in_an_architecture(whole, path):
    original = small().architecture()
    places = [(original, key) for key in original]
    places += [(original["layers"], k) for k in range(3)]
    places += [(layer, key) for layer in original["layers"] for key in [*layer, "more"]]
    for holder, key in places:
        missing = isinstance(holder, dict) and key not in holder
        kept = None if missing else holder[key]
        for junk in JUNK:
            holder[key] = junk
            path.write_bytes(resealed(whole, architecture=json.dumps(original)))
            try:
                again = gb.load(path, device="cpu")
            except ModelFileError:
                continue
            np.testing.assert_array_equal(again.parameters, small().parameters)
        if missing:
            del holder[key]
        else:
            holder[key] = kept


def test_a_file_cannot_ask_for_more_memory_than_it_brings(path):
    """Ten layers of 10¹⁰ parameters in a file of a kilobyte: refused before anything of the kind is allocated."""
    layer = {"kind": "dense", "units": 10**5, "activation": "relu", "bias": False, "init": "zeros"}
    text = json.dumps({"inputs": 10**5, "layers": [layer] * 10, "dtype": "float32", "seed": 0})
    tensors = {"random": np.zeros((10, 3), np.uint64)}
    sha256 = model_file.digest(text, tensors, {})
    metadata = {"program": "gpu_backprop", "format": "1", "architecture": text, "sha256": sha256}
    refused(path, bytes_of(tensors, metadata), r"calls for F32 \[100000, 100000\], and it holds nothing")


def stated(units: int, path, extra: int = 0, sha256: str = "0" * 64) -> int:
    """Writes a file of a single layer whose numbers are a hole; the bytes that it says it has."""
    layer = {"kind": "dense", "units": units, "activation": "relu", "bias": False, "init": "zeros"}
    text = json.dumps({"inputs": units, "layers": [layer], "dtype": "float32", "seed": 0})
    end = 24 + 4 * units * units
    header = {
        "__metadata__": {"program": "gpu_backprop", "format": "1", "architecture": text, "sha256": sha256},
        "random": {"dtype": "U64", "shape": [1, 3], "data_offsets": [0, 24]},
        "layers.0.weight": {"dtype": "F32", "shape": [units, units], "data_offsets": [24, end]},
    }
    start = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(start)) + start)
        file.truncate(8 + len(start) + end + extra)
    return end


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="holes cannot be found there")
@pytest.mark.parametrize("units", [15_000, 30_000])
def test_a_file_of_holes_is_refused_before_anything_is_allocated(path, monkeypatch, units):
    """A few kilobytes that read as gigabytes of zeros."""
    stated(units, path)
    if path.stat().st_blocks * 512 > 10**8:
        pytest.skip("this file system has no holes")
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(
        ModelFileError, match=r"it takes 2?[0-9],?[0-9,]+ bytes unpacked, many times the size of the fi"
    ):
        gb.load(path, device="cpu")
    with pytest.raises(ModelFileError, match="more than the limit of 1,000,000,000; use a part of it, or allow more"):
        gb.load(path, device="cpu", memory_limit="1GB")


def test_a_model_larger_than_the_limit(path):
    """Its numbers, and the parameters and gradients of the network that is built."""
    net = gb.Network(100, [gb.Dense(1000)])
    gb.save(path, net)
    size = path.stat().st_size
    with pytest.raises(
        ModelFileError, match=r"cannot load .*: it takes [0-9,]+ bytes unpacked, more than the limit of"
    ):
        gb.load(path, device="cpu", memory_limit=3 * size - 100_000)
    assert gb.load(path, device="cpu", memory_limit=3 * size + 100_000).outputs == 1000
    with pytest.raises(ModelFileError, match="more than the limit of"):
        gb.load(path, device="cpu", dtype="float64", memory_limit=3 * size + 100_000)


def test_loading_takes_what_is_counted_and_draws_nothing(path, monkeypatch):
    """To draw weights that are overwritten at once took more memory than all the rest, and for some much time."""
    gb.save(path, gb.Network(1000, [gb.Dense(1000, init="orthogonal")], device="cpu"))

    def drawn(*arguments):
        raise AssertionError

    monkeypatch.setattr(Initializer, "fill", drawn)
    tracemalloc.start()
    try:
        gb.load(path, device="cpu")
        assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size + 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("left", [0, 400_000, 4_000_000])
def test_a_file_that_is_cut_off_while_it_is_read(path, monkeypatch, left):
    """Of a file that is mapped, this would end the process, with no word of what happened."""
    gb.save(path, gb.Network(1000, [gb.Dense(1000, init="zeros")]))
    read = model_file.fill

    def cut_off(file, array):
        os.truncate(path, left)
        return read(file, array)

    monkeypatch.setattr(model_file, "fill", cut_off)
    monkeypatch.setattr(mmap, "mmap", None)
    with pytest.raises(ModelFileError, match="it was cut off while it was read; copy it again"):
        gb.load(path, device="cpu")


def edited(whole: bytes, edit) -> bytes:
    """A good file with a changed header."""
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    changed = edit(header)
    header = header if changed is None else changed
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda h: h["random"].update(data_offsets=[0, 8]), "lies in another place than belongs to it"),
        (lambda h: h["random"].update(data_offsets=[-72, 0]), "lies in another place"),
        (lambda h: h["random"].update(data_offsets=None), "lies in another place"),
        (lambda h: h["random"].update(data_offsets=[[], {}]), "lies in another place"),
        (lambda h: h["random"].update(data_offsets="0,72"), "lies in another place"),
        (lambda h: h["random"].update(data_offsets=h["layers.0.bias"]["data_offsets"]), "lies in another place"),
        (lambda h: h["random"].pop("data_offsets") and None, "lies in another place"),
        (lambda h: h["random"].update(shape="[3, 3]"), "as random its architecture calls for U64"),
        (lambda h: h["random"].update(shape=[3, 3.5]), "as random its architecture calls for U64"),
        (lambda h: h["random"].pop("dtype") and None, "as random its architecture calls for U64"),
        (lambda h: h["random"].update(dtype=[]), "as random its architecture calls for U64"),
        (lambda h: h.update(random=[1]), "cut off or damaged .its header: an entry is no object"),
        (lambda h: h.update(random=None), "cut off or damaged .its header: an entry is no object"),
        (lambda h: h.update(__metadata__=[]), "cut off or damaged .its header: an entry is no object"),
        (lambda h: h["__metadata__"].update(more=3), "its metadata are not all text"),
        (lambda h: h["__metadata__"].update(sha256="\ud800"), "SHA-256 is not right"),
        (lambda h: h["__metadata__"].update(architecture="\ud800"), "its architecture is not one that"),
        (lambda h: {"deep": json.loads("[" * 900 + "]" * 900)}, "cut off or damaged .its header"),
    ],
)
def test_a_header_that_is_none_of_the_format(whole, path, edit, match):
    refused(path, edited(whole, edit), match)


def test_what_lies_behind_the_tensors(whole, path):
    refused(path, whole + b"x", r"cut off or damaged \(its tensors have \d+ bytes, and \d+ follow the header\)")


def test_a_tensor_too_many(whole, path):
    tensors = tensors_of(whole) | {"optimizer.m": np.ones(3, np.float32)}
    header = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])["__metadata__"]
    refused(path, bytes_of(tensors, header), "as optimizer.m its architecture calls for nothing, and it holds F32")


# What a network knows of its data -------------------------------------------------------------------------------------


def table(rows: int = 6) -> Table:
    """A number and a text, which make three inputs, and whether an answer is yes or no."""
    colours, answers = np.empty(rows, object), np.empty(rows, object)
    colours[:] = (["red", None, "grün"] * rows)[:rows]
    answers[:] = (["no", "yes"] * rows)[:rows]
    return Table("t.csv", {"v": np.arange(float(rows)) ** 2, "colour": colours, "answer": answers})


def knowing() -> gb.Network:
    net = small()
    net.preprocessing = Preprocessing.fit(table(), "answer", impute="mean")
    net.classes = net.preprocessing.classes
    return net


@pytest.fixture
def taught(path) -> bytes:
    gb.save(path, knowing())
    return path.read_bytes()


def test_preprocessing_and_classes_come_back(path, taught):
    again = gb.load(path)
    assert again.classes == ["no", "yes"]
    assert again.preprocessing.to_dict() == knowing().preprocessing.to_dict()
    np.testing.assert_array_equal(again.preprocessing.transform(table()), knowing().preprocessing.transform(table()))
    gb.save(path, again)
    assert metadata_of(path.read_bytes()) == metadata_of(taught)


def test_one_without_the_other(path):
    net = small()
    net.classes = (3, 7)
    gb.save(path, net)
    assert (gb.load(path).classes, gb.load(path).preprocessing) == ([3, 7], None)
    net = knowing()
    net.classes = None
    gb.save(path, net)
    assert gb.load(path).classes is None
    assert gb.load(path).preprocessing.classes == ["no", "yes"]


def test_a_network_that_knows_nothing_is_saved_as_before(whole, path):
    assert set(metadata_of(whole)) == {"program", "format", "architecture", "sha256"}
    again = gb.load(path)
    assert again.preprocessing is None and again.classes is None and again.trained_by is None


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("preprocessing", {"format": 1}, "net.preprocessing is of type dict, not a Preprocessing"),
        (
            "preprocessing",
            Preprocessing.fit(Arrays("x", np.eye(3), np.arange(3))),
            "makes 3 numbers of a row, and .* 4",
        ),
        ("classes", ["a"], "there are 1 classes, and the network has 2 outputs"),
        ("classes", ["a", "b", "c"], "there are 3 classes, and the network has 2 outputs"),
        ("classes", ["a", "a"], "the classes name one twice"),
        ("classes", ["a", 1], "the classes are not a list of text, or of whole numbers"),
        ("classes", [1.0, 2.0], "the classes are not a list of text, or of whole numbers"),
        ("classes", [True, False], "the classes are not a list of text, or of whole numbers"),
        ("classes", "ab", "the classes are not a list of text, or of whole numbers"),
        ("classes", [], "the classes are not a list of text, or of whole numbers"),
        ("trained_by", "adam", "the training is not a dict of text, numbers, lists and such dicts: 'adam'"),
        ("trained_by", {"loss": {"delta": np.inf}}, "the training is not a dict of text.*"),
        ("trained_by", {"loss": print}, "the training is not a dict of text.*"),
        ("trained_by", {1: 2}, "the training is not a dict of text.*"),
        ("trained_by", {"rates": (1, 2)}, "the training is not a dict of text.*"),
        ("intervals", [0.1, 0.2], "net.intervals is of type list, not Intervals"),
        ("intervals", gb.Intervals.fit(np.ones((3, 1))), "the intervals are of 1 output, and the network has 2"),
    ],
)
def test_what_does_not_fit_the_network_is_not_saved(path, name, value, match):
    net = small()
    setattr(net, name, value)
    with pytest.raises(ModelFileError, match=f"cannot save the network: .*{match}; correct net.preprocessing, net.cl"):
        gb.save(path, net)
    assert not path.exists()


@pytest.mark.parametrize(
    "given", [np.unique([7, 3]), list(np.unique([7, 3])), np.array(["a", "b"]), tuple(np.array(["a", "b"]))], ids=str
)
def test_classes_may_be_numpys(path, given):
    net = gb.Network(2, [gb.Dense(2, "softmax")])
    net.classes = given
    gb.save(path, net)
    assert gb.load(path).classes == [name.item() for name in given]
    assert {type(name) for name in gb.load(path).classes} <= {int, str}


def test_one_output_has_two_classes(path):
    net = gb.Network(4, [gb.Dense(1, "sigmoid")])
    net.classes = ["no", "yes"]
    gb.save(path, net)
    assert gb.load(path).classes == ["no", "yes"]


def test_altered_names(taught, path):
    refused(path, taught.replace(b"yes", b"yet"), "SHA-256 is not right")
    refused(
        path, resealed(taught, sha256=metadata_of(resealed(taught, classes=None))["sha256"]), "SHA-256 is not right"
    )


def test_any_flipped_bit_of_what_was_learned(taught, path):
    generator = random.Random(1)
    for position in range(8 + struct.unpack("<Q", taught[:8])[0]):
        flipped = bytearray(taught)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            again = gb.load(path, device="cpu")
        except ModelFileError:
            continue
        assert again.preprocessing.to_dict() == knowing().preprocessing.to_dict()
        assert again.classes == ["no", "yes"]


JSON_JUNK = [
    "",
    "{",
    "null",
    "[]",
    "{}",
    "NaN",
    "[NaN]",
    '"x"',
    "7",
    "[1, 1]",
    '["a"]',
    "[[]]",
    "[" * 10**5,
    "1" * 5000,
]


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("text", JSON_JUNK, ids=lambda text: text[:9])
def test_junk_in_their_place(taught, path, name, text):
    if (name, text) in (("classes", "null"), ("trained_by", "{}")):
        path.write_bytes(resealed(taught, **{name: text}))
        assert not getattr(gb.load(path), name)
        return
    refused(path, resealed(taught, **{name: text or " "}), "what it says about its data or training cannot be used")


def test_junk_anywhere_in_a_preprocessing(taught, path):
    """Whatever stands there, it is refused, or can be used."""
    original = json.loads(metadata_of(taught)["preprocessing"])

    def places(within):
        for key in within if isinstance(within, dict) else range(len(within)):
            yield within, key
            if isinstance(within[key], (dict, list)):
                yield from places(within[key])

    for holder, key in list(places(original)):
        kept = holder[key]
        for junk in [*JUNK, 1e309, [None], {"format": 1}]:
            holder[key] = junk
            path.write_bytes(resealed(taught, preprocessing=json.dumps(original)))
            try:
                again = gb.load(path, device="cpu").preprocessing
            except ModelFileError:
                continue
            assert again.inputs == 4
            try:
                assert np.isfinite(again.transform(table())).all()
            except DataError:  # such as a missing value, when no imputation is left
                continue
        holder[key] = kept


def test_intervals_come_back(path):
    net = small()
    net.intervals = gb.Intervals.fit(np.random.default_rng(0).normal(size=(5000, 2)))
    gb.save(path, net)
    again = gb.load(path)
    assert again.intervals.rows == 5000 and again.intervals.residuals.shape == (2, 1000)
    np.testing.assert_array_equal(again.intervals.residuals, net.intervals.residuals)
    for one in (again, net.copy(), pickle.loads(pickle.dumps(net))):
        for end, expected in zip(one.predict_interval(X), net.predict_interval(X), strict=True):
            np.testing.assert_array_equal(end, expected)


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": 4}, {"rows": -1}, {"rows": 1e309}, {"rows": True}, {"residuals": []}, {"residuals": [[1, 0, 2]] * 2},
        {"residuals": [[-1, 0, 2]] * 2}, {"residuals": [[0, 1, 1e999]] * 2}, {"residuals": [[0, 1, 10**400]] * 2},
        {"residuals": [[0, 1, "a"]] * 2}, {"residuals": [[0, 1], [0]]}, {"residuals": [[0, 1, 2]]}, {"residuals": None},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_intervals(path, damage):
    net = small()
    net.intervals = gb.Intervals.fit(np.arange(6).reshape(3, 2))
    gb.save(path, net)
    whole = path.read_bytes()
    good = json.loads(metadata_of(whole)["intervals"])
    changed = json.dumps(good | damage)
    refused(path, resealed(whole, intervals=changed), "what it says about its data or training cannot be used")


def test_a_preprocessing_of_another_network(taught, path):
    other = json.dumps(Preprocessing.fit(Arrays("x", np.eye(3), np.arange(3))).to_dict())
    refused(path, resealed(taught, preprocessing=other), "makes 3 numbers of a row, and the network takes 4")


def test_more_than_a_header_holds(path, monkeypatch):
    monkeypatch.setattr(model_file, "HEADER_LIMIT", 1000)
    gb.save(path, small())
    with pytest.raises(ModelFileError, match="more layers or members, features or categories, than"):
        gb.save(path, knowing())
    assert gb.load(path).preprocessing is None


# What trained it ------------------------------------------------------------------------------------------------------


def trained(net=None, **settings) -> gb.Trainer:
    trainer = gb.Trainer(small() if net is None else net, **settings)
    trainer.fit(X, np.zeros((3, 2)), 2, progress=False)
    return trainer


def test_a_trainer_is_named(path):
    trainer = trained(loss=gb.Huber(0.5, reduction="sum"), optimizer=gb.RMSprop(0.01, decay=0.5))
    gb.save(path, trainer)
    again = gb.load(path)
    assert again.trained_by == {
        "optimizer": {"name": "rmsprop", "settings": {"learning_rate": 0.01, "decay": 0.5, "epsilon": 1e-8}},
        "loss": {"name": "huber", "settings": {"reduction": "sum", "delta": 0.5}},
        "epochs": 2,
    }
    np.testing.assert_array_equal(again.parameters, trainer.network.parameters)
    assert trainer.network.trained_by is None
    assert path.stat().st_size <= saving.file_size(trainer.network)
    whole = path.read_bytes()
    for twin in (again, again.copy(), copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        gb.save(path, twin)
        assert path.read_bytes() == whole
    gb.save(path, trained(again, optimizer="adam"))
    assert gb.load(path).trained_by["optimizer"]["name"] == "adam" and again.trained_by is None


@pytest.mark.parametrize("name", gb.OPTIMIZERS)
def test_every_optimizer_is_named(path, name):
    trainer = trained(small(seed=[1, 2]), optimizer=gb.OPTIMIZERS[name]())
    trainer.optimizer.learning_rate = np.array([0.25, 0.5])
    gb.save(path, trainer)
    settings = gb.load(path).trained_by["optimizer"]["settings"]
    assert {"name": name, **settings} == trainer.optimizer.describe() and settings["learning_rate"] == [0.25, 0.5]


def test_an_own_optimizer_is_named_as_data(path):
    trainer = trained()
    settings = {"learning_rate": np.float32(0.5), "betas": (0.5, np.arange(2)), "cautious": True}
    vars(trainer)["optimizer"] = SimpleNamespace(describe=lambda: {"name": "lion", **settings})
    gb.save(path, trainer)
    plain = {"learning_rate": 0.5, "betas": [0.5, [0, 1]], "cautious": True}
    assert gb.load(path).trained_by["optimizer"] == {"name": "lion", "settings": plain}
    settings["schedule"] = print
    with pytest.raises(ModelFileError, match="the training is not a dict of text"):
        gb.save(path, trainer)


def test_what_is_no_network_is_not_saved(path):
    with pytest.raises(InputError, match="net must be a gpu_backprop.Network, or its Trainer, got str"):
        gb.save(path, "model")


@pytest.mark.parametrize("text", ['{"epochs": 1e999}', '{"a": NaN}', '{"a": ' * 10**5, '{"a": "b"'])
def test_a_training_that_is_no_plain_data(path, text):
    gb.save(path, trained())
    altered = resealed(path.read_bytes(), trained_by=text)
    refused(path, altered, "what it says about its data or training cannot be used")


def test_an_altered_training(path):
    gb.save(path, trained())
    refused(path, path.read_bytes().replace(b"adam", b"adaM"), "SHA-256 is not right")


# NaN and infinity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number(value, path):
    """It is not saved unless that was asked for, and an older file stays; who loads it is told."""
    net = small()
    gb.save(path, net)
    before = path.read_bytes()
    net.layers[0].bias[1] = value
    with pytest.raises(ModelFileError, match=r"1 parameter is NaN or infinite, first in layers\.0\.bias.*allow_nonf"):
        gb.save(path, net)
    assert path.read_bytes() == before
    gb.save(path, net, allow_nonfinite=True)
    with pytest.warns(RuntimeWarning, match=r"model\.safetensors: 1 parameter is NaN or infinite") as caught:
        again = gb.load(path)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(again.parameters, net.parameters)


@pytest.mark.parametrize(
    ("learned", "classes", "match"),
    [
        ("answer", ["yes", "no"], r"makes the classes \['no', 'yes'\], and net\.classes are \['yes', 'no'\]"),
        ("answer", ["left", "right"], r"and net\.classes are \['left', 'right'\]"),
        ("v", ["no", "yes"], r"makes quantities, and net\.classes are \['no', 'yes'\]"),
    ],
)
def test_classes_that_contradict_the_preprocessing(learned, classes, match, path):
    """Each answer would be called by another's name."""
    task = "regression" if learned == "v" else "auto"
    learned = Preprocessing.fit(table(), learned, impute="mean", task=task)
    net = gb.Network(learned.inputs, [gb.Dense(2, "softmax")])
    net.preprocessing, net.classes = learned, classes
    with pytest.raises(ModelFileError, match=match):
        gb.save(path, net)
    assert not path.exists()
