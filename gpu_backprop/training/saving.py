"""Model files: safetensors, which is data and never code.

A file holds the parameters by name (`layers.0.weight`, `layers.0.bias` ...), the state of the dropout generator
(`random`), and in its metadata, as JSON, the architecture and, where the network knows them, the preprocessing of its
data, the names of its classes, what trained it and its prediction intervals, with a SHA-256 over all of it. Whoever
reads it trusts nothing: before a network is built, the tensors in the file are exactly those that the architecture
calls for, so that no file can ask for more memory than it brings along, nor for more than a limit, and the digest is
right.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gpu_backprop.backend.errors import InputError, ModelFileError, OutOfMemoryError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.data import DataError, Preprocessing, limits
from gpu_backprop.data.errors import MemoryLimitError
from gpu_backprop.data.messages import counted
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.intervals import Intervals
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import scalar
from gpu_backprop.training.description import describe_loss, describe_optimizer
from gpu_backprop.training.model_file import AGAIN, GIVE, read, write
from gpu_backprop.training.step import TrainingStep


@explain_arguments
def save(path: str | os.PathLike[str], net: Any, *, allow_nonfinite: bool = False) -> None:
    """Writes a network to a file in the safetensors format: architecture, parameters, the state of dropout, and
    `net.preprocessing`, `net.classes`, `net.trained_by` and `net.intervals` where they are set. The same network gives
    the same bytes.

    The file appears whole or not at all; whatever happens on the way, an older file at `path` stays as it was until
    the new one is safe on the disk. The new one has its permissions.

    Args:
        net: the network, or its trainer, which is then named in the file: as `net.trained_by`, `load` gives back name
            and settings of the optimizer and of the loss, how many epochs there were, with early stopping the best
            one, and with TemperatureScaling the temperature. Code is never in a file, nor is what training would go on
            from, such as an optimizer's moments: pickle has that.
        allow_nonfinite: whether parameters may be NaN or infinite; `load` then warns of them.

    Raises:
        ModelFileError: the file cannot be written there, or the network holds what no file can: an activation function
            of your own, a preprocessing or classes that do not fit it or each other, or a training that is not plain
            data; or a NaN or infinite parameter.
        InputError: `net` is neither a network nor a trainer.
    """
    training = None
    if isinstance(getattr(net, "training_step", None), TrainingStep):  # its trainer, which comes later than this module
        training, net = describe_training(net), net.network
    if not isinstance(net, Network):
        accepted = "a gpu_backprop.Network, or its Trainer"
        raise InputError(f"net must be {accepted}, got {type(net).__name__}: write save(path, net).")
    for layer in net.layers:
        f = layer.activation
        if not f.expression and ACTIVATIONS.get(f.name) != f:
            raise ModelFileError(
                f"cannot save {layer!r}: its activation is a function of your own, and a model file holds no code; "
                "make it with gpu_backprop.register_activation, of an expression, which is data, or save "
                "net.parameters as an array, and build the network again to load it."
            )
    architecture, learned = json.dumps(net.architecture()), _learned(net, training)
    tensors = {name: np.ascontiguousarray(net.device.to_host(array)) for name, array in _arrays(net)}
    if not allow_nonfinite and (found := _nonfinite(tensors)):
        raise ModelFileError(
            f"cannot save the network: {found}, so that it predicts nothing of use; train it again with a lower "
            "learning rate, or save it as it is with save(path, net, allow_nonfinite=True)."
        )
    try:
        write(path, architecture, tensors, learned)
    except OSError as error:
        raise ModelFileError(
            f"cannot save the network as {os.fspath(path)}: {error.strerror}; give the name of a file in a folder that "
            "can be written."
        ) from error


def file_size(net: Network) -> int:
    """Estimates how many bytes `save` writes, a little more than it does."""
    described = len(json.dumps(net.architecture())) + sum(map(len, _learned(net).values()))
    return int(net.parameters.nbytes + net.random.nbytes) + 2 * described + 1024 * (1 + len(net.layers))


@explain_arguments
def load(
    path: str | os.PathLike[str], device: str = "auto", dtype: str | None = None, tf32: bool = False,
    memory_limit: int | str | None = None,
) -> Network:  # fmt: skip
    """Reads a network that `save` wrote, on any device.

    Args:
        device: as `Network` takes it.
        dtype: another working dtype than it had: what was trained in bfloat16 on a GPU predicts on a CPU with
            dtype="float32". None: the same.
        tf32: as `Network` takes it; a file does not say.
        memory_limit: how much memory the file and the network may take, in bytes or as in "4GB"; None: half of the
            memory that this program may use, and no more than 200 times what the file takes on the disk, or 1 GiB.

    Raises:
        ModelFileError: there is no such file, or it is not such a file, whole and unaltered; the message says which.
        InputError, DeviceError: `device`, `dtype` or `tf32` is unknown, or cannot be used.
    """
    # a mistake in these arguments is not the file's
    on_host = open_device(device, "float32" if dtype is None else dtype, tf32).on_host
    with _refusing(path), limits.memory_limit(memory_limit):
        architecture, tensors, learned = read(Path(path), dtype, on_host)
    if dtype is None:
        try:
            open_device(device, architecture["dtype"])
        except InputError as error:
            raise InputError(
                f"cannot load {os.fspath(path)} as it was saved: {error} Its parameters are float32 all the same: "
                "gpu_backprop.load(path, dtype='float32') uses them on any device."
            ) from None
        open_device(device, architecture["dtype"], tf32)
    with _refusing(path):
        changed = {} if dtype is None else {"dtype": dtype}
        net = Network.from_architecture(architecture | changed, device=device, tf32=tf32, draw=False)
        _teach(net, learned)
    for name, array in _arrays(net):
        net.device.copy_in(array, tensors[name])
    if found := _nonfinite(tensors):
        warnings.warn(f"{os.fspath(path)}: {found}: the network predicts nothing of use.", RuntimeWarning, stacklevel=3)
    return net


def _nonfinite(tensors: Mapping[str, Array]) -> str:
    """Says how many parameters are NaN or infinite, and where the first of them are; nothing if none is."""
    with np.errstate(all="ignore"):  # a sum takes no memory; NaN and infinity stay in it
        suspects = {name: array for name, array in tensors.items() if not np.isfinite(array.sum(dtype=np.float64))}
    counts = {name: int(array.size - np.isfinite(array).sum()) for name, array in suspects.items()}
    wrong = [name for name, count in counts.items() if count]
    bad = counted(sum(counts.values()), "parameter is", "parameters are")
    return f"{bad} NaN or infinite, first in {wrong[0]}" if wrong else ""


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever a bad file brings about into a ModelFileError."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except OSError as error:
        raise _refusal(path, f"{error.strerror or error}; {GIVE}") from error
    except (ModelFileError, MemoryLimitError) as error:
        raise _refusal(path, str(error)) from error
    except MemoryError:
        raise _refusal(path, "it is too large for the memory of this machine") from None
    except (InputError, LookupError, TypeError, ValueError, RecursionError) as error:
        why = f"its architecture is not one that this version of gpu_backprop can build ({str(error)[:300]})"
        raise _refusal(path, f"{why}; {AGAIN}") from error


def _refusal(path: str | os.PathLike[str], why: str) -> ModelFileError:
    return ModelFileError(f"cannot load {os.fspath(path)}: {why}.")


def _arrays(net: Network) -> Iterator[tuple[str, Array]]:
    """Yields what a file holds of a network, by name: device arrays."""
    for place, layer in enumerate(net.layers):
        for name in layer.parameter_shapes():
            yield f"layers.{place}.{name}", getattr(layer, name)
    yield "random", net.random


# What the network knows of its data and training ----------------------------------------------------------------------


def describe_training(trainer: Any) -> dict[str, Any]:
    """Names what trained a network."""
    optimizer, loss = describe_optimizer(trainer.optimizer), describe_loss(trainer.loss)
    told = {name: value for name in ("best_epoch", "temperature") if (value := getattr(trainer.history, name))}
    return {"optimizer": optimizer, "loss": loss, "epochs": len(trainer.history)} | told


def _learned(net: Network, training: dict[str, Any] | None = None) -> dict[str, str]:
    """Writes preprocessing, classes and training as JSON, those that are set; a training that is given goes before the
    network's."""
    known: dict[str, Any] = {}
    try:
        if net.preprocessing is not None:
            if not isinstance(net.preprocessing, Preprocessing):
                raise DataError(f"net.preprocessing is of type {type(net.preprocessing).__name__}, not a Preprocessing")
            known["preprocessing"] = net.preprocessing.to_dict()
        if net.classes is not None:
            listed = isinstance(net.classes, (list, tuple, np.ndarray))
            known["classes"] = [scalar(name) for name in net.classes] if listed else net.classes
        _check_learned(net, known.get("classes"))
        if (training := net.trained_by if training is None else training) is not None:
            known["trained_by"] = _checked_training(training)
        if net.averaged:
            known["averaged"] = True
        if net.intervals is not None:
            known["intervals"] = _checked_intervals(net, net.intervals).to_dict()
        return {name: json.dumps(value, allow_nan=False) for name, value in known.items()}
    except (TypeError, ValueError) as error:
        wrong = "net.preprocessing, net.classes, net.trained_by or net.intervals"
        raise ModelFileError(f"cannot save the network: {error}; correct {wrong}.") from error


