"""Going on from a checkpoint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.errors import GpuBackpropError, InputError, ModelFileError
from gpu_backprop.backend.formula import Array
from gpu_backprop.training.checkpoints import recipe
from gpu_backprop.training.checkpoints.fingerprint import tell_data
from gpu_backprop.training.checkpoints.folder import numbered
from gpu_backprop.training.checkpoints.record_file import read_record
from gpu_backprop.training.checkpoints.running_fit import RunningFit
from gpu_backprop.training.history import History
from gpu_backprop.training.run import Position
from gpu_backprop.training.step import State

FORCE = "force=True goes on all the same"


KINDS = {
    "device": str, "begun": list, "now": dict, "shapes": list, "given": dict, "data": dict, "validation": dict,
    "first": int, "position": dict, "arrays": dict, "host": dict, "history": dict, "callbacks": dict, "settings": dict,
}  # fmt: skip
"""What a record has at least, and of which type."""


class Resumed(NamedTuple):
    """What the next fit goes on from, besides the state that its trainer has already.

    Attributes:
        record: what the checkpoint has; see RunningFit.record.
        now: what the trainer was after it was resumed, see recipe.describe.
        first: the number of the first epoch of the fit that wrote it.
        force: whether to go on also where something differs.
    """

    path: Path
    record: Mapping[str, Any]
    now: dict[str, Any]
    first: int
    position: Position
    force: bool

    def go_on(self, fit: RunningFit) -> None:
        """Lets a fit go on, before it has begun.

        Raises:
            InputError: something is not as it was.
        """
        record, run, callbacks = self.record, fit.run, fit.callbacks
        was, settings = record["settings"], callbacks.settings()
        found = [
            *recipe.differences(self.now, recipe.describe(fit.trainer)),
            *recipe.differences(record["given"], fit.given),
            *tell_data(record["data"], fit.fingerprints, "training"),
            *tell_data(record["validation"], fit.held_out_fingerprints, "validation"),
            *self._other_steps(fit),
            *(f"there was no callback {name}" for name in settings if name not in was),
            *(f"there is no callback {name}, as there was" for name in was if name not in settings),
            *(said for name in was if name in settings for said in recipe.differences(was[name], settings[name], name)),
        ]
        if found and not self.force:
            raise InputError(
                f"fit does not go on from {self.path}: {'; '.join(found)}. Give fit what it was given; or "
                "trainer.resume(..., force=True) goes on all the same."
            )
        there = record["data"], record["begun"][-1]["batch_size"], record["given"]["shuffle"]
        same = there == (fit.fingerprints, run.settings.batch_size, run.shuffle)
        run.go_on(self.position if same else Position(self.position.epoch))
        callbacks.resumed = {
            name: state for name, state in record["callbacks"].items() if was.get(name) == settings.get(name)
        }
        callbacks.asked_by_callback = record["asked"]

    def _other_steps(self, fit: RunningFit) -> Iterator[str]:
        """Says where epochs ran in one launch, and do not here: ordinary steps come to other last bits."""
        run, device = fit.run, fit.trainer.device.name.partition(":")[0]
        if self.record.get("in_one_launch") and not run.one_launch and device == self.record["device"]:
            asked = [] if run.loss_every is None else [f"loss_every={run.loss_every}"]
            asked += [f"on_step of {name}" for name in fit.callbacks.each_step]
            why = f", for {' and '.join(asked)}" if asked else ""
            yield f"epochs have ordinary steps here{why}, and ran in one launch in the checkpoint"


def resume(trainer: Any, place: str | os.PathLike[str], force: bool) -> Resumed:
    """Brings the newest good checkpoint of a folder, or one that is named, into a trainer; see `Trainer.resume`."""
    path, record = newest_record(Path(place))
    try:
        found = check_recipe(trainer, path, record, force)
        if record["shapes"] != recipe.shapes(trainer.network):
            raise InputError(f"{path} is of a network of other shapes, which cannot go on: {'; '.join(found[:8])}.")
        if record["device"] != (here := trainer.device.name.partition(":")[0]):
            warnings.warn(
                f"{path} was written on {record['device']}, and this is {here}: it goes on to the same numbers within "
                "rounding, not to the same bits",
                RuntimeWarning,
                stacklevel=4,
            )
        return _apply(trainer, path, record, force, found)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, GpuBackpropError):
            raise
        raise ModelFileError(f"cannot go on from {path}: what it says is not what this version expects.") from error


def check_recipe(trainer: Any, path: Path, record: Mapping[str, Any], force: bool) -> list[str]:
    """Returns in what a trainer was made otherwise than the one of a checkpoint; raises InputError, unless by force."""
    *before, begun = record["begun"]
    own = recipe.describe(trainer)
    found = [] if own in (*before, record["now"]) else [*recipe.differences(begun, own)]
    if found and not force:
        raise InputError(
            f"{path} is of another training: {'; '.join(found[:8])}. Make the trainer as it was; {FORCE}, with "
            "what can be used of it."
        )
    return found


def newest_record(place: Path) -> tuple[Path, dict[str, Any]]:
    """Reads the newest checkpoint that is whole; warns of newer ones that are not."""
    try:
        paths = [place] if place.is_file() else [path for _, path in numbered(place)]
    except OSError as error:
        raise ModelFileError(f"cannot read the checkpoints of {place}: {error.strerror}.") from error
    bad: list[str] = []
    for path in reversed(paths):
        try:
            record = read_record(path)
            if wrong := [name for name, kind in KINDS.items() if type(record.get(name)) is not kind]:
                raise ModelFileError(f"its {wrong[0]} is not what this version of gpu_backprop writes")
        except ModelFileError as error:
            bad.append(f"{path}: {error}")
            continue
        if bad:
            warnings.warn(
                f"{'; '.join(bad)}. The newest good checkpoint, {path.name}, is used", RuntimeWarning, stacklevel=5
            )
        return path, record
    raise ModelFileError(f"there is no checkpoint to go on from: {'; '.join(bad) or f'{place} holds none'}.")


def _position(record: Mapping[str, Any], trainer: Any) -> Position:
    """Reads the position; raises ValueError where it can be none."""
    position = Position(**record["position"])
    form = (*trainer.network.models_shape, 3), np.dtype(np.float64)
    whole = [position.epoch - 1, position.done, record["first"] - 1]
    arrays = [position.total, position.window[0]] if position.done else []
    whole += [position.window[1]] if position.done else []
    if not all(type(n) is int and n >= 0 for n in whole) or any((a.shape, a.dtype) != form for a in arrays):
        raise ValueError("its position is none")
    return position


def _apply(trainer: Any, path: Path, record: dict[str, Any], force: bool, found: Sequence[str]) -> Resumed:
    position, history, own = _position(record, trainer), History(), recipe.describe(trainer)
    for name, value in record["history"].items():
        if name in vars(history):
            setattr(history, name, value)
    arrays = _fitting(trainer.training_step.state().arrays, record.pop("arrays"), path, bool(found))
    before = trainer.training_step.state().host
    try:
        trainer.training_step.load_state(State({}, record["host"]))
        recipe.set_settings(trainer, record["begun"][-1] if found else own, record["now"])
    except BaseException:
        trainer.training_step.load_state(State({}, before))
        raise
    trainer.training_step.load_state(State(arrays, record["host"]))
    trainer.history = history
    trainer.begun[:] = [own] if found else record["begun"]
    return Resumed(path, record, recipe.describe(trainer), record["first"], position, force)


def _fitting(own: Mapping[str, Array], found: Mapping[str, Array], path: Path, differs: bool) -> dict[str, Array]:
    """Returns the arrays that have a place in the trainer; all have one, unless it was made otherwise."""
    fits = {
        name: array
        for name, array in found.items()
        if name in own and array.shape == own[name].shape and array.dtype == np.dtype(own[name].dtype)
    }
    wrong = [name for name in {**own, **found} if name not in fits]
    if "parameters" in wrong or (wrong and not differs):
        raise InputError(f"{path} does not fit this trainer: its {', '.join(wrong)} are of another shape or dtype.")
    return fits
