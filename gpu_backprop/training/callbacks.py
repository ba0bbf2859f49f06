"""Callbacks: functions and objects of the user's, which `Trainer.fit` calls while it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any, NamedTuple

from gpu_backprop.backend.errors import InputError, choose
from gpu_backprop.training.description import plain
from gpu_backprop.training.history import Row
from gpu_backprop.training.run import Run

HOOKS = ON_START, ON_EPOCH, ON_STEP, ON_END = "on_start", "on_epoch", "on_step", "on_end"
"""The methods of a callback, any of which it may have. A function is called as `on_epoch`."""


class FitState(NamedTuple):
    """Where a fit is: what each method of a callback is given.

    - `on_start(state)`: before the first epoch.
    - `on_epoch(state)`: after an epoch was trained and measured, and its row is in the history and the csv.
    - `on_step(state)`: after a step was handed to the device, which may still be at work on it: only what reads the
      device waits for it. NumPy's floating-point warnings are off in it. Where the loss of an epoch is not finite, the
      steps are done again to find the one, and not told again; but only if each callback with this method has the
      attribute `only_reads = True`, which promises that it changes nothing that a step reads. Such callbacks are called
      after all others. One that has a method `is_due()` is asked by it, after each step, whether to be called: cheaper
      than a state; of several ranks, the first one's answer counts. One with the attribute `each_step = False` need not
      be called after every step: it is after as many as the device is given at once, on CUDA eight in a graph or those
      of one launch, on a CPU with compiled kernels as many as take a tenth of a second, 64 at most; of several ranks,
      five times a second; and stands in the way of none of these.
    - `on_end(state)`: once, however the fit ends, also by an error or Ctrl-C; not where `on_start` was not reached.

    What a callback has to know where the fit goes on in another process, after `trainer.resume`, it returns from a
    method `state()`, as a dict of plain data and arrays, and is given by its `load_state(dict)`, after `on_start`. Its
    attribute `settings`, a tuple, names those of its attributes that must be what they were then.

    `on_start` and the others are called in the order of the callbacks, `on_end` in the opposite one, and early stopping
    is the first of all: at the end, each sees what the network was trained to last. One with the attribute
    `ends_last = True` begins before all others instead, so that it ends with the best parameters.

    Where one has the attribute `sets_rate = True`, the history tells the learning rate of the last step of each epoch,
    as it does where the learning rate follows a schedule.

    A true value that any but `on_end` returns ends the training, as `trainer.stop()` does: what was learned is kept.
    `history.stopped` then names the callback, and says why if the value is a text.

    Attributes:
        trainer: may be read (`trainer.network.predict`, `trainer.evaluate`), be stopped, and be set what can be set at
            any time, such as `trainer.optimizer.learning_rate`, from the next step on, or a layer's `trainable`, from
            the next epoch on; `fit` and `step` in it are a StateError.
        epoch: that which runs or has just ended, counted from 1 over all fits of the trainer; at the start the first.
        step: how many steps of it were handed to the device; 0 at the start.
        row: the newest row of `trainer.history`, in `on_epoch` this epoch's; None while there is none. With a models
            axis its losses and metrics are lists, one number a member.
    """

    trainer: Any
    epoch: int
    step: int
    row: Row | None


class Callback(NamedTuple):
    """A callback that was checked: its name, what it has of the methods, and itself."""

    name: str
    methods: dict[str, Callable[[FitState], object]]
    given: Any

    @property
    def only_reads(self) -> bool:
        """Whether it promises to change nothing."""
        return bool(getattr(self.given, "only_reads", False))


class Callbacks(ExitStack):
    """The callbacks of one fit. Where they end, `on_end` is called of all whose `on_start` was.

    Attributes:
        asked_by_callback: by which of them the fit was asked to end, and why; None: by none.
        have_on_step: whether any of them has that method; if none has, nothing need be called after a step.
        each_step: the names of those that have to be called after each step.
        repeatable: whether steps leave the same when they are done again: no callback changes anything after a step.
        set_rate: whether any of them says that it sets the learning rate.
        resumed: the states that a fit goes on from in another process, named as in `states`.
    """

    def __init__(self, trainer: Any, given: Any) -> None:
        super().__init__()
        if not isinstance(given, (list, tuple)):
            one = f": write callbacks=[{_name(given)}]" if callable(given) else ""
            raise InputError(f"callbacks must be a list, got {type(given).__name__}{one}.")
        self.trainer = trainer
        self.asked_by_callback: str | None = None
        checked = [_checked(number, callback) for number, callback in enumerate(given, 1)]
        self._callbacks = sorted(checked, key=lambda one: (one.only_reads, not getattr(one.given, "ends_last", False)))
        with_step = [callback for callback in self._callbacks if ON_STEP in callback.methods]
        self.each_step = [callback.name for callback in with_step if getattr(callback.given, "each_step", True)]
        if self.each_step and trainer.one_launch is True:
            raise InputError(
                f"one_launch=True cannot be: no step ends before its epoch does, but {self.each_step[0]} has on_step. "
                "Use on_epoch, or use one_launch=False."
            )
        self.have_on_step = bool(with_step)
        self._with_step = [(callback, getattr(callback.given, "is_due", None)) for callback in with_step]
        self._asks = any(is_due is not None for _, is_due in self._with_step)
        self.repeatable = all(callback.only_reads for callback in with_step)
        self.set_rate = any(getattr(callback.given, "sets_rate", False) for callback in checked)
        self.resumed: dict[str, Any] = {}

    @property
    def asked(self) -> str:
        """By whom the fit was asked to end, and why, for `History.stopped`."""
        return ", as asked" if self.asked_by_callback is None else self.asked_by_callback

    def start(self, run: Run) -> None:
        """Calls `on_start`, and gives each callback the state that it goes on from."""
        for name, callback in self._by_name():
            with run.step.communicator.alike():
                self.enter_context(self._until_end(callback, run))
            if self.resumed.get(name) is not None and hasattr(callback.given, "load_state"):
                callback.given.load_state(self.resumed[name])

    def _by_name(self) -> Iterator[tuple[str, Callback]]:
        """Yields each with its name, from the second of a name on with its number among them."""
        seen: Counter[str] = Counter()
        for callback in self._callbacks:
            seen[callback.name] += 1
            number = seen[callback.name]
            yield f"{callback.name} {number}" if number > 1 else callback.name, callback

    @property
    def names(self) -> list[str]:
        """What each is called, in the order in which they are."""
        return [name for name, _ in self._by_name()]

    def states(self, kind: type = object) -> dict[str, Any]:
        """Returns the state of each that has one, of some kind."""
        found = {name: one.given for name, one in self._by_name() if isinstance(one.given, kind)}
        return {name: given.state() for name, given in found.items() if hasattr(given, "state")}

    def settings(self) -> dict[str, dict[str, Any]]:
        """Returns the settings of each that has a state and may change something, as plain data."""
        return {
            name: {setting: plain(getattr(one.given, setting)) for setting in getattr(one.given, "settings", ())}
            for name, one in self._by_name()
            if hasattr(one.given, "state") and not one.only_reads
        }

    def epoch(self, run: Run) -> None:
        """Calls `on_epoch`."""
        for callback in self._callbacks:
            self._call(callback, ON_EPOCH, run)

    def after_step(self, run: Run) -> bool:
        """Calls `on_step`, and tells whether the training is to end."""
        due = [is_due is None or is_due() for _, is_due in self._with_step]
        if self._asks:  # a clock, maybe: the first rank's counts
            due = run.step.communicator.agree(due)
        for (callback, _), now in zip(self._with_step, due, strict=True):
            if now:
                self._call(callback, ON_STEP, run)
        if not self.repeatable:
            run.step.network.refresh()  # it may have set parameters
        return bool(self.trainer.stopping)

    @contextmanager
    def _until_end(self, callback: Callback, run: Run) -> Iterator[None]:
        """Calls `on_start`, and at the end `on_end`, whose error hides no other."""
        try:
            self._call(callback, ON_START, run)
            yield
        except BaseException as error:
            try:
                self._call(callback, ON_END, run)
            except BaseException as later:
                error.add_note(f"Then on_end of {callback.name} raised {type(later).__name__}: {later}")
            raise
        self._call(callback, ON_END, run)

    def _call(self, callback: Callback, hook: str, run: Run) -> None:
        if hook not in callback.methods:
            return
        rows = run.history.rows
        answer = callback.methods[hook](FitState(self.trainer, run.number, run.steps_done, rows[-1] if rows else None))
        if hook != ON_END and answer and not self.trainer.stopping:
            self.asked_by_callback = f" by {callback.name}" + (f" ({answer})" if isinstance(answer, str) else "")
            self.trainer.stop()


def _name(callback: Any) -> str:
    return str(getattr(callback, "__name__", type(callback).__name__))


def _checked(number: int, callback: Any) -> Callback:
    """Finds the methods of a callback; raises InputError where there are none, or one that would never be called."""
    name = _name(callback)
    if isinstance(callback, type):
        raise InputError(f"callback {number} must be an object, got the class {name}: write {name}().")
    for attribute in dir(callback):
        if attribute.startswith("on_") and callable(getattr(callback, attribute, None)):
            choose(f"method of callback {name}", attribute, dict.fromkeys(HOOKS))
    methods = {hook: getattr(callback, hook) for hook in HOOKS if hasattr(callback, hook)}
    if callable(callback):
        methods.setdefault(ON_EPOCH, callback)
    if not methods:
        accepted = f"a function of a FitState, or an object with any of the methods {', '.join(HOOKS)}"
        raise InputError(f"callback {number} must be {accepted}, got {name} {callback!r}.")
    for hook, method in methods.items():
        try:
            signature(method).bind(None)
        except ValueError:  # of some that are built in, nothing is known
            pass
        except TypeError as error:
            called = name if method is callback else f"{name}.{hook}"
            raise InputError(f"{called} must be a function of one argument, a FitState ({error}).") from None
    return Callback(name, methods, callback)