def _teach(net: Network, learned: Mapping[str, str]) -> None:
    """Gives a network the preprocessing, classes and training that `_learned` wrote."""
    try:
        known = {name: json.loads(text, parse_constant=_no_number) for name, text in learned.items()}
        if "preprocessing" in known:
            net.preprocessing = Preprocessing.from_dict(known["preprocessing"])
        net.classes = known.get("classes")
        _check_learned(net, net.classes)
        if "trained_by" in known:
            net.trained_by = _checked_training(known["trained_by"])
        net.averaged = known.get("averaged", False)
        if "intervals" in known:
            net.intervals = _checked_intervals(net, Intervals.from_dict(known["intervals"]))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"what it says about its data or training cannot be used ({str(error)[:300]}); {AGAIN}"
        ) from error


def _check_learned(net: Network, classes: Any) -> None:
    """Raises DataError unless preprocessing and classes fit the network."""
    if net.preprocessing is not None and net.preprocessing.inputs != net.inputs:
        made = net.preprocessing.inputs
        raise DataError(f"the preprocessing makes {made} numbers of a row, and the network takes {net.inputs}")
    if classes is None:
        return
    if not isinstance(classes, list) or {type(name) for name in classes} not in ({str}, {int}):
        raise DataError("the classes are not a list of text, or of whole numbers")
    if len(set(classes)) != len(classes):
        raise DataError("the classes name one twice")
    if net.preprocessing is not None and net.preprocessing.classes != classes:
        learned = net.preprocessing.classes
        made = "quantities" if learned is None else f"the classes {str(learned)[:100]}"
        raise DataError(f"the preprocessing makes {made}, and net.classes are {str(classes)[:100]}")
    if len(classes) != max(2, net.outputs):  # one output says yes or no
        raise DataError(f"there are {len(classes)} classes, and the network has {net.outputs} outputs")


def _checked_training(training: Any) -> dict[str, Any]:
    """Returns it; raises DataError unless it is a dict that JSON gives back as it is."""
    try:
        plain = isinstance(training, dict) and json.loads(json.dumps(training, allow_nan=False)) == training
    except (TypeError, ValueError, RecursionError):
        plain = False
    if not plain:
        raise DataError(f"the training is not a dict of text, numbers, lists and such dicts: {training!r:.100}")
    return dict(training)


def _checked_intervals(net: Network, intervals: Any) -> Intervals:
    """Returns them; raises DataError unless they fit the network."""
    if not isinstance(intervals, Intervals):
        raise DataError(f"net.intervals is of type {type(intervals).__name__}, not Intervals")
    if intervals.outputs != net.outputs:
        raise DataError(
            f"the intervals are of {counted(intervals.outputs, 'output')}, and the network has {net.outputs}"
        )
    return intervals


def _no_number(word: str) -> NoReturn:
    raise DataError(f"{word} is no number")
