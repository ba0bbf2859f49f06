"""Schedules: by what factor a setting is multiplied at each step of a training.

A schedule is a function of (step, steps) -> factor, where step counts from 0 and steps is where the training ends. A
user's own function takes and gives one number, or gives one a member. Those of this file are records that take many
steps at once, are equal where their numbers are, and can be written to a file. In their place there may be a tuple of
them, one a member, where None stands for 1.

A length of time is an int, so many steps, or a float in (0, 1], a share of all steps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.network.numbers import number, scalar

Length = int | float
OwnSchedule = Callable[[int, int], Any]

_FACTOR = ("a finite number ≥ 0", lambda v: 0 <= v < math.inf)
NUMBERS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "factor": _FACTOR,
    "start": _FACTOR,
    "peak": _FACTOR,
    "end": _FACTOR,
    "power": ("a finite number > 0", lambda v: 0 < v < math.inf),
    "multiplier": ("a finite number ≥ 1", lambda v: 1 <= v < math.inf),
}
"""What a field of a schedule may be, in words and as a test; a field of another name is a length, or a schedule."""


@dataclass(frozen=True)
class Schedule(FixedAttributes):
    """The base of all schedules."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, self._checked(field.name, getattr(self, field.name)))

    def _checked(self, name: str, value: Any) -> Any:
        what = f"{name} of {type(self).__name__}"
        return number(what, value, *NUMBERS[name]) if name in NUMBERS else _length(what, value)

    @abstractmethod
    def __call__(self, step: Any, steps: int) -> Any:
        """Returns the factor at a step, or those of an array of steps."""

    def describe(self) -> dict[str, Any]:
        """Describes it as plain data, of which `schedule` makes it again."""
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}


def _length(what: str, value: Any) -> Length:
    plain = scalar(value)
    if isinstance(plain, int) and not isinstance(plain, bool) and plain >= 1:
        return plain
    accepted = "a number of steps ≥ 1, as an int, or a share of the training, as a float in (0, 1]"
    if isinstance(plain, float):
        return number(what, plain, accepted, lambda v: 0 < v <= 1)
    raise InputError(f"{what} must be {accepted}, got {plain!r}.")


def _in_steps(length: Length, steps: int) -> float:
    """Returns a length in steps: a whole number where that is what is meant, since 0.1 · 70 is a little more than 7."""
    if isinstance(length, int):
        return length
    return round(length * steps) if math.isclose(length * steps, round(length * steps)) else length * steps


def _cosine(start: float, end: float, part: Any) -> Any:
    """From start to end, along half a wave."""
    return end + (start - end) * (1 + np.cos(np.pi * part)) / 2


@dataclass(frozen=True)
class Constant(Schedule):
    """The same at all steps.

    Args:
        factor: ≥ 0.
    """

    name: ClassVar[str] = "constant"
    factor: float = 1.0

    def __call__(self, step: Any, steps: int) -> Any:
        return np.full(np.shape(step), self.factor)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """factor^⌊step/every⌋: it falls at once, and stays.

    Args:
        factor: ≥ 0.
        every: after how many steps, or what share of all.
    """

    name: ClassVar[str] = "step"
    factor: float = 0.1
    every: Length = 1 / 3

    def __call__(self, step: Any, steps: int) -> Any:
        return self.factor ** np.floor(np.divide(step, _in_steps(self.every, steps)))


@dataclass(frozen=True)
class Exponential(Schedule):
    """factor^(step/every).

    Args:
        factor: ≥ 0; where it is reached after `every` steps.
        every: so many steps, or that share of all; 1.0: at the end.
    """

    name: ClassVar[str] = "exponential"
    factor: float = 0.01
    every: Length = 1.0

    def __call__(self, step: Any, steps: int) -> Any:
        return self.factor ** np.divide(step, _in_steps(self.every, steps))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """end + (1 − end)(1 − step/steps)^power. A power of 1 is a straight line.

    Args:
        power: > 0.
        end: ≥ 0, what it comes to.
    """

    name: ClassVar[str] = "polynomial"
    power: float = 2.0
    end: float = 0.0

    def __call__(self, step: Any, steps: int) -> Any:
        return self.end + (1 - self.end) * (1 - np.divide(step, steps)) ** self.power


