"""What schedules come to in one fit: the factors of all its steps, evaluated on the host before it begins, and followed
on the device, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.backend.device import Device
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.network.layers import Dropout
from gpu_backprop.network.network import Network
from gpu_backprop.network.numbers import one_a_member
from gpu_backprop.network.schedules import factors, name_of
from gpu_backprop.training.optimizer import BOUNDS, FINITE, Optimizer

RATE = ("a finite number ≥ 0", lambda v: 0 <= v < math.inf)
"""What a learning rate may be while it follows a schedule: at 0, a step changes the moments alone."""


class ScheduledSetting(NamedTuple):
    """A setting, and the schedule that it follows, or None."""

    name: str
    value: Any  # as it is set: one number, or one a member
    schedule: Any
    accepted: str
    fits: Callable[[Any], bool]

    def check(self, column: Array, begin: int, end: int) -> None:
        """Raises InputError where its factors, (steps,) or (steps, models), make something of it that is not accepted;
        it is enough to look at the least and the largest."""
        value = np.asarray(self.value)
        for rows in (column.argmin(0), column.argmax(0)):
            found = np.atleast_1d(value * np.take_along_axis(column, np.expand_dims(rows, 0), 0)[0])
            wrong = [member for member, v in enumerate(found.tolist()) if not self.fits(v)]
            if wrong:
                step = begin + int(np.broadcast_to(rows, found.shape)[wrong[0]])
                raise InputError(
                    f"{self.name} must be {self.accepted}, but the schedule {name_of(self.schedule)} makes it "
                    f"{found[wrong[0]]:g} at step {step} of {end}. It is a factor on what is set, which is "
                    f"{self.value!r}."
                )


class Table:
    """The factors of some settings at each step of a fit.

    Attributes:
        part: which of them: from the first that follows a schedule to the last.
        factors: float64 (steps, part), or (steps, models, part) where a function gives one a member; None where none
            of the settings follows a schedule, or there is no step.
    """

    def __init__(
        self, settings: Sequence[ScheduledSetting], models_shape: tuple[int, ...], begin: int, end: int
    ) -> None:
        places = [place for place, setting in enumerate(settings) if setting.schedule is not None]
        self.part = slice(0)
        self.factors: Array | None = None
        if not places or begin == end:
            return
        self.part, steps = slice(places[0], places[-1] + 1), np.arange(begin, end)
        found = []
        for setting in settings[self.part]:
            found.append(np.ones(len(steps)))
            if setting.schedule is not None:
                found[-1] = factors(setting.schedule, steps, end)
                one_a_member(f"what the schedule of {setting.name} gives", found[-1][0].tolist(), models_shape)
                setting.check(found[-1], begin, end)
        members = any(column.ndim > 1 for column in found)
        found = [column[:, None] if members and column.ndim == 1 else column for column in found]
        self.factors = np.stack(np.broadcast_arrays(*found), axis=-1)


class FitSchedule:
    """The factors of all steps of one fit, on the host.

    Args:
        first, epochs: the number of the first epoch, counted from 1, and how many there are.
        steps: of an epoch. The epochs before are counted as if they had had as many.

    Raises:
        InputError: a schedule cannot be evaluated, or a setting would become what it must not be.

    Attributes:
        settings, rates: of the optimizer's settings, and of the dropout rates, one a layer.
    """

    def __init__(self, network: Network, optimizer: Optimizer, first: int, epochs: int, steps: int) -> None:
        self.network, self.optimizer, self.first, self.epochs, self.steps = network, optimizer, first, epochs, steps
        bounds, kind = {**BOUNDS, "learning_rate": RATE}, type(optimizer).__name__
        settings = [
            ScheduledSetting(f"{name} of {kind}", value, optimizer.schedule.get(name), *bounds.get(name, FINITE))
            for name, value in optimizer.settings.items()
        ]
        rates = [
            ScheduledSetting(f"the rate of {layer!r}", layer.rate, layer.schedule, *Dropout.BOUNDS)
            if isinstance(layer, Dropout) else ScheduledSetting("", 0.0, None, *FINITE)
            for layer in network.layers
        ]  # fmt: skip
        begin, end = (first - 1) * steps, (first - 1 + epochs) * steps
        self.settings, self.rates = (Table(each, network.models_shape, begin, end) for each in (settings, rates))

    def __bool__(self) -> bool:
        """Tells whether anything follows a schedule."""
        return self.settings.factors is not None or self.rates.factors is not None

    def learning_rate(self, epoch: int) -> Any:
        """Returns the learning rate of the last step of an epoch: one number, or one a member."""
        rate, table = np.asarray(self.optimizer.learning_rate), self.settings
        if table.factors is not None and table.part.start == 0:  # it is the first of the settings
            rate = rate * table.factors[(epoch - self.first + 1) * self.steps - 1, ..., 0]
        return rate.tolist()

    def end(self) -> None:
        """Puts all settings that followed a schedule back to what they are set to."""
        if not self:
            return
        self.optimizer.unschedule()
        for layer in self.network.layers:
            if isinstance(layer, Dropout):
                layer.rate = layer.rate


class FollowedSchedule:
    """What the steps of a fit follow, on a device: the tables of all `steps`, and the place in them.

    Attributes:
        first: the number of the epoch at whose first step the tables begin.
    """

    def __init__(self, schedule: FitSchedule, steps: int, device: Device) -> None:
        network, optimizer, self._device = schedule.network, schedule.optimizer, device
        self.first = schedule.first
        assert optimizer.hyper is not None and optimizer.unscheduled is not None
        arrays = {
            "settings": (
                schedule.settings,
                optimizer.unscheduled,
                optimizer.hyper[..., 1:][..., schedule.settings.part],
            ),
            "dropout rates": (schedule.rates, network.unscheduled, network.dropout_rates[..., schedule.rates.part, :]),
        }
        self._followed: list[tuple[str, Array, Array, Array]] = []
        with device.kind("schedule"):
            self.position = device.zeros((1,), np.int64)
            for name, (table, settings, values) in arrays.items():
                if table.factors is not None:
                    on_device = device.empty((steps, *table.factors.shape[1:]), np.float64)
                    device.copy_in(on_device, table.factors)
                    self._followed.append((name, on_device, settings[..., table.part], values))

    def start(self, step: int) -> None:
        """Goes to a step, counted from where the fit began."""
        self._device.copy_in(self.position, np.array([step]))

    def emit(self, plan: Plan) -> None:
        """Appends what brings the settings of a step about, before anything reads them."""
        plan.named("position", self.position)
        for name, table, settings, values in self._followed:
            plan.named(f"schedule of {name}", table)
            plan.named(f"{name} as set", settings)
            formula = f"{name} = those set ⊙ schedule[position]"
            plan.add(Operations.follow_schedule, formula, {"values": name}, table, self.position, settings, values)
