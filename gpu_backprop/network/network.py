"""Network: layers in a row, over one flat buffer of parameters and one of gradients."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.out_of_memory import release_on_oom
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.display.html import cell_output
from gpu_backprop.network.arrays import as_array, check_features, check_real, fill
from gpu_backprop.network.intervals import Intervals
from gpu_backprop.network.labels import class_of
from gpu_backprop.network.layer import Changes, Layer
from gpu_backprop.network.layers import LAYERS, Dense, Dropout, layer_from
from gpu_backprop.network.numbers import positive, scalar, switch
from gpu_backprop.network.parameters import FlatBuffers, group_factors
from gpu_backprop.network.reader import ExclusiveChange, Reader
from gpu_backprop.network.summary import network_html, network_text


class Network(FixedAttributes):
    """A multi-layer perceptron.

    Args:
        inputs: how many numbers a sample has.
        layers: Dense, Bias, Scale, Dropout and Periodic; the network works on copies of them, `net.layers`, whose
            `rate`, `trainable` and factors may be set.
        dtype: "float32", or "float64" for checking; "float16" and "bfloat16" on CUDA only, where parameters, gradients
            and the optimizer's moments stay float32, and only what products read and activations are is 16-bit.
            bfloat16 takes compute capability 8.0.
        device: "auto", "cpu", "cuda" or "cuda:N"; `net.device.reason` says why.
        tf32: True allows float32 products to round their operands to TF32, which has the range of float32 and, as
            float16, 10 bits of mantissa: faster, on CUDA devices of compute capability 8.0 or newer. cuBLAS decides by
            the shape which products it rounds: small ones may stay float32, and as fast. Nothing else changes, and a
            model file does not say it.
        seed: ≥ 0, the one seed of initial weights, shuffling and dropout. A sequence of seeds makes as many members,
            which train side by side: every array then has a leading models axis.
        draw: False leaves every parameter 0, which saves time and memory where their values are copied in.

    Attributes:
        parameters, gradients: flat, (parameters,), on the device; each layer's weight, bias, grad_weight and grad_bias
            are views of them. Every one begins at a multiple of 256 bytes; what lies between is 0.
        layers, inputs, outputs, dtype, device, seed: as given; tf32 is `device.tf32`.
        models_shape: () or (models,), the shape in front of every array.
        preprocessing: what turns rows of data into x, a `gpu_backprop.data.Preprocessing`, or None.
        classes: the name of the class that each output stands for, text or whole numbers, or None. A fit on labels that
            are text learns them, and `predict_labels` gives them. `save` and `load` keep both, so that a model file is
            enough to make sense of new data. Labels that are numbers are those of outputs, whatever `classes` are.
        trained_by: name and settings of the optimizer and of the loss that trained it, the epochs and the best one,
            where it was loaded from what `save(path, trainer)` wrote; else None. It is plain data, which may say more.
        averaged: whether `predict`, and what measures it, give the mean of the members' outputs, and no longer those of
            each member. May be set where there is a models axis; `save` and `load` keep it.
        intervals: what `predict_interval` adds to predictions, a `gpu_backprop.Intervals`, in the units of the data; or
            None. Kept in the file too.

    Raises:
        InputError, DeviceError: an argument is not what is accepted; the message says what is.
    """

    settable = "preprocessing", "classes", "trained_by", "intervals"
    instead: ClassVar[Mapping[str, str]] = {"dtype": "net.copy(dtype=...)"}

    def __init__(
        self, inputs: int, layers: Sequence[Layer], *, dtype: str = "float32", device: str = "auto",
        tf32: bool = False, seed: int | Sequence[int] = 0, draw: bool = True,
    ) -> None:  # fmt: skip
        self.inputs = positive("inputs", inputs)
        self.seed = _seed(seed)
        self.models_shape = () if isinstance(self.seed, int) else (len(self.seed),)
        self.layers = self._attach(layers)
        self._plan_key: tuple[int, tuple[Hashable, ...]] = -1, ()
        self.outputs = self.last.units
        self.device = open_device(device, dtype, tf32)
        self.dtype = self.device.dtype
        buffers = FlatBuffers(self.layers, self.models_shape, self.device)
        self.places, self.half_parameters, self._copying = buffers.places, buffers.half_parameters, buffers.copying
        self._parameters, self._gradients = buffers.parameters, buffers.gradients
        if draw:
            buffers.draw(self._seeds)
        self._prepare_layers()
        self.preprocessing: Any = None
        self.classes: Sequence[str | int] | None = None
        self.trained_by: dict[str, Any] | None = None
        self._averaged = False
        self.intervals: Intervals | None = None
        self._idle: list[Reader] = []  # readers that no call uses at the moment
        self._of_thread = threading.local()  # the reader with which a thread calls forward and backward
        self.exclusively = ExclusiveChange()

    @property
    def averaged(self) -> bool:
        """Whether `predict` gives the mean of the members' outputs."""
        return self._averaged

    @averaged.setter
    def averaged(self, value: bool) -> None:
        if switch("averaged", value) and not self.models_shape:
            raise InputError("averaged is for a network with a models axis, and this is one network without.")
        self._averaged = bool(value)

    @property
    def last(self) -> Layer:
        return self.layers[-1]

    @property
    def _seeds(self) -> list[int]:
        """The seed of each member."""
        return [self.seed] if isinstance(self.seed, int) else self.seed

    # Construction -----------------------------------------------------------------------------------------------------

    def _attach(self, layers: Sequence[Layer]) -> list[Layer]:
        if isinstance(layers, Layer) or not isinstance(layers, Sequence) or not layers:
            accepted = "a list of at least one layer, such as [Dense(10, 'softmax')]"
            raise InputError(f"layers must be {accepted}, got {layers!r}.")
        attached, units, self._changes = [], self.inputs, Changes()
        for number, layer in enumerate(layers, 1):
            if not isinstance(layer, Layer):
                got = f"the class {layer.__name__}" if isinstance(layer, type) else f"{type(layer).__name__} {layer!r}"
                known = ", ".join(kind.__name__ for kind in LAYERS.values())
                raise InputError(f"layer {number} must be one of {known}, got {got}.")
            layer = copy.copy(layer)
            layer.attach(number, units, self.models_shape)
            layer.changes = self._changes
            units = layer.units
            attached.append(layer)
        return attached

    def _prepare_layers(self) -> None:
        """Gives each layer its own stream of random numbers for dropout, its rates, and the bound of its norms."""
        words = np.array([[[seed, layer.number, 0] for layer in self.layers] for seed in self._seeds], np.uint64)
        self.random = self.device.from_host(words.reshape(*self.models_shape, len(self.layers), 3))
        self.dropout_rates = self.device.zeros((*self.models_shape, len(self.layers), 2), np.float64)
        self.unscheduled = self.device.zeros((*self.models_shape, len(self.layers)), np.float64)  # the rates as set
        norms = self.device.zeros((len(self.layers), *self.models_shape), np.float64)
        for k, layer in enumerate(self.layers):
            layer.device, layer.random = self.device, self.random[..., k, :]
            layer.dropout_rates, layer.unscheduled = self.dropout_rates[..., k, :], self.unscheduled[..., k]
            layer.norm_limit = norms[k, ...]
            if isinstance(layer, Dropout):
                layer.rate = layer.rate
            if isinstance(layer, Dense):
                layer.max_norm = layer.max_norm
            layer.close()

    @explain_arguments
    def reseed(self, seed: int | None) -> list[int]:
        """Gives dropout another seed and a new beginning; None leaves it as it is. Returns the seed of each member."""
        if seed is None:
            return self._seeds
        words = self.device.to_host(self.random)
        words[..., 0], words[..., 2] = one_seed(seed), 0
        self.device.copy_in(self.random, words)
        return [one_seed(seed)] * len(self._seeds)

    def refresh(self) -> None:
        """Copies the parameters of a 16-bit network to the buffer that products read. Whatever runs a plan calls this
        first; a step's optimizer writes both."""
        if self._copying:
            with self.device.computing():
                for call in self._copying:
                    call()

    @property
    def parameters(self) -> Array:
        """All parameters, flat, with zeros between the arrays, since each begins at a multiple of 256 bytes: so there
        are more numbers than `summary` counts parameters. Assigning copies the values in."""
        return self._parameters

    @parameters.setter
    def parameters(self, values: Any) -> None:
        fill(self._parameters, values, "parameters", self.device)

    @property
    def gradients(self) -> Array:
        """All gradients, flat, in the layout of the parameters. Assigning copies the values in. After a trainer's step
        in float16 they have the factor S by which it scales the loss."""
        return self._gradients

    @gradients.setter
    def gradients(self, values: Any) -> None:
        fill(self._gradients, values, "gradients", self.device)

    def parameter_arrays(self) -> Iterator[tuple[str, Array, Array]]:
        """Yields (name, parameters, gradients) of each parameter array, named as it is reached: "layers[0].weight"."""
        for layer, name, _, _ in self.places:
            yield f"layers[{layer.number - 1}].{name}", getattr(layer, name), getattr(layer, f"grad_{name}")

    # What is trained, and how fast ------------------------------------------------------------------------------------

    @property
    def plan_key(self) -> tuple[Hashable, ...]:
        """All settings of the layers that decide what a plan is made of: where they change, plans are built anew."""
        changes, (known, key) = self._changes.count, self._plan_key
        if changes != known:
            key = tuple([layer.plan_key for layer in self.layers])
            self._plan_key = changes, key
        return key

    def group_factors(self, penalized: bool = False) -> Array | None:
        """Returns what `parameters.group_factors` makes of the layers as they are set now."""
        return group_factors(self.places, self._parameters.shape[-1], self.device, penalized)

    def check_trainable(self) -> None:
        """Raises InputError where there are parameters and none of them is trainable."""
        if self.places and not any(layer.trainable for layer, _, _, _ in self.places):
            raise InputError(
                "no layer is trainable, so that a step would change nothing: set trainable=True on one of them, such "
                f"as net.layers[{self.places[-1][0].number - 1}].trainable = True."
            )

    # Back-propagation, as operations of a plan ------------------------------------------------------------------------

    def emit_parameters(self, plan: Plan) -> None:
        """Tells the plan the names of the network's own buffers."""
        plan.named("parameters", self._parameters)
        plan.named("gradients", self._gradients)
        plan.named("random", self.random)
        if self.half_parameters is not None:
            plan.named(f"parameters ({self.dtype.name})", self.half_parameters)
        for layer, name, _, _ in self.places:
            symbol = layer.symbol(name)
            plan.named(symbol, layer.product_weight if name == "weight" else getattr(layer, name))
            plan.named("∇" + symbol, getattr(layer, f"grad_{name}"))
        for layer in self.layers:
            assert layer.random is not None and layer.dropout_rates is not None
            plan.named(f"random{layer.number}", layer.random)
            plan.named(f"rates{layer.number}", layer.dropout_rates)

    def emit_forward(self, plan: Plan, x: Array, upto: str = "y") -> Array:
        """The loop l = 1 … L of N2. upto="z" stops before the last activation, which a loss may fuse."""
        for layer in self.layers[:-1]:
            x = layer.forward(plan, x)
        return self.last.linear(plan, x) if upto == "z" else self.last.forward(plan, x)

    def emit_backward(self, plan: Plan, grad: Array, start: str = "y", grad_x: bool = False) -> Array | None:
        """The loop l = L … 1 of N2, from ∇y or, with start="z", from ∇z of the last layer. Returns ∂E/∂x if asked."""
        flowing: Array | None = grad
        for layer in reversed(self.layers):
            assert flowing is not None
            below = self.layers[: layer.number - 1]
            needed = grad_x or any(one.trainable and one.parameter_shapes() for one in below)
            if layer is self.last and start == "z":
                flowing = layer.linear_backward(plan, flowing, needed)
            else:
                flowing = layer.backward(plan, flowing, needed)
            if not needed:
                break
        return flowing if grad_x else None

    def emit_max_norms(self, plan: Plan) -> None:
        """Bounds the weights of each unit, where a layer says so; where plan.gradient_factor is 0, nothing changes."""
        for layer in self.layers:
            layer.limit_norms(plan)

    def random_step(self, plan: Plan) -> Array | None:
        """Returns dropout's step, counted so that the next one draws other masks; None: there is no dropout."""
        if not plan.training or not any(isinstance(layer, Dropout) for layer in self.layers):
            return None
        return plan.named("random step", self.random[..., 2])

    def emit_next_masks(self, plan: Plan) -> None:
        """Counts dropout's step, where nothing else is counted."""
        step = self.random_step(plan)
        if step is not None:
            plan.add(Operations.advance, "random step += 1", {}, None, 0, None, step)

    # Back-propagation, called by hand ---------------------------------------------------------------------------------

    @release_on_oom
    def forward(self, x: Any, training: bool = False) -> Array:
        """Computes y of x, and keeps what backward needs.

        Args:
            x: (batch, inputs), or (models, batch, inputs) where there is a models axis: NumPy, CuPy, or with DLPack.
            training: whether dropout is active.

        Returns:
            (batch, outputs), a new array on the device.

        Raises:
            InputError: x does not fit.
        """
        x = check_features(x, self.inputs, self.device, (), self.models_shape)
        self.refresh()
        reader: Reader = getattr(self._of_thread, "reader", None) or Reader(self)
        self._of_thread.reader = reader
        reader.forward = None  # until this one is complete
        eager = reader.plan(self, x.shape[-2], training)
        if training:
            with self.exclusively("forward"):  # which counts dropout's steps
                eager.forward(x)
        else:
            eager.forward(x)
        reader.forward = eager
        return self.device.copy(eager.y)

    @release_on_oom
    def backward(self, grad_y: Any) -> Array:
        """Fills `gradients`, summed over the batch of this thread's last forward, for any scalar E of which grad_y is
        ∂E/∂y (N3); those of a layer that is not trainable stay 0.

        Args:
            grad_y: ∂E/∂y, (batch, outputs).

        Returns:
            ∂E/∂x, (batch, inputs), a new array on the device.

        Raises:
            StateError: forward was not called before, by this thread, or other settings of a layer were made since; or
                the network is being trained.
        """
        reader: Reader | None = getattr(self._of_thread, "reader", None)
        if reader is None or reader.forward is None:
            raise StateError("backward needs the values of a forward pass: call net.forward(x) first, in this thread.")
        eager = reader.forward
        if eager.key != self.plan_key:
            raise StateError(
                "a layer's trainable, one of its factors, or whether it drops anything has been set since forward: "
                "call net.forward(x) again."
            )
        grad_y = as_array(grad_y, "grad_y", self.device)
        if grad_y.shape != eager.y.shape:
            raise InputError(f"grad_y must have the shape of y, {eager.y.shape}, got {grad_y.shape}.")
        grad_y = check_real(grad_y, "grad_y")
        with self.exclusively("backward"):
            try:
                return eager.backward(self, grad_y)
            except BaseException:
                del self._of_thread.reader  # its plan may be half built
                raise

    @release_on_oom
    def predict(self, x: Any, batch_size: int = 1024) -> Array:
        """Computes y of x without dropout, as a NumPy array; float32 where the network's dtype has 16 bits. Any number
        of threads may call it at once, also while another one trains the network.

        Args:
            x: (rows, inputs), as an array or a sparse matrix of scipy; any number of rows, also none.
            batch_size: how many rows are computed at once.

        Returns:
            (rows, outputs), of an `averaged` network the mean of its members; or (models, rows, outputs), where there
            is a models axis: x may then have it too.

        Raises:
            InputError: x does not fit.
        """
        return self._predict(x, batch_size, self._averaged)

    @release_on_oom
    def predict_members(self, x: Any, batch_size: int = 1024) -> Array:
        """Does what `predict` does for each member, also where the network is `averaged`.

        Args:
            x, batch_size: as of `Network.predict`.

        Returns:
            (models, rows, outputs).
        """
        return self._predict(x, batch_size, False)

    def _predict(self, x: Any, batch_size: int, averaged: bool) -> Array:
        batch_size = positive("batch_size", batch_size)
        models_shape = () if averaged else self.models_shape
        x = check_features(x, self.inputs, self.device, (), models_shape, empty=True)
        self.refresh()
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = Reader(self)
        y = reader.predict(self, x, batch_size, averaged)
        self._idle.append(reader)  # not after an error, which may leave it half way
        return y

    @explain_arguments
    def predict_labels(self, x: Any, batch_size: int = 1024) -> Array:
        """Predicts the class of each row: that of the largest output of a softmax; or of one sigmoid output, the second
        class from ½ on.

        Args:
            x, batch_size: as `predict` takes them.

        Returns:
            Names out of `classes`, an array of str or int, or where there are none the numbers of the outputs, int64:
            (rows,), or (models, rows) where `predict` gives (models, rows, outputs).

        Raises:
            StateError: the network ends otherwise, and its outputs do not tell one class.
            InputError: `classes` are not as many as the classes.
        """
        return class_of(self.predict(x, batch_size), self.last, self.classes)

    @explain_arguments
    def predict_interval(self, x: Any, coverage: float = 0.9, batch_size: int = 1024) -> tuple[Array, Array]:
        """Predicts between which two numbers the target of each row is, in the units of the data: those of
        `preprocessing.inverse(predict(x))`, where there is a preprocessing, else of `predict(x)`, which lies in the
        middle. For rows like those that `intervals` was made of, it is there with the probability `coverage` or more,
        of each output by itself.

        Args:
            x, batch_size: as `predict` takes them.
            coverage: between 0 and 1.

        Returns:
            The low ends and the high ends, each float64 (rows, outputs).

        Raises:
            StateError: the network has no intervals.
            InputError: the coverage is no such number, or more than so few rows can promise.
        """
        if self.intervals is None:
            raise StateError(
                "the network has no intervals: fit it with gpu_backprop.ConformalIntervals() among the callbacks, or "
                "set net.intervals = gpu_backprop.Intervals.fit(residuals)."
            )
        width = self.intervals.half_widths(coverage)
        y = self.predict(x, batch_size)
        middle = y.astype(np.float64) if self.preprocessing is None else self.preprocessing.inverse(y)
        return middle - width, middle + width

    @explain_arguments
    def copy(self, dtype: str | None = None) -> Network:
        """Makes a copy with the same weights, the same dropout masks to come, and all that it knows of its data
        and training.

        Args:
            dtype: another working dtype, then without TF32; None: the same.
        """
        tf32 = dtype is None and self.device.tf32
        dtype = self.dtype.name if dtype is None else dtype
        device, seed = self.device.name, self.seed
        twin = Network(self.inputs, self.layers, dtype=dtype, device=device, tf32=tf32, seed=seed, draw=False)
        for (_, to, _), (_, of, _) in zip(twin.parameter_arrays(), self.parameter_arrays(), strict=True):
            twin.device.copy_in(to, of)
        twin.device.copy_in(twin.random, self.random)
        twin.preprocessing, twin.classes, twin.trained_by, twin.averaged, twin.intervals = copy.deepcopy(self._known)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns settings and host arrays for pickle, and so for joblib and multiprocessing."""
        form = {"dtype": self.dtype.name, "device": self.device.name, "tf32": self.device.tf32, "seed": self.seed}
        arrays = self.device.to_host(self._parameters), self.device.to_host(self.random)
        return _rebuild, (self.inputs, self.layers, form, arrays, self._known)

    @property
    def _known(self) -> tuple[Any, ...]:
        return self.preprocessing, self.classes, self.trained_by, self.averaged, self.intervals

    # Description ------------------------------------------------------------------------------------------------------

    def architecture(self) -> dict[str, Any]:
        """Describes the network without its weights as plain data, from which `from_architecture` makes it again."""
        layers = [dict(layer.describe()) for layer in self.layers]
        return {"inputs": self.inputs, "layers": layers, "dtype": self.dtype.name, "seed": self.seed}

    @classmethod
    def from_architecture(
        cls, description: Mapping[str, Any], device: str = "auto", tf32: bool = False, draw: bool = True
    ) -> Network:
        """Makes the network of a description that `architecture` gave, with the weights of its seed, or zeros with
        draw=False; device and tf32 are as `Network` takes them."""
        try:
            inputs, layers = description["inputs"], [layer_from(layer) for layer in description["layers"]]
            dtype, seed = description["dtype"], description["seed"]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            needed = "a network needs inputs, layers, dtype and seed"
            raise InputError(f"{needed}, got {description!r} ({error}).") from None
        return cls(inputs, layers, dtype=dtype, device=device, tf32=tf32, seed=seed, draw=draw)

    def summary(self) -> None:
        """Prints layers, shapes and parameters, and how `parameters` holds them."""
        print(self)
        print(f"net.parameters has the shape {self._parameters.shape}: zeros fill the space between the arrays")

    def __str__(self) -> str:
        return network_text(self)

    def _repr_html_(self) -> str:
        return cell_output(network_html(self))

    def __repr__(self) -> str:
        tf32 = "tf32=True, " if self.device.tf32 else ""
        where = f"dtype={self.dtype.name!r}, device={self.device.name!r}, {tf32}seed={self.seed!r}"
        return f"Network({self.inputs}, {self.layers!r}, {where})"


def _rebuild(
    inputs: int, layers: Sequence[Layer], form: Mapping[str, Any], arrays: tuple[Array, Array], known: tuple[Any, ...]
) -> Network:
    """Makes the network again of what `Network.__reduce__` gave."""
    net = Network(inputs, layers, draw=False, **form)
    for to, of in zip((net.parameters, net.random), arrays, strict=True):
        net.device.copy_in(to, of)
    net.preprocessing, net.classes, net.trained_by, net.averaged, net.intervals = known
    return net


def _seed(seed: Any) -> int | list[int]:
    if isinstance(seed, (list, tuple, range)) or (isinstance(seed, np.ndarray) and seed.ndim):
        if len(seed) == 0:
            raise InputError("seed is an empty list: a network needs at least one member.")
        return [one_seed(s) for s in seed]
    return one_seed(seed, ", or a list of them")


def one_seed(seed: Any, more: str = "") -> int:
    """Checks one seed; `more`: what else may be given in its place."""
    plain = scalar(seed)
    if isinstance(plain, bool) or not isinstance(plain, int) or not 0 <= plain < 2**64:
        raise InputError(f"seed must be an integer from 0 to 2**64 − 1{more}, got {seed!r}.")
    return plain