@dataclass(frozen=True)
class Cosine(Schedule):
    """end + (1 − end)(1 + cos πt)/2, where t goes from 0 to 1 in a period, and then begins again: warm restarts
    (Loshchilov and Hutter 2017, equation 5).

    Args:
        period: how many steps, or what share of all, the first period takes; 1.0: there is no other.
        multiplier: ≥ 1, how many times as long each period is as the one before.
        end: ≥ 0, what it comes to in each.
    """

    name: ClassVar[str] = "cosine"
    period: Length = 1.0
    multiplier: float = 1.0
    end: float = 0.0

    def __call__(self, step: Any, steps: int) -> Any:
        period, by, step = _in_steps(self.period, steps), self.multiplier, np.asarray(step, np.float64)
        if by == 1:
            return _cosine(1, self.end, step % period / period)

        def begin(n: Any) -> Any:
            return period * (by**n - 1) / (by - 1)

        n = np.floor(np.log1p((by - 1) * step / period) / np.log(by))
        n += begin(n + 1) <= step  # where a logarithm was a little less than a whole number
        return _cosine(1, self.end, (step - begin(n)) / (period * by**n))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From start up to peak, and from there down to end, along cosines (Smith and Topin 2019); the last step has end.

    The defaults are PyTorch's for the learning rate, which is then the largest. The momentum goes the other way: of
    one that is 0.95, OneCycle(start=1, peak=0.85 / 0.95, end=1).

    Args:
        rise: in how many steps, or what share of all, it comes to the peak.
        start, peak, end: ≥ 0.
    """

    name: ClassVar[str] = "one_cycle"
    rise: Length = 0.3
    start: float = 1 / 25
    peak: float = 1.0
    end: float = 1 / 250_000

    def __call__(self, step: Any, steps: int) -> Any:
        top, last = max(_in_steps(self.rise, steps) - 1, 0), steps - 1
        up = np.divide(step, max(top, 1e-9))
        down = np.divide(np.subtract(step, top), max(last - top, 1e-9))
        rising, falling = _cosine(self.start, self.peak, up), _cosine(self.peak, self.end, down)
        return np.where(np.less_equal(step, top), rising, falling)


@dataclass(frozen=True)
class Coslog4(Schedule):
    """½(1 − cos(2π log₂(1 + 15·step/steps))): four waves from 0 to 1 and back, each twice as long as the one before
    (Holzmüller et al. 2024, RealMLP)."""

    name: ClassVar[str] = "coslog4"

    def __call__(self, step: Any, steps: int) -> Any:
        return (1 - np.cos(2 * np.pi * np.log2(1 + 15 * np.divide(step, steps)))) / 2


@dataclass(frozen=True)
class FlatCosine(Schedule):
    """½(1 + cos π·max(2·step/steps − 1, 0)): 1 for the first half, then along a cosine to 0 (Holzmüller et al. 2024,
    RealMLP, for dropout and weight decay)."""

    name: ClassVar[str] = "flat_cosine"

    def __call__(self, step: Any, steps: int) -> Any:
        return _cosine(1, 0, np.maximum(2 * np.divide(step, steps) - 1, 0))


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line up to where another schedule begins, which then takes the steps that are left: of n steps, step k
    has (k + 1)/(n + 1) of that, so that none has 0.

    Args:
        length: n, or what share of all steps.
        before: the schedule, by name or itself, a function of (step, steps), or a list of them, one a member.
    """

    name: ClassVar[str] = "warmup"
    length: Length = 0.1
    before: Followed | str = "constant"

    def _checked(self, name: str, value: Any) -> Any:
        return schedule(value) if name == "before" else super()._checked(name, value)

    def __call__(self, step: Any, steps: int) -> Any:
        n = max(1, round(_in_steps(self.length, steps)))
        after = np.asarray(factors(self.before, np.maximum(np.subtract(step, n), 0), max(1, steps - n)))
        rise = np.minimum(1, np.add(step, 1) / (n + 1))
        return after * rise.reshape(rise.shape + (1,) * (after.ndim - rise.ndim))  # one a member, of a function

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "before": describe(self.before)}


@dataclass(frozen=True)
class Unknown(Schedule):
    """Stands for a function of the user's that a file cannot hold: files hold data, never code."""

    function: str

    def _checked(self, name: str, value: Any) -> Any:
        return value

    def __call__(self, step: Any, steps: int) -> Any:
        raise InputError(
            f"the schedule {self.function!r} was a function of your own, which no file holds: set the schedule anew, "
            "to that function or to None."
        )

    def describe(self) -> dict[str, Any]:
        return {"name": self.function, "own": True}


Followed = Schedule | OwnSchedule | tuple[Any, ...]

