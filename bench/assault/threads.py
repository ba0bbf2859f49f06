"""Many threads at one network, trainers side by side, and Ctrl-C in the middle of steps: how many answers are wrong?

Every call has an answer that one thread alone has got before, and every interrupted step is followed by one that is
compared with an undisturbed one, bit for bit. The moments of Ctrl-C come from a timer, so that they are not the same in
two runs; what is right is. On NumPy alone, in float64 and float32, and on compiled kernels where there is a compiler.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import numpy as np
from verdict import asked_quick, report

import gpu_backprop as gb
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.errors import StateError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.snapshot import Snapshot
from gpu_backprop.data import Preprocessing, Table

THREADS, ROWS = 8, 96
RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(THREADS, ROWS, 20)), np.arange(ROWS) % 3


def trainer_of(dtype: str, seed: int = 0) -> gb.Trainer:
    """What all of this is done to."""
    layers = [gb.Dense(128, "gelu"), gb.Dropout(0.2), gb.Dense(32, "softplus"), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(20, layers, dtype=dtype, device="cpu", seed=seed), batch_size=32)


def state(trainer: gb.Trainer) -> list[bytes]:
    """All that training leaves behind."""
    return [array.tobytes() for array in trainer.training_step.state().arrays.values()]


def reading(where: str, dtype: str, calls: int) -> Iterator[str]:
    """predict, forward and evaluate by many threads, while another one trains the network beside it."""
    trainer, busy = trainer_of(dtype), trainer_of(dtype)
    net = trainer.network
    asks = {
        "predict of a row": lambda k: net.predict(X[k][:1]),
        "predict": lambda k: net.predict(X[k]),
        "forward": lambda k: net.forward(X[k]),
        "evaluate": lambda k: np.array(list(trainer.evaluate(X[k], LABELS).values())),
        "forward and backward": lambda k: net.backward(net.forward(X[k])),
        "of a network in training": lambda k: busy.network.predict(X[k]) * 0,
    }
    expected = {name: [ask(k) for k in range(THREADS)] for name, ask in asks.items()}

    def wrong(call: int) -> str:
        name, k = list(asks)[call % len(asks)], call // len(asks) % THREADS
        same = np.allclose(asks[name](k), expected[name][k], 0, 1e-6)
        return "" if same else f"{where}: {name}, call {call}, is another caller's"

    with ThreadPoolExecutor(THREADS + 1) as pool:
        training = pool.submit(busy.fit, X[0], LABELS, 10**9, progress=False)
        try:
            yield from filter(None, pool.map(wrong, range(calls)))
        finally:
            while not wait([training], 0.1).done:  # again: fit forgets what it was asked before it began
                busy.stop()


def transforming(calls: int) -> Iterator[str]:
    """Tables with other unknown categories and columns each, prepared by one Preprocessing."""

    def table(k: int) -> Table:
        words = np.array([f"word {j % 3}" for j in range(ROWS)], object)
        words[: 2 * k] = "unknown"
        more = {f"more {j}": np.arange(float(ROWS)) for j in range(k)}
        return Table("t", {"n": X[k][:, 0].copy(), "word": words, "y": np.arange(float(ROWS)), **more})

    tables = [table(k) for k in range(THREADS)]
    learned = Preprocessing.fit(tables[0], "y", task="regression")

    def ask(k: int) -> tuple[bytes, dict[str, int], list[str]]:
        return learned.transform(tables[k]).tobytes(), learned.unseen, learned.extra

    expected = [ask(k) for k in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for call, found in enumerate(pool.map(ask, (k % THREADS for k in range(calls)))):
            if found != expected[call % THREADS]:
                yield f"transform, call {call}, has another caller's counts"


def side_by_side(where: str, dtype: str, runs: int) -> Iterator[str]:
    """Trainers of networks of their own, in threads of their own."""

    def learn(seed: int) -> list[bytes]:
        trainer = trainer_of(dtype, seed)
        trainer.fit(X[seed], LABELS, 10, progress=False, validation=(X[0], LABELS))
        return state(trainer)

    expected = [learn(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for run, found in enumerate(pool.map(learn, (k % 4 for k in range(runs)))):
            if found != expected[run % 4]:
                yield f"{where}: trainer {run} learned something else beside others"


def one_trainer(where: str, dtype: str, steps: int) -> Iterator[str]:
    """Threads that step one trainer: each step is done whole, or refused before it has touched anything."""
    trainer, alone = trainer_of(dtype), trainer_of(dtype)

    def step(_: int) -> int:
        try:
            trainer.step(X[0], LABELS)
        except StateError:
            return 0
        return 1

    with ThreadPoolExecutor(THREADS) as pool:
        done = sum(pool.map(step, range(steps)))
    for _ in range(done):
        alone.step(X[0], LABELS)
    if state(trainer) != state(alone):
        yield f"{where}: {done} of {steps} steps of {THREADS} threads are not {done} steps"


def interrupted(where: str, dtype: str, attempts: int) -> Iterator[str]:
    """Ctrl-C at some moment of fit, step or predict, and then the same step again from the same state."""
    trainer = trainer_of(dtype)
    for _ in range(5):
        trainer.step(X[0], LABELS)
    before = Snapshot(trainer.device, trainer.training_step.state().arrays)

    def next_step() -> list[bytes]:
        before.restore()
        trainer.step(X[1], LABELS)
        return state(trainer)

    expected, y = next_step(), trainer.network.predict(X[2])
    work = (partial(trainer.fit, X[0], LABELS, 10**6, progress=False), partial(_for_ever, trainer.step, X[0], LABELS))
    work += (partial(_for_ever, trainer.network.predict, X[0]),)
    moments = RNG.uniform(1e-4, 3e-2, attempts)
    for attempt, after in enumerate(moments):
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            work[attempt % len(work)]()
        except KeyboardInterrupt:
            pass
        try:
            if next_step() != expected:
                yield f"{where}: after Ctrl-C {attempt} a step gives something else"
            if not np.array_equal(trainer.network.predict(X[2]), y):
                yield f"{where}: after Ctrl-C {attempt} a prediction is something else"
        except Exception as error:
            yield f"{where}: after Ctrl-C {attempt} {type(error).__name__}: {error}"


def _for_ever(call: object, *arguments: Array) -> None:
    while True:
        call(*arguments)  # type: ignore[operator]


def main() -> int:
    """Run it all; the exit code."""
    quick = asked_quick(__doc__)
    calls, runs, steps, attempts = (600, 8, 200, 40) if quick else (30_000, 200, 20_000, 1200)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    failures = list(transforming(calls))
    places = [("NumPy, float64", "float64"), ("NumPy, float32", "float32")]
    try:
        compiler.find()
        places.insert(0, ("compiled", "float32"))
    except compiler.NoCompilerError as error:
        print(f"without compiled kernels: {error}")
    for where, dtype in places:
        if where != "compiled":
            os.environ[compiler.VARIABLE] = compiler.NONE
        failures += reading(where, dtype, calls)
        failures += side_by_side(where, dtype, runs)
        failures += one_trainer(where, dtype, steps)
        failures += interrupted(where, dtype, attempts)
    n = len(places)
    return report(
        f"{calls * (n + 1):,} reading calls of {THREADS} threads, {runs * n:,} trainers side by side, {steps * n:,} "
        f"steps of one trainer by {THREADS} threads, {attempts * n:,} times Ctrl-C, on {n} back ends",
        failures,
    )


if __name__ == "__main__":
    raise SystemExit(main())
