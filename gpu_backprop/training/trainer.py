"""Trainer: a network, a loss and an optimizer; a step is a plan, and an epoch runs it for every minibatch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.open_device import open_dry_run
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.out_of_memory import release_on_oom
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.profile import Profile, profile
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.data.stored_rows import StoredRows
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import positive, switch
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.training import memory
from gpu_backprop.training.callbacks import Callbacks
from gpu_backprop.training.evaluation import Evaluation, held_out_samples
from gpu_backprop.training.history import CsvLog, History
from gpu_backprop.training.manual_steps import ManualSteps, StepLoss
from gpu_backprop.training.minibatches import BatchSource, ManualBatch
from gpu_backprop.training.one_launch import check as check_one_launch
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import optimizer as optimizer_of
from gpu_backprop.training.progress import Progress, open_progress
from gpu_backprop.training.run import Run, Settings
from gpu_backprop.training.step import State, TrainingStep
from gpu_backprop.training.streaming import given_rows, place_data
from gpu_backprop.training.unscaled import warn_of_unscaled


class Trainer(FixedAttributes):
    """Trains a network.

    Args:
        network: it is trained in place.
        loss: a name or a Loss; None chooses by the output activation: cross_entropy for softmax, binary_cross_entropy
            for sigmoid, half_squared_error for all others. The trainer works on a copy, `trainer.loss`, whose numbers
            can be set: `trainer.loss.delta = 0.5`.
        optimizer: a name or an Optimizer; the trainer works on a copy, `trainer.optimizer`.
        batch_size: rows of a minibatch, ≥ 1; more than there are make one minibatch of all.
        seed: of shuffling and dropout; None: the network's.
        graph: whether steps are captured as CUDA graphs, one for each number of rows, and replayed, which costs the
            host one launch. "auto": from the second step on, where it can be and a replay of that step gives the same,
            bit for bit; if not, one warning says why. True: from the first step on, and if not, an error. False: never.
            The logger "gpu_backprop" tells what is replayed.
        stream: whether `fit` leaves data that lie on the host there, and streams them to the CUDA device. "auto": where
            they do not fit on the device.
        one_launch: whether whole epochs run in one launch, a network a block, with its parameters in the block's own
            memory: for small networks of Dense layers on CUDA, in float32 or float64, without sample weights. It gives
            what the ordinary steps give, to rounding. No epoch ends before its last step.

    Attributes:
        history: the History of all its fits; `trainer.history = gb.History()` begins a new one.
        stopping: whether `stop` was called since the last `fit` began.
        training_step: what builds the plans of all steps, and has the state that they share.
        scaling: of the loss, in float16.
        manual_steps: the plans of `step`.
    """

    settable = ("stopping",)
    instead: ClassVar[Mapping[str, str]] = {
        "learning_rate": "trainer.optimizer.learning_rate",
        "lr": "trainer.optimizer.learning_rate",
        "epochs": "trainer.fit(x, y, epochs=...)",
    }

    def __init__(
        self, network: Network, loss: str | Loss | None = None, optimizer: str | Optimizer = "adam", *,
        batch_size: int = 128, seed: int | None = None, graph: bool | str = "auto", stream: bool | str = "auto",
        one_launch: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(network, Network):
            raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
        self.network, self.device = network, network.device
        self.batch_size, self.stream = batch_size, stream
        self.graph = self._mode("graph", graph, self.device.has_graphs)
        self.one_launch = switch("one_launch", one_launch)
        loss, optimizer = loss_of(loss, network.last), optimizer_of(optimizer)
        if one_launch:
            check_one_launch(network, loss, graph=self.graph, stream=self.stream)
        self.training_step = step = TrainingStep(network, loss, optimizer, seed)
        self.loss, self.optimizer, self.scaling = step.loss, step.optimizer, step.scaling
        self.history = History()
        self.manual_steps = ManualSteps(self.training_step, self.graph)
        self.stopping = False

    @property
    def batch_size(self) -> int:
        """Rows of a minibatch; assigning takes effect from the next fit on."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._batch_size = positive("batch_size", value)

    @property
    def stream(self) -> bool | str:
        """Whether fit leaves data on the host; assigning takes effect from the next fit on."""
        return self._stream

    @stream.setter
    def stream(self, value: bool | str) -> None:
        self._stream = self._mode("stream", value, self.device.streams)

    @property
    def history(self) -> History:
        """The History of all epochs so far; with `gb.History()` assigned, the next fit begins at epoch 1 again."""
        return self._history

    @history.setter
    def history(self, value: History) -> None:
        if not isinstance(value, History):
            raise InputError(f"history must be a gpu_backprop.History, got {type(value).__name__} {value!r}.")
        self._history = value

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns, for pickle and copy, all that training goes on from, as settings and host arrays."""
        arrays, host = self.training_step.state()
        own = {name: a for name, a in arrays.items() if name not in ("parameters", "random")}  # the network has those
        state = State({name: self.device.to_host(array) for name, array in own.items()}, host)
        return _rebuild, (self.network, self.loss, self.optimizer, self._settings, state, self.history)

    @property
    def _settings(self) -> Settings:
        return Settings(self.batch_size, self.graph, self.stream, self.one_launch)

    def _mode(self, name: str, value: bool | str, can: bool) -> bool | str:
        if not isinstance(value, bool) and value != "auto":
            raise InputError(f"{name} must be 'auto', True or False, got {value!r}.")
        if value is True and not can:
            raise InputError(
                f"{name}=True is for CUDA devices; this network is on the CPU ({self.device.reason}). Use 'auto'."
            )
        return value

    # One minibatch by hand --------------------------------------------------------------------------------------------

    @release_on_oom
    def step(self, x: Any, y: Any, weights: Any = None) -> StepLoss:
        """Trains on one minibatch of any size.

        Args:
            x: (rows, inputs), finite. Only shapes and dtypes are checked.
            y: labels (rows,) as integers, or (rows, outputs). A label that is out of range makes the loss NaN, and its
                row does not count in the gradient.
            weights: (rows,), ≥ 0, or None.

        Returns:
            The loss before the step; float() of it waits for the device.
        """
        with self.network.exclusively("step"):
            data = self.manual_steps.minibatch(x, y, weights)
            replay = self.manual_steps.load(data)
            with self.device.computing():
                replay.run()
            return StepLoss(self.loss, self.device, self.device.copy(self.manual_steps.total), data.rows)

    @release_on_oom
    def trace(self, x: Any, y: Any, weights: Any = None) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """Runs a step one operation at a time, and yields each with host copies of what it wrote: every z, y and ∇.

        Nothing is fused or overwritten in it. It is a real step: after the last operation, the network has learned.
        """
        with self.network.exclusively("trace"):
            data = self.manual_steps.minibatch(x, y, weights)
            self.manual_steps.load(data, fuse=False)  # for its errors
        return self._trace(data)

    def _trace(self, data: Samples) -> Iterator[tuple[Operation, dict[str, Array]]]:
        with self.network.exclusively("trace"):
            yield from self.manual_steps.load(data, fuse=False).plan.trace()

    @release_on_oom
    def profile(self, x: Any, y: Any, weights: Any = None, *, runs: int = 30) -> Profile:
        """Measures how long each operation of a step takes, the median of some runs; print it. It learns nothing:
        parameters and all else are afterwards what they were.
        """
        runs = positive("runs", runs)
        with self.network.exclusively("profile"):
            plan = self.manual_steps.load(self.manual_steps.minibatch(x, y, weights)).plan
            before = Snapshot(self.device, plan.outputs())
            try:
                return profile(plan, runs)
            finally:
                before.restore()

    def plan(
        self, rows: int | None = None, *, labels: bool | None = None, weights: bool = False, fuse: bool = True
    ) -> Plan:
        """Returns the plan of `step`, to look at: `trainer.plan().describe()`. It cannot run, and takes no memory:
        `trainer.plan(65536).cost()` tells what a step would take.

        Args:
            rows: of the minibatch; None: batch_size.
            labels: whether targets are class labels; None: where the loss takes them.
            weights: whether there are sample weights.
            fuse: False: share no buffers and fuse nothing.
        """
        rows = self.batch_size if rows is None else positive("rows", rows)
        batch = ManualBatch(self.network, self.loss.labels if labels is None else labels, weights)
        return self.training_step.build(batch, rows, self.manual_steps.total, fuse, open_dry_run(self.device))

    # Whole epochs -----------------------------------------------------------------------------------------------------

    @release_on_oom
    def fit(
        self, x: Any, y: Any = None, epochs: int = 10, *, weights: Any = None, validation: Any = None,
        shuffle: bool = True, csv: str | os.PathLike[str] | None = None, progress: bool = True,
        loss_every: int | None = None, callbacks: Sequence[Any] = (),
    ) -> History:  # fmt: skip
        """Trains for some epochs.

        Args:
            x: (rows, inputs), finite; or what `gpu_backprop.open_rows` gives, which has y and weights with it.
            y: labels (rows,), or (rows, outputs).
            epochs: ≥ 1; a further fit goes on where this one ended, and numbers its epochs on.
            weights: (rows,), ≥ 0 and not all 0: how much each row counts, in a mean relative to the others.
            validation: (x, y) or (x, y, weights), or what `open_rows` gives, only measured, after every epoch.
            shuffle: a new order in every epoch, drawn from the seed.
            csv: a file, replaced if it is there, for the rows of the History: those of fits before at once, and each
                new one as soon as it is known.
            progress: whether to show how it goes.
            loss_every: the loss is read after every so many steps too: it is shown, kept in `History.steps`, and ends
                the epoch at once where it is not finite. Each reading waits for the device. None: once an epoch.
            callbacks: functions that are called with a FitState after every epoch, and objects with methods that are
                called at other times too; a true value that they return ends the training. See FitState.

        Returns:
            `trainer.history`: loss and metrics of each epoch, of this fit and those before.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the run. What was learned is kept, and `trainer.history` has the epochs; in
                its `stopped` it says so.
            StateError: the network is being trained already, in another thread or further up in this one.
            InputError: what was given cannot be trained on; nothing has happened then.
            OutOfMemoryError: the device has not the memory; nothing is left allocated, and a smaller batch size, which
                the error names where there is one, can be tried at once.
            DivergedError: the loss became NaN or infinite; the parameters are the last ones whose loss was finite.

        Warns:
            RuntimeWarning: columns of x or y that vary have a mean or standard deviation beyond 1e3, or a standard
                deviation below 1e-3, and `network.preprocessing` is None: nobody has scaled them.
        """
        with self.network.exclusively("fit"):
            self.stopping = False
            epochs = positive("epochs", epochs)
            data = samples(self.network, self.loss, *given_rows(x, y, weights), values=True, idle=False)
            self.network.trained_by = None  # it says no longer what trained these weights
            if loss_every is not None:
                loss_every = positive("loss_every", loss_every)
            told = Callbacks(self, callbacks)
            if isinstance(validation, StoredRows):
                validation = given_rows(validation, None, None)
            held_out = held_out_samples(self.network, self.loss, validation)
            warn_of_unscaled(data, self.loss, self.device, prepared=self.network.preprocessing is not None)
            step, settings = self.training_step, self._settings
            rooms = memory.require_fit(step, settings, data, held_out, shuffle)
            source = self._place(data, "training data", rooms[0], shuffle)
            history = self.history
            after_step = told.after_step if told.have_on_step else lambda _: self.stopping
            run = Run(step, source, settings, history, shuffle, loss_every, after_step, not told.have_on_step)
            evaluation = None
            if held_out is not None:
                source = self._place(held_out, "validation data", rooms[1], False)
                evaluation = Evaluation(self.network, self.loss, held_out, self.batch_size, self.graph, source=source)
            self.network.refresh()
            with CsvLog(csv, history) as log, open_progress(progress, epochs, data.rows, len(history)) as shown, told:
                history.stopped = None
                try:
                    self._train(run, evaluation, epochs, log, shown, told)
                except KeyboardInterrupt:
                    history.stopped = f"interrupted in epoch {run.number}"
                    history.stopped += run.roll_back_if_diverged() or "; what was learned until then is kept"
                    raise
                except Exception as error:
                    if not history.stopped:
                        history.stopped = f"ended in epoch {run.number} by {type(error).__name__}"
                        history.stopped += run.roll_back_if_diverged()
                    raise
            return history

    def _train(
        self, run: Run, evaluation: Evaluation | None, epochs: int, log: CsvLog, shown: Progress, told: Callbacks
    ) -> None:
        """Runs the epochs of a fit; puts each into the history, the log and the display, and tells the callbacks."""
        history, rows, first = run.history, run.data.rows, run.number
        told.start(run)
        for epoch in range(first, first + epochs):
            if self.stopping:
                when = f"before epoch {epoch}" if epoch == first else f"after epoch {epoch - 1}"
                history.stopped = f"stopped {when}{told.asked}"
                return
            started = time.perf_counter()
            row = run.epoch(epoch, shown)
            if row is None:
                history.stopped = f"stopped in epoch {epoch}{told.asked}{run.roll_back_if_diverged()}"
                return
            seconds = time.perf_counter() - started
            if evaluation is not None:
                row |= {f"val_{name}": value for name, value in evaluation.run().items()}
            row |= {"seconds": seconds, "samples_per_second": rows / seconds}
            history.append(row)
            log.write()
            shown.epoch(row)
            told.epoch(run)

    def stop(self) -> None:
        """Asks a running fit to end after its current step; callable from a signal handler or another thread."""
        self.stopping = True

    @release_on_oom
    def evaluate(self, x: Any, y: Any = None, weights: Any = None) -> dict[str, Any]:
        """Measures the loss and the metrics of some data, without dropout: accuracy for classes, R² and MAE for
        numbers. Any number of threads may call it at once, also while another one trains.

        With a models axis each value is a list, one number a member.
        """
        data = samples(self.network, self.loss, *given_rows(x, y, weights), values=True, idle=False)
        (room,) = memory.require_evaluation(self.training_step, self._settings, data)
        source = self._place(data, "data", room, False)
        graph = self.graph is True  # what runs once is not captured unasked
        device = self.device.with_own_scratch()
        return Evaluation(self.network, self.loss, data, self.batch_size, graph, source=source, device=device).run()

    def _place(self, data: Samples, name: str, room: int, shuffled: bool) -> BatchSource:
        return place_data(self.network, data, name, self.batch_size, stream=self.stream, room=room, shuffled=shuffled)


def _rebuild(
    network: Network, loss: Loss, optimizer: Optimizer, settings: Settings, state: State, history: History
) -> Trainer:
    """Makes the trainer of which `Trainer.__reduce__` gave this."""
    trainer = Trainer(network, loss, optimizer, **settings._asdict())
    trainer.training_step.load_state(state)
    trainer.history = history
    return trainer
