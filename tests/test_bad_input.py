"""Bad input: the message says what was given, what is accepted and what to do, and nothing has happened.

One test, or one row of one, for each mistake; the details of each check are tested beside the code that makes it."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

import gpu_backprop as gb

ROWS, INPUTS, CLASSES = 12, 4, 3
STREAM = np.random.default_rng(1)
X = STREAM.normal(size=(ROWS, INPUTS))
LABELS = np.arange(ROWS) % CLASSES
Y = STREAM.normal(size=(ROWS, 2))


def changed(array, value, *where, dtype=None):
    array = np.array(array, dtype)
    array[where] = value
    return array


class Bench:
    """A trainer that has learned a little, and how it goes on if nothing comes in between."""

    def __init__(self, layers, y):
        self.y = y
        self.trainer, self.twin = (self._made(layers) for _ in range(2))
        self.network = self.trainer.network

    def _made(self, layers):
        trainer = gb.Trainer(gb.Network(INPUTS, layers), batch_size=5)
        trainer.fit(X, self.y, 1, progress=False)
        return trainer

    def nothing_has_happened(self):
        assert self.trainer.history["loss"] == self.twin.history["loss"] and self.trainer.history.stopped is None
        for trainer in (self.trainer, self.twin):
            trainer.step(X, self.y)
            trainer.fit(X, self.y, 2, progress=False)
        np.testing.assert_array_equal(self.network.parameters, self.twin.network.parameters)
        np.testing.assert_array_equal(self.network.random, self.twin.network.random)
        assert self.trainer.history["loss"] == self.twin.history["loss"]


@pytest.fixture
def classes():
    return Bench([gb.Dropout(0.2), gb.Dense(CLASSES, "softmax")], LABELS)


@pytest.fixture
def numbers():
    return Bench([gb.Dropout(0.2), gb.Dense(2)], Y)


def refused(call, *parts, error=gb.InputError):
    """The call is refused, and its message has all these parts, in this order."""
    with pytest.raises(error) as caught:
        call()
    message, start = str(caught.value), 0
    for part in parts:
        found = message.find(part, start)
        assert found >= 0, f"{part!r} is not in its place in {message!r}"
        start = found + len(part)
    assert message[0] not in " ." and "\n" not in message
    return message


# x, y and weights, for each of the calls that take them ---------------------------------------------------------------

TRAINING = {
    "fit": lambda trainer, *data: trainer.fit(*data[:2], 1, weights=data[2] if data[2:] else None, progress=False),
    "evaluate": lambda trainer, *data: trainer.evaluate(*data),
    "validation": lambda trainer, *data: trainer.fit(X, trainer_y(trainer), 1, validation=data, progress=False),
}
STEPPING = {
    "step": lambda trainer, *data: trainer.step(*data),
    "trace": lambda trainer, *data: trainer.trace(*data),
}
EVERY = TRAINING | STEPPING

every_call = pytest.mark.parametrize("call", EVERY.values(), ids=EVERY)
every_call_that_looks_at_values = pytest.mark.parametrize("call", TRAINING.values(), ids=TRAINING)


def trainer_y(trainer):
    return LABELS if trainer.loss.labels else Y


@every_call
def test_wrong_feature_count(classes, call):
    parts = "x has 3 features", "inputs=4", "Give 4 columns, or make a Network(3, ...)"
    refused(lambda: call(classes.trainer, X[:, :3], LABELS), *parts)
    classes.nothing_has_happened()


@pytest.mark.parametrize("call", [gb.Network.forward, gb.Network.predict])
def test_wrong_feature_count_without_a_trainer(classes, call):
    parts = "x has 5 features", "inputs=4", "Give 4 columns, or make a Network(5, ...)"
    refused(lambda: call(classes.network, np.zeros((2, 5))), *parts)
    classes.nothing_has_happened()


@every_call
def test_one_dimensional_x(classes, call):
    parts = "x must have the axes (rows, inputs)", "got the shape (4,)", "One sample is x[None, :], of shape (1, 4)"
    refused(lambda: call(classes.trainer, X[0], LABELS[:1]), *parts)
    refused(lambda: classes.network.forward(X[0]), *parts)
    refused(lambda: classes.network.predict(X[0]), *parts)
    classes.nothing_has_happened()


@every_call
def test_empty_data(classes, call):
    refused(lambda: call(classes.trainer, X[:0], LABELS[:0]), "x is empty", "(0, 4)", "at least one row is needed")
    refused(lambda: call(classes.trainer, [], []), "x must have the axes (rows, inputs)", "got the shape (0,)")
    refused(lambda: classes.network.forward(X[:0]), "x is empty", "(0, 4)", "at least one row is needed")
    classes.nothing_has_happened()


@every_call
def test_x_and_y_of_different_length(classes, numbers, call):
    for bench, y in ((classes, LABELS[:9]), (numbers, Y[:9]), (numbers, np.vstack([Y, Y]))):
        parts = "y must have one target for each row of x", f"y of shape {y.shape}", "x of shape (12, 4)"
        refused(lambda b=bench, y=y: call(b.trainer, X, y), *parts)
        bench.nothing_has_happened()


@every_call_that_looks_at_values
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_in_x(classes, call, bad):
    x = changed(X, bad, [3, 7, 7], [2, 0, 1])
    parts = f"3 values are NaN or infinite in x, the first one ({bad}) at row 3, column 2", "Remove or replace them"
    refused(lambda: call(classes.trainer, x, LABELS), *parts)
    classes.nothing_has_happened()


@every_call_that_looks_at_values
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_in_y(numbers, call, bad):
    parts = f"1 value is NaN or infinite in y, the first one ({bad}) at row 5, column 1", "Remove or replace"
    refused(lambda: call(numbers.trainer, X, changed(Y, bad, 5, 1)), *parts)
    numbers.nothing_has_happened()


@every_call_that_looks_at_values
def test_numbers_too_large_for_the_dtype(numbers, call):
    parts = "1 value is too large for float32 in x", "(1e+39) at row 2, column 1", "Scale them", "dtype='float64'"
    refused(lambda: call(numbers.trainer, changed(X, 1e39, 2, 1), Y), *parts)
    numbers.nothing_has_happened()


@every_call_that_looks_at_values
@pytest.mark.parametrize("bad", [3, -1, 100])
def test_labels_out_of_range(classes, call, bad):
    parts = (
        "labels must be from 0 to 2",
        "because the network has 3 outputs",
        f"there is {bad} at row 7 (1 such in all)",
    )
    refused(lambda: call(classes.trainer, X, changed(LABELS, bad, 7)), *parts)
    classes.nothing_has_happened()


@every_call_that_looks_at_values
def test_fractional_labels(classes, call):
    parts = "labels must be whole numbers", "there is 0.5 at row 7"
    refused(lambda: call(classes.trainer, X, changed(LABELS, 0.5, 7, dtype=float)), *parts)
    classes.nothing_has_happened()


@pytest.mark.parametrize("call", STEPPING.values(), ids=STEPPING)
def test_labels_of_a_step_are_integers(classes, call):
    parts = "labels must be integers", "got dtype float64", "use y.astype(int)"
    refused(lambda: call(classes.trainer, X, LABELS + 0.5), *parts)
    classes.nothing_has_happened()


@every_call
@pytest.mark.parametrize("width", [1, 3])
def test_targets_of_the_wrong_width(numbers, call, width):
    parts = "y must be (12, 2) for a network with 2 outputs", f"got (12, {width})", "Give one column for each output"
    refused(lambda: call(numbers.trainer, X, np.ones((ROWS, width))), *parts)
    numbers.nothing_has_happened()


@every_call
def test_labels_for_a_loss_that_takes_numbers(numbers, call):
    parts = "y must be (12, 2)", "2 outputs", "got (12,)", "Class labels become targets by gpu_backprop.one_hot(y, 2)"
    refused(lambda: call(numbers.trainer, X, LABELS), *parts)
    numbers.nothing_has_happened()


@every_call_that_looks_at_values
def test_negative_weights(classes, call):
    weights = changed(np.ones(ROWS), [-1, -0.5], [2, 5])
    parts = "weights must be ≥ 0", "there is -1.0 at row 2 (2 such in all)"
    refused(lambda: call(classes.trainer, X, LABELS, weights), *parts)
    classes.nothing_has_happened()


@every_call_that_looks_at_values
def test_nan_weights(classes, call):
    parts = "1 value is NaN or infinite in weights, the first one (nan) at row 2", "Remove or replace them"
    refused(lambda: call(classes.trainer, X, LABELS, changed(np.ones(ROWS), np.nan, 2)), *parts)
    classes.nothing_has_happened()


@every_call
@pytest.mark.parametrize("weights", [np.ones(9), np.ones((ROWS, 1)), 2.0])
def test_weights_that_are_not_one_a_row(classes, call, weights):
    parts = "weights must be one number a row, of shape (12,)", f"got the shape {np.shape(weights)}"
    refused(lambda: call(classes.trainer, X, LABELS, weights), *parts)
    classes.nothing_has_happened()


@every_call
@pytest.mark.parametrize("x", [[["a"] * INPUTS] * ROWS, None, X * 1j], ids=["text", "None", "complex"])
def test_what_are_no_numbers(classes, call, x):
    parts = "x must hold real numbers (floats, integers or booleans)", f"got dtype {np.asarray(x).dtype}"
    refused(lambda: call(classes.trainer, x, LABELS), *parts)
    classes.nothing_has_happened()


def test_validation_data_are_named_as_such(classes):
    def fit(validation):
        return classes.trainer.fit(X, LABELS, 1, validation=validation, progress=False)

    refused(lambda: fit((X[:, :3], LABELS)), "validation data: x has 3 features")
    refused(lambda: fit(X), "validation must be (x, y) or (x, y, weights)", "got ndarray")
    refused(lambda: fit((X,)), "validation must be (x, y) or (x, y, weights)", "got tuple")
    classes.nothing_has_happened()


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "nearest", "known", "call"),
    [
        ("activation", "tahn", "tanh", gb.ACTIVATIONS, lambda name: gb.Dense(3, name)),
        ("activation", "ReLU", "relu", gb.ACTIVATIONS, gb.Bias),
        ("loss", "cross-entropy", "cross_entropy", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("optimizer", "adamm", "adam", gb.OPTIMIZERS, lambda name: gb.Trainer(NET, optimizer=name)),
        ("initializer", "he_norml", "he_normal", gb.INITIALIZERS, lambda name: gb.Dense(3, init=name)),
        ("loss", "mse", "mean_squared_error", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("loss", "MSELoss", "mean_squared_error", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("loss", "mae", "absolute_error", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("loss", "BCEWithLogitsLoss", "binary_cross_entropy", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("loss", "nll_loss", "cross_entropy", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("loss", "logits", "cross_entropy", gb.LOSSES, lambda name: gb.Trainer(NET, name)),
        ("activation", "swish", "silu", gb.ACTIVATIONS, gb.Bias),
        ("activation", "linear", "identity", gb.ACTIVATIONS, gb.Bias),
        ("activation", "none", "identity", gb.ACTIVATIONS, gb.Bias),
        ("optimizer", "rms_prop", "rmsprop", gb.OPTIMIZERS, lambda name: gb.Trainer(NET, optimizer=name)),
        ("optimizer", "SGD", "sgd", gb.OPTIMIZERS, lambda name: gb.Trainer(NET, optimizer=name)),
        ("initializer", "Xavier", "glorot_uniform", gb.INITIALIZERS, lambda name: gb.Dense(3, init=name)),
        ("initializer", "kaiming_normal_", "he_normal", gb.INITIALIZERS, lambda name: gb.Dense(3, init=name)),
    ],
)
def test_unknown_names_list_the_known_and_the_nearest(kind, given, nearest, known, call):
    message = refused(lambda: call(given), f"unknown {kind} {given!r}", f"Did you mean {nearest!r}?", "Known: ")
    assert message.endswith(f"Known: {', '.join(known)}.")
    message = refused(lambda: call("zzzzzz"), f"unknown {kind} 'zzzzzz'. Known: ")
    assert message.endswith(f"Known: {', '.join(known)}.")


def test_a_message_cannot_command_a_terminal(tmp_path):
    for call in (lambda name: gb.load(tmp_path / name), lambda name: gb.save(tmp_path / name / "x" / "y", NET)):
        with pytest.raises(gb.GpuBackpropError) as raised:
            call("no\x1b[31m\u202e\udcff")
        assert "no\\x1b[31m\\u202e\\udcff" in str(raised.value)


def test_none_is_no_activation():
    refused(lambda: gb.Dense(3, None), "activation must be a name", "'identity' changes nothing")


NET = gb.Network(INPUTS, [gb.Dense(CLASSES, "softmax")])


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: gb.Dense(3, None), ("activation must be a name or an Activation", "got NoneType None")),
        (lambda: gb.Dense(3, np.tanh), ("activation must be a name or an Activation", "got ufunc")),
        (lambda: gb.Trainer(NET, gb.Huber), ("loss must be an object", "got the class Huber", "write Huber()")),
        (lambda: gb.Trainer(NET, np.square), ("loss must be a name or a Loss", "got ufunc")),
        (lambda: gb.Trainer(NET, optimizer=gb.SGD), ("optimizer must be an object", "class SGD", "write SGD()")),
        (lambda: gb.Trainer(NET, optimizer=None), ("optimizer must be a name or an Optimizer", "got NoneType None")),
        (lambda: gb.Trainer(NET.layers), ("network must be a gpu_backprop.Network", "got list")),
        (
            lambda: gb.Trainer(gb.Network(INPUTS, [gb.Dense(CLASSES)]), "cross_entropy"),
            ("cross_entropy needs an output activation out of softmax", "has identity", "Use activation='softmax'"),
        ),
    ],
)
def test_what_is_no_name(call, parts):
    refused(call, *parts)


# Numbers of things ----------------------------------------------------------------------------------------------------

NO_COUNTS = [0, -1, 2.5, 32.0, "32", None, True, np.nan, [5]]


@pytest.mark.parametrize("value", NO_COUNTS)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("batch_size", lambda value: gb.Trainer(NET, batch_size=value)),
        ("batch_size", lambda value: NET.predict(X, value)),
        ("units", gb.Dense),
        ("inputs", lambda value: gb.Network(value, [gb.Dense(3)])),
    ],
    ids=["batch size", "batch size of predict", "units", "inputs"],
)
def test_counts_are_integers_from_one_on(name, call, value):
    message = refused(lambda: call(value), f"{name} must be an integer ≥ 1, got {value!r}.")
    assert ("Did you mean 32?" in message) == (value == 32.0)


@pytest.mark.parametrize("value", NO_COUNTS)
def test_epochs(classes, value):
    refused(lambda: classes.trainer.fit(X, LABELS, value), f"epochs must be an integer ≥ 1, got {value!r}.")
    classes.nothing_has_happened()


def test_counts_may_be_integers_of_numpy():
    assert gb.Trainer(NET, batch_size=np.int64(5)).batch_size == 5
    assert gb.Dense(np.uint8(3)).outputs == 3


def test_a_learning_rate_may_be_a_number_of_numpy():
    for value in (np.float32(0.5), np.array(0.5)):
        assert gb.SGD(value).learning_rate == 0.5


NO_RATES = [0, 0.0, -0.1, np.nan, np.inf, -np.inf, "0.1", None, True]


@pytest.mark.parametrize("value", NO_RATES)
@pytest.mark.parametrize("optimizer", [gb.SGD, gb.RMSprop, gb.Adagrad, gb.Adam, gb.AdamW])
def test_learning_rate(optimizer, value):
    parts = f"learning_rate of {optimizer.__name__} must be a finite number > 0", f"got {value!r}"
    refused(lambda: optimizer(value), *parts)
    refused(lambda: optimizer(learning_rate=value), *parts)


@pytest.mark.parametrize("value", NO_RATES)
def test_learning_rate_of_a_trainer_at_work(classes, value):
    def assign():
        classes.trainer.optimizer.learning_rate = value

    refused(assign, "learning_rate of Adam must be a finite number > 0", f"got {value!r}")
    assert classes.trainer.optimizer.learning_rate == 0.001
    classes.nothing_has_happened()


@pytest.mark.parametrize("value", [1, 1.5, -0.1, np.nan, np.inf, "half", None, True])
def test_dropout_rate(value):
    refused(
        lambda: gb.Dropout(value), f"dropout rate must be a number in [0, 1), got {value!r}", "share of the numbers"
    )


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, "0", None, True, np.array(3.5), np.True_])
def test_seed(classes, value):
    parts = "seed must be an integer from 0 to 2**64 − 1"
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], seed=value), f"{parts}, or a list of them, got {value!r}")
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], seed=[0, value]), f"{parts}, got {value!r}")
    if value is not None:  # which is the network's
        refused(lambda: gb.Trainer(classes.network, seed=value), f"{parts}, got {value!r}")
    refused(lambda: gb.Trainer(classes.network, seed=[1, 2]), f"{parts}, got [1, 2]")
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], seed=[]), "seed is an empty list", "at least one member")
    classes.nothing_has_happened()


@pytest.mark.parametrize(
    ("layers", "parts"),
    [
        ([], ("layers must be a list of at least one layer", "such as [Dense(10, 'softmax')]", "got []")),
        (gb.Dense(3), ("layers must be a list of at least one layer", "got Dense(3, 'identity')")),
        ([gb.Dense(3), "relu"], ("layer 2 must be one of Dense, Bias, ", "got str 'relu'")),
        ([gb.Dense], ("layer 1 must be one of Dense, Bias, ", "got the class Dense")),
    ],
)
def test_layers(layers, parts):
    refused(lambda: gb.Network(INPUTS, layers), *parts)


# Dtypes and devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["flaot32", "int32", "complex64", None, 32])
def test_unknown_dtype(dtype):
    parts = "dtype must be one of float32, float64, float16, bfloat16", f"got {dtype!r}"
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], dtype=dtype), *parts)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_that_is_not_for_a_cpu(dtype):
    parts = f"dtype {dtype} is for CUDA devices only", "this device is the CPU", "Use float32 or float64"
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], dtype=dtype, device="cpu"), *parts)


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:-1", None, 0])
def test_unknown_device(device):
    parts = "device must be 'auto', 'cpu', 'cuda' or 'cuda:N'", f"got {device!r}"
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], device=device), *parts)


def test_device_that_is_not_there():
    """No machine has so many."""
    parts = "device 'cuda:4096' cannot be used: ", "Use device='cpu', or 'auto'"
    refused(lambda: gb.Network(INPUTS, [gb.Dense(3)], device="cuda:4096"), *parts, error=gb.DeviceError)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["missing/history.csv", "."])
def test_a_history_that_cannot_be_written_is_found_before_training(classes, tmp_path, where):
    path = tmp_path / where
    parts = f"cannot write {str(path)!r}: ", "give a path in a folder that exists and can be written"
    refused(lambda: classes.trainer.fit(X, LABELS, 1, csv=path, progress=False), *parts)
    classes.nothing_has_happened()


def test_a_model_that_cannot_be_written(classes, tmp_path):
    path = tmp_path / "missing" / "model.safetensors"
    parts = f"cannot save the network as {path}: ", "give the name of a file in a folder that can be written"
    refused(lambda: gb.save(path, classes.network), *parts, error=gb.ModelFileError)
    assert not any(tmp_path.iterdir())
    classes.nothing_has_happened()


def test_save_takes_the_path_first(classes, tmp_path):
    path = tmp_path / "model.safetensors"
    parts = "net must be a gpu_backprop.Network", f"got {type(path).__name__}", "save(path, net)"
    refused(lambda: gb.save(classes.network, path), *parts)


GIVE, AGAIN = "give the path of a file that gpu_backprop.save wrote", "copy it again, or save the network again"
OTHER = safetensors_bytes({"weight": np.zeros(3, np.float32)}, {"format": "pt"})

DAMAGE = {
    "of another program": (lambda whole: OTHER, "of another program", GIVE),
    "no safetensors at all": (lambda whole: b"PK\3\4 and so on", "not a safetensors file", GIVE),
    "truncated": (lambda whole: whole[:-5], "cut off", AGAIN),
    "empty": (lambda whole: b"", "cut off after 0 bytes", AGAIN),
    "altered": (lambda whole: whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], "altered or damaged", AGAIN),
    "of a newer version": (
        lambda whole: whole.replace(b'"format":"1"', b'"format":"2"'),
        *("format 2", "understands format 1", "install a newer one"),
    ),
}


@pytest.mark.parametrize(("damage", "parts"), [(row[0], row[1:]) for row in DAMAGE.values()], ids=DAMAGE)
def test_model_files(tmp_path, damage, parts):
    path = tmp_path / "model.safetensors"
    gb.save(path, NET)
    data = damage(path.read_bytes())
    path.write_bytes(data)
    refused(lambda: gb.load(path), f"cannot load {path}: ", *parts, error=gb.ModelFileError)
    assert path.read_bytes() == data


def test_a_model_file_that_is_not_there(tmp_path):
    path = tmp_path / "model.safetensors"
    parts = f"cannot load {path}: ", "give the path of a file that gpu_backprop.save wrote"
    refused(lambda: gb.load(path), *parts, error=gb.ModelFileError)


# Forward and backward by hand -----------------------------------------------------------------------------------------


def test_backward_before_forward(classes):
    parts = "backward needs the values of a forward pass", "call net.forward(x) first"
    refused(lambda: classes.network.backward(np.ones((2, 3))), *parts, error=gb.StateError)
    classes.network.predict(X)  # keeps nothing
    refused(lambda: classes.network.backward(np.ones((2, 3))), *parts, error=gb.StateError)
    classes.nothing_has_happened()


@pytest.mark.parametrize("shape", [(ROWS, 2), (ROWS - 1, CLASSES), (CLASSES,), (), (1, ROWS, CLASSES)])
def test_grad_y_of_the_wrong_shape(classes, shape):
    classes.network.forward(X)
    gradients = classes.network.gradients.copy()
    parts = "grad_y must have the shape of y, (12, 3)", f"got {shape}"
    refused(lambda: classes.network.backward(np.ones(shape)), *parts)
    np.testing.assert_array_equal(classes.network.gradients, gradients)
    classes.network.backward(np.ones((ROWS, CLASSES)))
    classes.nothing_has_happened()


@pytest.mark.parametrize("name", ["parameters", "gradients"])
def test_parameters_and_gradients_keep_their_shape(classes, name):
    length = len(classes.network.parameters)
    parts = f"{name} must have the shape ({length},)", "got (3,)"
    refused(lambda: setattr(classes.network, name, np.zeros(3)), *parts)
    refused(lambda: setattr(classes.network, name, ["a"] * length), f"{name} must hold real numbers", "got dtype <U1")
    classes.nothing_has_happened()
