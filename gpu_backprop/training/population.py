"""Population: many networks of one shape in one pass, each with its own settings and its own rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.communicator import Communicator, communicator_of
from gpu_backprop.backend.errors import InputError, StateError, choose
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.display.parallel import columns_that_differ
from gpu_backprop.network.arrays import as_array
from gpu_backprop.network.frames import only_column
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.loss import Loss
from gpu_backprop.network.losses import loss as loss_of
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import one_a_member, positive
from gpu_backprop.network.samples import samples
from gpu_backprop.training.checkpoints.checkpoint import Checkpoint
from gpu_backprop.training.checkpoints.resuming import newest_record
from gpu_backprop.training.early_stopping import EarlyStopping, with_early_stopping
from gpu_backprop.training.figures import WIDE, draw_parallel, new_figure
from gpu_backprop.training.history import History, best_member, draw_curves, member_scores
from gpu_backprop.training.member_rows import choose_rows, list_rows
from gpu_backprop.training.member_settings import Settings, read_seeds, read_settings
from gpu_backprop.training.members import copy_member, member_network, take_members
from gpu_backprop.training.metrics import Given
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import optimizer as optimizer_of
from gpu_backprop.training.row_logs import CsvLog
from gpu_backprop.training.row_weights import split_rows, validation_share
from gpu_backprop.training.saving import describe_training
from gpu_backprop.training.spread import OF_HISTORY, Spread
from gpu_backprop.training.stage import Stage
from gpu_backprop.training.streaming import given_rows
from gpu_backprop.training.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Population(FixedAttributes):
    """Several networks of the same layers, its members, which train side by side, each with settings and rows of its
    own. Member m learns what a Network of its seed would learn alone under a Trainer of its settings, to rounding.

    Args:
        inputs, layers: of every network, as `Network` takes them.
        settings: a dict for each member, of what is its own. What it does not name is as the other arguments say.

            - seed: of initial weights, the order of rows and dropout; 0 unless given.
            - any setting of the optimizer: learning_rate, beta1, weight_decay, l1, l2, clip_value …
            - schedule: what the learning rate, or other settings by name, follow.
            - clip_norm, average: as `Trainer` takes them.
            - any number of the loss: label_smoothing, delta …
            - dropout: the rate of every Dropout layer, or a list of rates, one for each.
            - initial_scale: by what the initial weights, not the biases, are multiplied.
            - class_weight: as `Trainer.fit` takes it.
        loss, optimizer, batch_size, metrics, graph, stream, one_launch, accumulate: as `Trainer` takes them.
        dtype, device, tf32: as `Network` takes them.
        communicator: the ranks over which members are spread, gb.mpi() or gb.distributed(): each makes the same calls,
            with the same data, and trains its share of the members by itself; after an epoch they tell each other what
            was measured. What comes of it is on every rank what it is on one. None: all members train here.

    Raises:
        InputError: a member has a setting that nothing takes, or one that cannot be; there are no members.

    Attributes:
        settings: as given, a dict a member.
        network: all members, a Network with a models axis.
        trainer: what trains it; its `history` has one number a member in each column. A member that has stopped keeps
            the last that was measured of it.
        spread: which members this rank trains.
    """

    def __init__(
        self, inputs: int, layers: Sequence[Layer], settings: Sequence[Settings], *, loss: str | Loss | None = None,
        optimizer: str | Optimizer = "adam", batch_size: int = 128, metrics: Sequence[Given] | None = None,
        dtype: str = "float32", device: str = "auto", tf32: bool = False, graph: bool | str = "auto",
        stream: bool | str = "auto", one_launch: bool | str = "auto", accumulate: int = 1,
        communicator: Communicator | None = None,
    ) -> None:  # fmt: skip
        seeds = read_seeds(settings)
        self.settings = [dict(one) for one in settings]
        self.spread = Spread(communicator_of(communicator), len(seeds))
        with self.spread.together():
            self.network = network = Network(inputs, layers, dtype=dtype, device=device, tf32=tf32, seed=seeds)
            found = read_settings(settings, network.layers, optimizer_of(optimizer), loss_of(loss, network.last))
            found.apply(network)
            self._class_weights = found.class_weights
            self.trainer = Trainer(
                self.network, found.loss, found.optimizer, batch_size=batch_size, metrics=metrics, graph=graph,
                stream=stream, one_launch=one_launch, accumulate=accumulate, **found.trainer,
            )  # fmt: skip
        self._stage: Stage | None = None  # of the fit that runs, or goes on

    def __len__(self) -> int:
        return len(self.settings)

    def __repr__(self) -> str:
        return f"<Population of {len(self):,} members: {self.trainer!r}>"

    @property
    def history(self) -> History:
        """Loss and metrics of each epoch, a list with one number a member in each column."""
        return self.trainer.history

    @property
    def active(self) -> tuple[Array, Trainer]:
        """Which members the trainer has that now trains, int64, and this trainer. For callbacks of `fit` that look at
        parameters: `network` gets them in the end."""
        return self._now.members, self._now.trainer

    @property
    def running(self) -> Array:
        """Which members have not stopped, bool (members,)."""
        return self._now.all_running

    # Training ---------------------------------------------------------------------------------------------------------

    @explain_arguments
    def fit(
        self, x: Any, y: Any = None, epochs: int = 10, *, rows: Any = None, weights: Any = None, validation: Any = None,
        validation_split: float = 0.0, shuffle: bool = True, early_stopping: bool | EarlyStopping | None = None,
        csv: str | os.PathLike[str] | None = None, progress: bool = True,
        callbacks: Sequence[Callable[[Population], object]] = (), on_divergence: str = "stop",
        checkpoint: Checkpoint | None = None,
    ) -> Population:  # fmt: skip
        """Trains all members for some epochs.

        Args:
            x, y, epochs, shuffle, csv, progress: as of `Trainer.fit`; all members share the data.
            rows: which of them each member learns from: bool (members, rows), as `~folds` of cross-validation; or a
                list of the numbers of rows of each member, as bootstrap samples. None: all.
            weights: (rows,), or (members, rows): how much each row counts. With weights of its own, a member leaves out
                rows of the weight 0, and is measured on rows that count alike.
            validation: (x, y) or (x, y, weights), which all are measured on after every epoch; or "rest": each member
                is measured on the rows that it does not learn from; or bool (members, rows), which these are.
            validation_split: the share of its rows that each member holds out, as its seed says.
            early_stopping: as of `Trainer.fit`. A member that has stopped keeps its best parameters, and soon costs
                nothing: where half of them have stopped, the others go on as a smaller population.
            callbacks: functions that are called with the population after every epoch, on all ranks; a true value ends
                the fit. They may call `stop`, `change` and, where all members train on one rank, `copy_member`.
            on_divergence: "stop": a member whose loss becomes NaN or infinite stops by itself. Or as of `Trainer.fit`.
            checkpoint: what writes all that the fit would go on from, where all members train on one rank; see
                `resume`.

        Returns:
            The population.
        """
        epochs = positive("epochs", epochs)
        if not isinstance(callbacks, (list, tuple)) or not all(map(callable, callbacks)):
            raise InputError(f"callbacks must be a list of functions of a Population, got {callbacks!r:.200}.")
        spread, first = self.spread, self.spread.communicator.rank == 0
        if checkpoint is not None:
            spread.require_one("checkpoint")
        shares = {
            "weights": None if weights is None else as_array(only_column(weights), "weights", self.network.device),
            "validation": tuple(validation) if isinstance(validation, list) else validation,
            "validation_split": validation_split, "class_weight": self._class_weights,
            "rows": None if rows is None else list_rows(rows, self.network),
        }  # fmt: skip
        shares |= self._hold_out(x, y, shares, early_stopping)
        asked = [partial(one, self) for one in callbacks]
        with CsvLog(csv if first else None, self.history) as log, spread.together():
            while True:
                stage = self._stage = self._stage or self._begin()
                stage.prepare(epochs, log, asked)
                try:
                    stage.trainer.fit(
                        x, y, epochs, shuffle=shuffle, early_stopping=early_stopping, progress=progress and first,
                        on_divergence=on_divergence,
                        callbacks=[stage] if checkpoint is None else [stage, checkpoint],
                        **{name: stage.of_members(value) for name, value in shares.items() if value is not None},
                    )  # fmt: skip
                    stage.keep_company()
                finally:
                    stage.end()
                    self._stage = stage.next
                if stage.next is None:
                    spread.gather(self.trainer, stage.trainer.history)
                    self.network.trained_by = describe_training(self.trainer)
                    return self

    def _begin(self) -> Stage:
        """Returns the first stage of a fit, of all members that this rank trains."""
        spread, history = self.spread, self.history
        if spread.ranks == 1:
            return Stage(self.trainer)
        trainer = take_members(self.trainer, spread.members.tolist())
        for name in OF_HISTORY:
            setattr(history, name, None)
        return Stage(self.trainer, spread.members, trainer, spread)

    def _hold_out(
        self, x: Any, y: Any, shares: Mapping[str, Any], early_stopping: bool | EarlyStopping | None
    ) -> dict[str, Any]:
        """Returns which rows each member learns from, and is measured on, where it holds a share of them out that its
        own seed chooses."""
        seeds, rows, stopper = self.trainer.training_step.seeds, shares["rows"], with_early_stopping(early_stopping, [])
        share = validation_share(shares["validation_split"], shares["validation"], bool(stopper), stopper)
        if not share or (rows is None and np.ndim(shares["weights"]) < 2 and len(set(seeds)) == 1):
            return {}
        given = given_rows(x, y, shares["weights"])
        data = samples(self.network, self.trainer.loss, *given, values=True, idle=False, learn=True, apart=True)
        if rows is not None or data.weighs_apart:
            data = choose_rows(rows, self.network, data)
        classes = data.classes(self.network.device)
        classes = np.zeros(len(data.x)) if classes is None else classes
        learned, held_out = [], np.zeros((len(self), len(classes)), np.bool_)
        for m, (seed, chosen) in enumerate(zip(seeds, cycle(data.places()), strict=False)):
            own = np.arange(len(classes)) if chosen is None else chosen
            held_out[m, own[split_rows(classes[own], share, seed)[1]]] = True
            learned.append(own[~held_out[m, own]])  # of a row that is there several times, nothing
        return {"rows": learned, "validation": held_out, "validation_split": 0.0}

    @explain_arguments
    def resume(self, folder: str | os.PathLike[str], *, force: bool = False) -> None:
        """Goes on from the newest good checkpoint of a folder, that `fit(checkpoint=...)` wrote. This population was
        made, and the next `fit` is called, as then: it finishes that fit, to the same bits.

        Args:
            folder, force: as of `Trainer.resume`.

        Raises:
            InputError, ModelFileError: as of `Trainer.resume`.
        """
        self.spread.require_one("resume")
        path, record = newest_record(Path(folder))
        told = record["callbacks"].get(Stage.__name__)
        if told is None:
            raise InputError(f"{path} is of a trainer, not of a population: use trainer.resume.")
        self._stage = Stage.restored(self.trainer, told, path, force)

    @property
    def _now(self) -> Stage:
        return self._stage or Stage(self.trainer)

    def stop(self, members: int | Sequence[int]) -> None:
        """Stops some members, which change no more, and where early stopping keeps the best parameters get theirs. For
        callbacks of `fit`."""
        self._check(members)
        stage = self._now
        stage.stop(np.isin(stage.members, members))
        stage.elsewhere[members] = False

    def setting(self, member: int, name: str) -> float:
        """Returns what a number of the optimizer is of a member now, without the factor of a schedule. For callbacks of
        `fit`."""
        self._check(member)
        stage = self._now
        trains = member in stage.members  # of one that has left them, the trainer of all has it
        trainer, place = (stage.trainer, self._place(member)) if trains else (self.trainer, member)
        optimizer, shape = trainer.optimizer, trainer.network.models_shape
        value = choose(f"setting of {optimizer.name}", name, optimizer.settings)
        return float(one_a_member(name, value, shape)[place])

    def change(self, member: int, **settings: float) -> None:
        """Gives a member other numbers of the optimizer, from the next step on. For callbacks of `fit`."""
        stage, trainer, place = self._now, self.trainer, member
        if member not in np.flatnonzero(stage.elsewhere):  # another rank sees to that itself
            trainer, place = stage.trainer, self._place(member)
        optimizer, shape = trainer.optimizer, trainer.network.models_shape
        for name, value in settings.items():
            numbers = one_a_member(name, choose("setting", name, optimizer.settings), shape).tolist()
            setattr(optimizer, name, [*numbers[:place], value, *numbers[place + 1 :]])

    def copy_member(self, source: int, destination: int) -> None:
        """Gives the member `destination` the parameters of `source`, with all that its optimizer has learned; its
        settings and its seed stay its own. For callbacks of `fit`, where all members train on one rank."""
        self.spread.require_one("copy_member")
        stage, places = self._now, (self._place(source), self._place(destination))
        copy_member(stage.trainer, *places)
        stage.stopped[places[1]] = stage.stopped[places[0]]

    def _check(self, members: int | Sequence[int]) -> None:
        if not np.isin(members, range(len(self))).all():
            raise InputError(f"members must be numbers from 0 to {len(self) - 1}, got {members!r}.")

    def _place(self, member: int) -> int:
        """Returns where a member is among those that train."""
        found = np.flatnonzero(self._now.members == member)
        if not found.size:
            raise StateError(f"member {member} is none of those that still train, {self._now.members.tolist()}.")
        return int(found[0])

    # What came of it --------------------------------------------------------------------------------------------------

    @property
    def scores(self) -> Array:
        """The loss of each member, float64 (members,): val_loss, or loss where nothing was held out, of the epoch whose
        parameters it has; NaN of one that has diverged.

        Raises:
            StateError: nothing was trained yet.
        """
        if not self.history.rows:
            raise StateError("the population has no scores before it was trained: call fit first.")
        return member_scores(self.history)

    @property
    def best(self) -> int:
        """The member with the least of `scores`."""
        return best_member(self.scores)

    @explain_arguments
    def member(self, m: int) -> Network:
        """Returns a member as an ordinary network, a copy, which knows what trained it: `save` keeps that."""
        return member_network(self.network, m)

    @explain_arguments
    def predict(self, x: Any, batch_size: int = 1024) -> Array:
        """Computes the outputs of all members, (members, rows, outputs), as `Network.predict` does."""
        return self.network.predict_members(x, batch_size)

    @explain_arguments
    def evaluate(
        self, x: Any, y: Any = None, weights: Any = None, metrics: Sequence[Given] | None = None
    ) -> dict[str, list[float]]:
        """Measures the loss and the metrics of some data, one number a member each, as `Trainer.evaluate` does."""
        return self.trainer.evaluate(x, y, weights, metrics)

    @explain_arguments
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the settings that differ and the score as parallel coordinates, a line a member, coloured by the rank
        of its score, and the loss of all members over the epochs; the best member has thick lines.

        Args:
            path: as of `History.plot`.

        Raises:
            StateError: nothing was trained yet.
            InputError: the image can't be written.
            MissingExtraError: matplotlib is not installed.
        """
        scores = self.scores
        name = "val_loss" if "val_loss" in self.history.columns else "loss"
        with new_figure(2, path, WIDE) as (figure, (left, right)):
            draw_parallel(left, columns_that_differ(self.settings), scores, name)
            draw_curves(self.history, right, "loss")
        return figure
