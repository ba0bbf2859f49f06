"""Trainer: a network, a loss and an optimizer; a step is a plan, and an epoch runs it for every minibatch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.communicator import Communicator, communicator_of
from gpu_backprop.backend.errors import InputError, StateError
from gpu_backprop.backend.formula import SCALE, Array
from gpu_backprop.backend.open_device import open_dry_run
from gpu_backprop.backend.operation import Operation
from gpu_backprop.backend.out_of_memory import release_on_oom
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.profile import Profile, profile
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.data.stored_rows import StoredRows
from gpu_backprop.display.html import cell_output, table
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import number, positive, switch
from gpu_backprop.network.samples import Samples, samples
from gpu_backprop.network.summary import network_html
from gpu_backprop.training import diagnosis, memory
from gpu_backprop.training.checkpoints.recipe import describe, settings_told
from gpu_backprop.training.checkpoints.resuming import Resumed, resume
from gpu_backprop.training.checkpoints.running_fit import RunningFit
from gpu_backprop.training.diagnosis import Diagnosis
from gpu_backprop.training.early_stopping import EarlyStopping
from gpu_backprop.training.evaluation import Evaluation, minibatches_of
from gpu_backprop.training.fit import Fit
from gpu_backprop.training.folds import are_folds, measure_outputs, predict_mean, predict_out_of_fold
from gpu_backprop.training.history import History, describe_best, describe_row
from gpu_backprop.training.manual_steps import ManualSteps, StepLoss
from gpu_backprop.training.metrics import Given, choose_metrics
from gpu_backprop.training.minibatches import BatchSource, ManualBatch, minibatches
from gpu_backprop.training.one_launch import check as check_one_launch
from gpu_backprop.training.optimizer import Optimizer, Setting
from gpu_backprop.training.optimizers import optimizer as optimizer_of
from gpu_backprop.training.range_test import LEAST_STEPS, RangeTest, run_range_test
from gpu_backprop.training.row_weights import ClassWeight
from gpu_backprop.training.run import Settings
from gpu_backprop.training.step import State, TrainingStep
from gpu_backprop.training.streaming import given_rows, place_data
from gpu_backprop.training.unscaled import describe_unscaled, warn_of_unscaled


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
            what the ordinary steps give, to rounding. "auto": in each fit, where it can be and a model of the device
            says that it is faster; shapes, settings and the device decide, so that the same seed gives the same bits.
            Where `loss_every` or a callback asks after each step, steps are ordinary, with other last bits. The logger
            "gpu_backprop" tells. True: it is an error where it cannot be. False: never. A launch lasts some 100 ms at
            most, and no epoch ends before its launch does.
        clip_value: every number of the gradient is clipped to ±clip_value, one number or one a member, before the
            penalties of the optimizer are added; None: not. It is `trainer.optimizer.clip_value` then, and can be set.
        metrics: what is measured besides the loss, of validation data and by `evaluate`: names out of gb.METRICS, and
            functions of (y_true, y_pred) or (y_true, y_pred, weights), called by their __name__, that give a number:
            y_true as the targets were given, y_pred the outputs, (rows, outputs), weights (rows,) or None, on the host.
            None: accuracy for classes, R² and MAE for numbers.
        clip_norm: the most that the norm of all gradients together may be: where it is more, ∇ ← ∇·c/‖∇‖, as PyTorch's
            clip_grad_norm_ does. One number > 0, or one a member; math.inf clips nothing. None: it is not measured.
        average: β of a moving average of the parameters, Ŵ ← βŴ + (1 − β)W after each step. Validation measures the
            average, and at the end of a fit it takes the place of the parameters. One number in [0, 1), or one a
            member. None: there is none.
        accumulate: in how many parts a minibatch is worked through. The step is that of the whole minibatch, to
            rounding, and takes the memory of a part.

        communicator: the ranks that train together: gb.mpi() or gb.distributed(). Each makes the same calls, with the
            same data; batch_size is that of all of them together, and each works through its share of the rows. They
            learn what one learns alone, to rounding. Each on a CUDA device has one of its own: Network(...,
            device=communicator.device). None: this process trains alone.

    Attributes:
        history: the History of all its fits; `trainer.history = gb.History()` begins a new one.
        stopping: whether `stop` was called since the last `fit` began.
        training_step: what builds the plans of all steps, and has the state that they share.
        scaling: of the loss, in float16.
        manual_steps: the plans of `step`.
        begun: what the trainer was when its first fit began, and when its last one did; see checkpoints/recipe.py.
        checkpoint_folders: those whose checkpoints are its own.
        running: the fit that runs, for callbacks; None while none does.
    """

    settable = ("stopping",)

    def __init__(
        self, network: Network, loss: str | Loss | None = None, optimizer: str | Optimizer = "adam", *,
        batch_size: int = 128, seed: int | None = None, graph: bool | str = "auto", stream: bool | str = "auto",
        one_launch: bool | str = "auto", clip_norm: Setting | None = None, clip_value: Setting | None = None,
        average: Setting | None = None, accumulate: int = 1, metrics: Sequence[Given] | None = None,
        communicator: Communicator | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(network, Network):
            raise InputError(f"network must be a gpu_backprop.Network, got {type(network).__name__}.")
        self.network, self.device = network, network.device
        self.batch_size, self.stream = batch_size, stream
        self.graph = self._mode("graph", graph, self.device.has_graphs)
        self.one_launch = self._mode("one_launch", one_launch, True)
        loss, optimizer = loss_of(loss, network.last), optimizer_of(optimizer)
        communicator = communicator_of(communicator)
        if self.one_launch is True:
            extra: dict[str, Any] = {"clip_norm": clip_norm, "average": average}
            extra["accumulate"] = None if accumulate == 1 else accumulate
            extra["communicator"] = None if communicator.ranks == 1 else communicator
            check_one_launch(network, loss, extra, graph=self.graph, stream=self.stream)
        self.training_step = step = TrainingStep(
            network, loss, optimizer, seed, clip_norm=clip_norm, clip_value=clip_value, average=average,
            accumulate=accumulate, communicator=communicator,
        )  # fmt: skip
        self.loss, self.optimizer, self.scaling = step.loss, step.optimizer, step.scaling
        self.metrics = metrics
        self.history = History()
        self.manual_steps = ManualSteps(self.training_step, self.graph)
        self.stopping = False
        self.begun: list[dict[str, Any]] = []
        self.checkpoint_folders = set[Path]()
        self._running: RunningFit | None = None
        self._resumed: Resumed | None = None
        self._folds: Samples | None = None  # of the last fit that had any

    @property
    def communicator(self) -> Communicator:
        """The ranks that train together; on CUDA devices, what sums up their gradients there."""
        return self.training_step.communicator

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
    def metrics(self) -> Sequence[Given] | None:
        """What is measured besides the loss; assigning takes effect from the next fit on."""
        return self._metrics

    @metrics.setter
    def metrics(self, value: Sequence[Given] | None) -> None:
        choose_metrics(value, self.network, self.loss)  # for its errors
        self._metrics = None if value is None else tuple(value)

    @property
    def clip_norm(self) -> Any:
        """The bound of the norm of ∇, one number or one a member; assigning takes effect from the next step on."""
        return self.training_step.clipping.norm

    @clip_norm.setter
    def clip_norm(self, value: Setting) -> None:
        self.training_step.clipping.norm = value

    @property
    def average(self) -> Any:
        """β of the average of the parameters, one number or one a member; assigning takes effect from the next step
        on."""
        return self.training_step.averaging.decay

    @average.setter
    def average(self, value: Setting) -> None:
        self.training_step.averaging.decay = value

    @property
    def accumulate(self) -> int:
        """In how many parts a minibatch is worked through."""
        return self.training_step.accumulation.parts

    @property
    def history(self) -> History:
        """The History of all epochs so far; with `gb.History()` assigned, the next fit begins at epoch 1 again."""
        return self._history

    @history.setter
    def history(self, value: History) -> None:
        if not isinstance(value, History):
            raise InputError(f"history must be a gpu_backprop.History, got {type(value).__name__} {value!r}.")
        self._history = value

    @property
    def resumed(self) -> Resumed | None:
        """What the next fit goes on from; None: it begins anew."""
        return self._resumed

    @property
    def running(self) -> RunningFit | None:
        """The fit that runs, for callbacks; None while none does."""
        return self._running

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns, for pickle and copy, all that training goes on from, as settings and host arrays."""
        self._refuse_ranks("a copy of a trainer trains alone, in whatever process it is")
        arrays, host = self.training_step.state()
        own = {name: a for name, a in arrays.items() if name not in ("parameters", "random")}  # the network has those
        options = {name: getattr(self, name) for name in ("clip_norm", "average", "accumulate")}
        state = State({name: self.device.to_host(array) for name, array in own.items()}, host)
        options |= self.settings._asdict()
        return _rebuild, (self.network, self.loss, self.optimizer, options, state, self.history)

    def __repr__(self) -> str:
        return f"Trainer({self.network!r}, {self.loss!r}, {self.optimizer!r}, batch_size={self.batch_size})"

    def _repr_html_(self) -> str:
        told = settings_told(self)
        if self.history.rows:
            told |= {"last epoch": describe_row(self.history[-1]), "best": describe_best(self.history)}
        told |= {"ended early": self.history.stopped}
        facts = table([fact for fact in told.items() if fact[1] not in (None, "")], left=2, class_="facts")
        return cell_output(facts, network_html(self.network))

    @property
    def settings(self) -> Settings:
        return Settings(self.batch_size, self.graph, self.stream, self.one_launch, self.metrics)

    def _mode(self, name: str, value: bool | str, can: bool) -> bool | str:
        if isinstance(value, np.bool_):
            value = bool(value)
        if not isinstance(value, bool) and not (isinstance(value, str) and value == "auto"):
            raise InputError(f"{name} must be 'auto', True or False, got {value!r}.")
        if value is True and not can:
            raise InputError(
                f"{name}=True is for CUDA devices; this network is on the CPU ({self.device.reason}). Use 'auto'."
            )
        return value

    def _refuse_ranks(self, why: str) -> None:
        if self.communicator.ranks > 1:
            raise InputError(
                f"{why}, and this one is rank {self.communicator.rank} of {self.communicator.ranks}: make a trainer of "
                "its network, loss and optimizer without communicator=."
            )

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

        Raises:
            InputError: shapes or dtypes are not those that the network and the loss take.
            StateError: a fit is running.
        """
        with self.network.exclusively("step"):
            return self.manual_steps.run(x, y, weights)

    @release_on_oom
    def trace(self, x: Any, y: Any, weights: Any = None) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """Runs a step on (x, y, weights), as `step` takes them, one operation at a time, and yields each with host
        copies of what it wrote: every z, y and ∇.

        Nothing is fused or overwritten in it. It is a real step: after the last operation, the network has learned.
        Of several ranks, each yields what its share of the rows has become, and none may end before the others.
        """
        with self.network.exclusively("trace"):
            data = self.manual_steps.minibatch(x, y, weights)
            self.manual_steps.load(data, fuse=False)  # for its errors
        return self._trace(data)

    def _trace(self, data: Samples) -> Iterator[tuple[Operation, dict[str, Array]]]:
        with self.network.exclusively("trace"):
            self.training_step.averaging.begin()
            yield from self.manual_steps.load(data, fuse=False).plan.trace()

    @release_on_oom
    def profile(self, x: Any, y: Any, weights: Any = None, *, runs: int = 30) -> Profile:
        """Measures how long each operation of a step on (x, y, weights) takes, the median of some runs; print it. It
        learns nothing: parameters and all else are afterwards what they were.
        """
        runs = positive("runs", runs)
        with self.network.exclusively("profile"):
            plan = self.manual_steps.load(self.manual_steps.minibatch(x, y, weights)).plan
            before = Snapshot(self.device, plan.outputs())
            try:
                return profile(plan, runs)
            finally:
                before.restore()

    @release_on_oom
    def find_learning_rate(
        self, x: Any, y: Any = None, weights: Any = None, *, lowest: float = 1e-7, highest: float = 1.0,
        steps: int = 100,
    ) -> RangeTest:  # fmt: skip
        """Tries learning rates, from the lowest to the highest, a step each, until the loss diverges: a range test
        (Smith 2017). `find_learning_rate(x, y).plot("rates.png")` shows where it falls. It learns nothing: parameters
        and all else are afterwards what they were, and so is the learning rate.

        Args:
            x, y, weights: as `fit` takes them.
            lowest, highest: of the rates, whose logarithms are at equal distances.
            steps: how many there are, ≥ 20.

        Warns:
            RuntimeWarning: as `fit` does, of columns that nobody has scaled.
        """
        fits, accepted = (lambda v: 0 < v < math.inf), "a finite number > 0"
        lowest, highest = (number(n, v, accepted, fits) for n, v in (("lowest", lowest), ("highest", highest)))
        if lowest >= highest:
            raise InputError(f"lowest must be less than highest, got {lowest!r} and {highest!r}.")
        if positive("steps", steps) < LEAST_STEPS:
            raise InputError(f"steps must be an integer ≥ {LEAST_STEPS}, got {steps!r}: with fewer, no slope is seen.")
        with self.network.exclusively("find_learning_rate"):
            data = samples(self.network, self.loss, *given_rows(x, y, weights), values=True, idle=False, learn=True)
            prepared = self.network.preprocessing is not None
            warn_of_unscaled(data, self.loss, self.device, prepared, stacklevel=4)
            return run_range_test(self.manual_steps, data, self.batch_size, lowest, highest, steps)

    @release_on_oom
    def diagnose(self, x: Any, y: Any = None, weights: Any = None, *, validation: Any = None) -> Diagnosis:
        """Looks for what is wrong: dead and saturated units, gradients that vanish or explode, steps of the wrong size,
        data that nobody scaled, unbalanced classes, overfitting. Print what it returns. It learns nothing: parameters
        and all else are afterwards what they were.

        Args:
            x, y, weights: as `fit` takes them; one step on at most 1,024 of the rows, evenly spread, is looked at.
            validation: (x, y) or (x, y, weights), whose loss is compared.

        Raises:
            InputError: the trainer is one of several ranks, each of which would see its own rows alone.
        """
        self._refuse_ranks("diagnose looks at a step of one process")
        with self.network.exclusively("diagnose"):
            data = samples(self.network, self.loss, *given_rows(x, y, weights), values=True, idle=False, learn=True)
            prepared = self.network.preprocessing is not None
            unscaled = describe_unscaled(data, self.loss, self.device, prepared)
            part = diagnosis.spread(data)
            plan = self.manual_steps.load(part, fuse=False).plan
            scale = np.ones(self.network.models_shape)
            if self.scaling.state is not None:
                scale = self.device.to_host(self.scaling.state[..., SCALE])
            before, parameters = Snapshot(self.device, plan.outputs()), self.device.to_host(self.network.parameters)
            arrays: dict[str, Array] = {}
            try:
                for _, written in plan.trace():
                    arrays |= written
            finally:
                before.restore()
                self.network.refresh()
        figures, found = diagnosis.examine_step(self.network, arrays, parameters, arrays["parameters"], scale)
        of_data = diagnosis.examine_data(data, self.network, unscaled)
        found = [*of_data, *found, *diagnosis.examine_history(self.history)]
        if validation is not None:
            outer = (validation,) if isinstance(validation, StoredRows) else validation
            inside, outside = (self.evaluate(*of)["loss"] for of in ((x, y, weights), outer))
            found += diagnosis.examine_losses(inside, outside)
        return Diagnosis(part.rows, figures, found)

    @explain_arguments
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
        self, x: Any, y: Any = None, epochs: int = 10, *, weights: Any = None, class_weight: ClassWeight = None,
        validation: Any = None, validation_split: float = 0.0, shuffle: bool = True,
        early_stopping: bool | EarlyStopping | None = None, csv: str | os.PathLike[str] | None = None,
        progress: bool = True, loss_every: int | None = None, callbacks: Sequence[Any] = (),
        on_divergence: str = "raise", folds: Any = None, rows: Any = None,
    ) -> History:  # fmt: skip
        """Trains for some epochs.

        Args:
            x: (rows, inputs), finite, an array, a data frame of numbers or a sparse matrix of scipy, whose rows become
                dense as they are needed; or what `gpu_backprop.open_rows` gives, which has y and weights with it.
            y: labels (rows,), the numbers of outputs or text; or (rows, outputs). Labels of text are numbered by
                `network.classes`; where these are None, they become the different labels, sorted.
            epochs: ≥ 1; a further fit goes on where this one ended, and numbers its epochs on.
            weights: (rows,), ≥ 0 and not all 0: how much each row counts, in a mean relative to the others. Or, of a
                network with a models axis, (members, rows), each member's own: rows whose weight is 0 are then left
                out, as if `rows` did not name them.
            class_weight: {class: weight}, by which the weights of its rows are multiplied, 1 where it is not named. A
                class is its label or, where network.classes is set, its name. Or "balanced": n/(k·count) for n rows of
                k classes. Or a list of such, or None, one a member. Validation data are measured without it.
            validation: (x, y) or (x, y, weights), or what `open_rows` gives, only measured, after every epoch. "rest":
                each member is measured on the rows that it does not learn from; or bool (members, rows), which these
                are. `weights` of (rows,) count there too.
            validation_split: the share of the rows that is held out of training and measured in place of `validation`,
                of every class alike, where there are classes. The seed says which; they are the same in every fit.
            shuffle: a new order in every epoch, drawn from the seed.
            early_stopping: an EarlyStopping, or True for one with its defaults: the fit ends when val_loss has not
                improved for 10 epochs, and the parameters are then those of the best one. Where it monitors validation
                data and there are none, validation_split is 0.1.
            csv: a file, replaced if it is there, for the rows of the History: those of fits before at once, and each
                new one as soon as it is known.
            progress: whether to show how it goes.
            loss_every: the loss is read after every so many steps too: it is shown, kept in `History.steps`, and ends
                the epoch at once where it is not finite. Each reading waits for the device. None: once an epoch.
            callbacks: functions that are called with a FitState after every epoch, and objects with methods that are
                called at other times too; a true value that they return ends the training. See FitState.
            on_divergence: what happens where the loss becomes NaN or infinite. "raise": a DivergedError. "halve_rate":
                the epoch begins again with half the learning rate, from the parameters that the epoch with the least
                loss began with; of the members whose loss it was, and at most 10 times. A warning says so, and
                "rate_halved" in the row of the epoch how often. "stop", with a models axis: those members alone stop,
                with the parameters that the epoch began with, or the best ones of early stopping; for the others, all
                is as if they had never been. A warning says so, and `History.diverged`; from then on, their loss is
                NaN. Where all have, it is a DivergedError.
            folds: of a network with a models axis, as many as it has members: member m does not learn from the rows of
                fold m, which are its validation data. Their number, for folds of every class alike, where there are
                classes, which the seed says; or the fold of each row, integers (rows,). An epoch has as many rows as
                the member with the most learns from; another one takes some of its own once more, unless there are
                weights, with which it is done before. See `out_of_fold`.
            rows: of a network with a models axis, which rows each member learns from: bool (members, rows), or for each
                member an array of row numbers, which may be there more than once, as in a bootstrap sample. Member m
                becomes, to rounding, the network of its seed that is trained on x[rows[m]] and y[rows[m]]. One with
                fewer rows than others is done with an epoch before these; schedules count the steps of the longest.

        Returns:
            `trainer.history`: loss and metrics of each epoch, of this fit and those before.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the run. What was learned is kept, and `trainer.history` has the epochs; in
                its `stopped` it says so. In a notebook, fit returns it instead.
            StateError: the network is being trained already, in another thread or further up in this one.
            InputError: what was given cannot be trained on; nothing has happened then.
            OutOfMemoryError: the device has not the memory; nothing is left allocated, and a smaller batch size, which
                the error names where there is one, can be tried at once.
            DivergedError: the loss became NaN or infinite; the parameters are the last ones whose loss was finite, or
                those of the best epoch, where early stopping keeps them.

        Warns:
            RuntimeWarning: columns of x or y that vary have a mean or standard deviation beyond 1e3, or a standard
                deviation below 1e-3, and `network.preprocessing` is None: nobody has scaled them.
        """
        with self.network.exclusively("fit"), self.communicator.quiet():
            self.stopping = False
            fit, facts = None, {}
            try:
                fit = Fit(
                    self, x, y, epochs, weights=weights, class_weight=class_weight, validation=validation,
                    validation_split=validation_split, shuffle=shuffle, early_stopping=early_stopping, csv=csv,
                    progress=progress, loss_every=loss_every, callbacks=callbacks, on_divergence=on_divergence,
                    folds=folds, rows=rows,
                )  # fmt: skip
                facts = fit.facts() if self.communicator.ranks > 1 else {}
            except Exception as error:
                self.communicator.check_same(facts, error)
                raise
            self.communicator.check_same(facts)
            return fit.train()

    @contextmanager
    def as_running(self, fit: RunningFit) -> Iterator[None]:
        """Shows a fit as `running` meanwhile; a further one begins anew."""
        if self._resumed is None:
            self.begun[1:] = [describe(self)]
        self._running, self._resumed = fit, None
        self._folds = fit.held_out if are_folds(fit.held_out) else None
        try:
            yield
        finally:
            self._running = None

    @explain_arguments
    def resume(self, folder: str | os.PathLike[str], *, force: bool = False) -> None:
        """Goes on from the newest good checkpoint of a folder, that a `Checkpoint` among the callbacks of `fit` wrote.
        This trainer was made, and the next `fit` is called, as then: it finishes that fit, whose epochs count from its
        beginning, and gives the same bits as if it had never ended. Settings are those that the checkpoint has; the
        trainer is compared with what it was when that fit began.

        Args:
            folder: the folder, or one checkpoint.
            force: whether to go on also where the trainer, the data or what `fit` is given are others. What differs
                stays as it is here, and a callback of other settings begins anew; a network of other shapes cannot go
                on.

        Raises:
            InputError: the trainer was made otherwise; the message says how. `fit` raises it where it is given
                something else, or something was set in between.
            ModelFileError: there is no good checkpoint.

        Warns:
            RuntimeWarning: a newer checkpoint is damaged, or cannot be read by this version, and an older one is used;
                or it was written on another kind of device.
        """
        with self.network.exclusively("resume"), self.communicator.quiet():
            self._resumed = resume(self, folder, switch("force", force))
            self.checkpoint_folders.add(self._resumed.path.resolve().parent)

    def stop(self) -> None:
        """Asks a running fit to end after its current step, or, on CUDA, after the few that it is handing over at once;
        callable from a signal handler or another thread."""
        self.stopping = True

    @release_on_oom
    def evaluate(
        self, x: Any, y: Any = None, weights: Any = None, metrics: Sequence[Given] | None = None
    ) -> dict[str, Any]:
        """Measures the loss and the metrics of some data, without dropout. Any number of threads may call it at once,
        also while another one trains. Of several ranks, all call it, in the same order as anything else.

        With a models axis each value is a list, one number a member; or, where the network is `averaged`, one number,
        of the mean of the members' outputs.

        Args:
            x, y, weights: as in `fit`.
            metrics: instead of the trainer's.

        Raises:
            InputError: x, y or weights do not fit, or a metric is none of these outputs.

        Warns:
            RuntimeWarning: a metric is undefined for these rows, and therefore NaN, as roc_auc where all rows are of
                one class.
        """
        given = given_rows(x, y, weights)
        with self.communicator.alike():
            data = samples(self.network, self.loss, *given, values=True, idle=False, communicator=self.communicator)
        self.communicator.check_same({"rows": data.rows, "with weights": data.weights is not None})
        settings = self.settings if metrics is None else self.settings._replace(metrics=metrics)
        if self.network.averaged:
            return measure_outputs(
                self.network, self.loss, settings.metrics, predict_mean(self.network, data.x), data.on_host(self.device)
            )
        (room,) = memory.require_evaluation(self.training_step, settings, data)
        graph = self.graph is True  # what runs once is not captured unasked
        device = self.device.with_own_scratch()
        rows = self.training_step.accumulation.rows_at_once(self.batch_size)
        source = self.place(data, "data", room, False, measured=True)
        return Evaluation(
            self.network, self.loss, data, rows, graph, metrics=settings.metrics, source=source, device=device,
            communicator=self.communicator,
        ).run()  # fmt: skip

    @property
    def folds(self) -> list[Array]:
        """The rows of each fold of the last fit, which had `folds`."""
        return [rows for rows in self._folded("folds").places() if rows is not None]

    def out_of_fold(self) -> Array:
        """Computes the outputs for the rows of the last fit, which had `folds`, each by the member that has not learned
        from it.

        Returns:
            (rows, outputs), on the host.

        Raises:
            StateError: there was no such fit.
        """
        return predict_out_of_fold(self.network, self._folded("out_of_fold"))

    @explain_arguments
    def evaluate_out_of_fold(self, metrics: Sequence[Given] | None = None) -> dict[str, Any]:
        """Measures `out_of_fold`: the loss and the metrics of all rows together, by name, and as "folds" the same of
        the rows of each fold, in a list. Where early stopping chose each member's best epoch by the same rows, this
        flatters; rows that decide nothing tell more.

        Args:
            metrics: instead of the trainer's.
        """
        held_out, y = self._folded("evaluate_out_of_fold").on_host(self.device), self.out_of_fold()
        how = self.network, self.loss, self.metrics if metrics is None else metrics, y, held_out
        return measure_outputs(*how) | {"folds": [measure_outputs(*how, rows) for rows in self.folds]}

    def _folded(self, what: str) -> Samples:
        if self._folds is None:
            raise StateError(f"{what} is of a fit with folds, and the last fit had none: trainer.fit(..., folds=8).")
        return self._folds

    def place(
        self, data: Samples, name: str, room: int, shuffled: bool, *, measured: bool = False
    ) -> BatchSource:  # fmt: skip
        """Puts data on the device, or lets them be streamed, see `place_data`: this rank's of each minibatch, or, where
        they are only measured, of those of an Evaluation."""
        rows = self.training_step.accumulation.rows_at_once(self.batch_size)
        batches = minibatches_of(data.row_counts, rows) if measured else [*minibatches(data.rows, self.batch_size)]
        return place_data(
            self.network, data, name, self.batch_size, stream=self.stream, room=room, shuffled=shuffled,
            own=self.communicator.places(batches),
        )  # fmt: skip


def _rebuild(
    network: Network, loss: Loss, optimizer: Optimizer, options: Mapping[str, Any], state: State, history: History,
    resumed: Resumed | None = None,
) -> Trainer:  # fmt: skip
    """Makes the trainer of which `Trainer.__reduce__` gave this, and what its next fit is to go on from."""
    trainer = Trainer(network, loss, optimizer, **options)
    trainer.training_step.load_state(state)
    trainer.history, trainer._resumed = history, resumed
    return trainer