KINDS: Mapping[str, type[Schedule]] = {
    kind.name: kind
    for kind in (Constant, StepDecay, Exponential, Polynomial, Cosine, OneCycle, Coslog4, FlatCosine, Warmup)
}  # fmt: skip

SCHEDULES: Mapping[str, Callable[[], Schedule]] = {
    **{name: kind for name, kind in KINDS.items() if kind is not Warmup},
    "linear": partial(Polynomial, power=1.0),
}
"""By name, what makes the schedule with its default numbers."""


def schedule(spec: Any) -> Followed:
    """Returns the schedule that `spec` is: a name, a Schedule, a function of (step, steps), what `describe` gave, or a
    list of these and None, one a member."""
    match spec:
        case list() | tuple():
            if not spec or any(isinstance(one, (list, tuple)) for one in spec):
                raise InputError(f"a list of schedules must have one a member, got {spec!r}.")
            return tuple(None if one is None else schedule(one) for one in spec)
        case Schedule():
            return spec
        case {"name": str(name), "own": True, **rest} if not rest:
            return Unknown(name)
        case {"name": str(name), **numbers}:
            try:
                return choose("schedule", name, KINDS)(**{str(key): value for key, value in numbers.items()})
            except TypeError as error:
                raise InputError(f"a schedule cannot be made of {spec!r}: {error}.") from None
        case type():
            raise InputError(f"a schedule must be an object, got the class {spec.__name__}: write {spec.__name__}().")
    if not callable(spec):
        if isinstance(spec, str):
            return choose("schedule", spec, SCHEDULES)()
        raise InputError(
            "a schedule must be a name, a Schedule, a function of (step, steps), or a list of these, one a member, got "
            f"{type(spec).__name__} {spec!r}."
        )
    try:
        signature(spec).bind(0, 1)
    except ValueError:  # of some that are built in, nothing is known
        pass
    except TypeError as error:
        raise InputError(f"the schedule {name_of(spec)} must be a function of (step, steps) ({error}).") from None
    own: OwnSchedule = spec
    return own


def check_members(what: str, of: Followed, models_shape: tuple[int, ...]) -> None:
    """Raises InputError where there is a schedule a member, and they are not as many."""
    if isinstance(of, tuple) and (len(of),) != models_shape:
        members = f", or {models_shape[0]}, one a member" if models_shape else ""
        raise InputError(f"{what} must be one schedule{members}, got a list of {len(of)}.")


def describe(of: Any) -> Any:
    """Describes a schedule as plain data; of a function the name alone is kept."""
    if isinstance(of, tuple):
        return [None if one is None else describe(one) for one in of]
    return of.describe() if isinstance(of, Schedule) else {"name": name_of(of), "own": True}


def name_of(schedule: Any) -> str:
    """Returns what a message calls a schedule: of a function its name alone."""
    if isinstance(schedule, tuple):
        return f"[{', '.join(name_of(one) for one in schedule)}]"
    if schedule is None or isinstance(schedule, Schedule):
        return repr(schedule)
    return str(getattr(schedule, "__name__", type(schedule).__name__))


def factors(of: Any, step: Any, steps: int) -> Any:
    """Returns the factors of a schedule at some steps, float64 (n,), or (n, models) where there is one a member, or a
    function gives one; or those at one step.

    Raises:
        InputError: a function gives anything but finite numbers, as many at each step.
    """
    if isinstance(of, tuple):
        columns = [np.ones(np.shape(step)) if one is None else factors(one, step, steps) for one in of]
        if wrong := [one for one, column in zip(of, columns, strict=True) if np.shape(column) != np.shape(step)]:
            raise InputError(f"the schedule {name_of(wrong[0])} is of one member, and must give one number.")
        return np.stack(columns, axis=-1)
    if isinstance(of, Schedule):
        return of(step, steps)
    at = np.ravel(step).tolist()
    given = [of(one, steps) for one in at]
    for k, one in enumerate(given if not _fit(given, 2) else ()):
        if not _fit(one, 1):
            accepted = "a finite number, or one a member"
            raise InputError(f"the schedule {name_of(of)} must give {accepted}; at step {at[k]} of {steps}: {one!r}.")
    try:
        found = np.asarray(given, np.float64)
    except ValueError as error:
        raise InputError(f"the schedule {name_of(of)} must give as many numbers at each step ({error}).") from None
    return found if np.ndim(step) else found[0]


def _fit(given: Any, axes: int) -> bool:
    """Tells whether all are finite numbers, in an array of at most so many axes."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):
        return False
    return array.ndim <= axes and array.dtype.kind in "biuf" and bool(np.isfinite(array).all())
