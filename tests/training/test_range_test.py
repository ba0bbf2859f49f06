"""The range test: what it tries, measures and suggests, and that it leaves everything as it was."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.training import range_test
from gpu_backprop.training.range_test import SMOOTHING, RangeTest

STREAM = np.random.default_rng(3)
X = STREAM.normal(size=(90, 4))
Y = X @ STREAM.normal(size=(4, 2))


def trainer_of(seed=1, optimizer="sgd", dtype="float64", **options):
    net = gb.Network(4, [gb.Dense(6, "tanh"), gb.Dropout(0.2), gb.Dense(2)], seed=seed, dtype=dtype, device="cpu")
    return gb.Trainer(net, optimizer=optimizer, batch_size=16, **options)


def left(trainer):
    """All that a trainer goes on from, with its settings."""
    net, optimizer = trainer.network, trainer.optimizer
    arrays = [net.parameters, net.gradients, net.random, optimizer.hyper, optimizer.unscheduled]
    return [a.tobytes() for a in arrays], pickle.dumps(trainer)


@pytest.mark.parametrize("seed", [1, [1, 2]], ids=["one", "two members"])
@pytest.mark.parametrize("optimizer", ["sgd", gb.Adam([0.01, 0.02], schedule="cosine")], ids=repr)
def test_nothing_is_changed(optimizer, seed):
    if seed == 1 and optimizer != "sgd":
        optimizer = gb.Adam(0.01, schedule="cosine")
    trainer, twin = (trainer_of(seed, optimizer) for _ in range(2))
    for one in (trainer, twin):
        one.fit(X, Y, 2, progress=False)
    before = left(trainer)
    trainer.find_learning_rate(X, Y, steps=30)
    assert left(trainer) == before
    for one in (trainer, twin):
        one.fit(X, Y, 1, progress=False)
    assert trainer.network.parameters.tobytes() == twin.network.parameters.tobytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_changed_by_one_that_is_ended(error, monkeypatch):
    trainer, calls = trainer_of(), []
    trainer.step(X, Y)
    before = left(trainer)

    def measured(*_):
        calls.append(trainer.optimizer.learning_rate)
        if len(calls) == 5:
            raise error
        return 1.0

    monkeypatch.setattr(range_test, "StepLoss", measured)
    with pytest.raises(error):
        trainer.find_learning_rate(X, Y)
    assert left(trainer) == before and len({*calls}) == 5


def test_each_step_has_its_rate_and_its_rows():
    """The losses are those of steps by hand, on the minibatches of a permutation."""
    trainer, twin = trainer_of(), trainer_of()
    found = trainer.find_learning_rate(X, Y, lowest=1e-4, highest=1e-2, steps=20)
    np.testing.assert_allclose(found.rates, 1e-4 * 100 ** (np.arange(20) / 19))
    rng, rows, losses = np.random.default_rng([1, 2]), [], []
    while len(rows) < 20:
        order = rng.permutation(90)
        rows += [order[begin : begin + 16] for begin in range(0, 80, 16)]
    for rate, chosen in zip(found.rates, rows[:20], strict=True):
        twin.optimizer.learning_rate = rate
        losses.append(float(twin.step(X[chosen], Y[chosen])))
    weights = SMOOTHING ** np.abs(np.subtract.outer(np.arange(20), np.arange(20)))
    weights = np.tril(weights)
    np.testing.assert_allclose(found.losses, weights @ losses / weights.sum(axis=1), rtol=1e-12)


def test_it_ends_where_the_loss_diverges():
    found = trainer_of().find_learning_rate(X, Y, lowest=1e-5, highest=1e5, steps=200)
    assert len(found.rates) == len(found.losses) < 200
    assert not found.losses[-1] <= 4 * np.nanmin(found.losses)
    assert (found.losses[:-1] <= 4 * np.minimum.accumulate(found.losses[:-1])).all()
    assert 1e-3 < found.suggestion < 1 and found.suggestion == found.rates[found.losses.argmin()] / 10


def test_members_are_each_as_alone():
    together = trainer_of([1, 2]).find_learning_rate(X, Y, lowest=1e-5, highest=1e3, steps=60)
    assert together.losses.shape == (len(together.rates), 2) and len(together.suggestion) == 2
    alone = trainer_of(1).find_learning_rate(X, Y, lowest=1e-5, highest=1e3, steps=60)  # whose order is the first's
    n = min(len(alone.rates), len(together.rates))
    np.testing.assert_allclose(together.losses[:n, 0], alone.losses[:n], rtol=1e-9)
    assert "suggestion of each member: " in repr(together)


def test_a_loss_that_never_falls_suggests_nothing():
    rates = np.geomspace(1e-3, 1, 30)
    for losses in (np.linspace(1, 2, 30), np.full(30, np.nan)):
        assert RangeTest(rates, losses).suggestion is None
        assert repr(RangeTest(rates, losses)).endswith("suggestion: none>")


def test_the_end_of_the_range_is_said():
    rates, losses = np.geomspace(1e-3, 1, 30), np.linspace(2, 1, 30)
    falls, turns = RangeTest(rates, losses), RangeTest(rates, np.r_[losses[:-1], 1.5])
    assert falls.suggestion == pytest.approx(0.1) and falls.ended and not turns.ended
    assert repr(falls).endswith("; suggestion: 0.1; the loss was least at the end of the range: try a larger highest>")
    assert repr(turns) == "<RangeTest of 30 rates up to 1; suggestion: 0.079>"
    assert RangeTest(rates, np.stack([losses, losses[::-1]], 1)).ended


def test_nothing_is_suggested_below_what_was_tried():
    losses = np.r_[np.linspace(2, 1, 12), np.linspace(1, 2, 18)]
    assert RangeTest(np.geomspace(1e-7, 1e-4, 30), losses).suggestion == pytest.approx(1.37e-7, rel=0.01)
    assert RangeTest(np.geomspace(1e-7, 1e-6, 30), losses).suggestion is None


def test_fewer_rows_than_a_minibatch_and_weights():
    found = trainer_of().find_learning_rate(X[:5], Y[:5], np.arange(5.0), steps=20)
    assert len(found.rates) == 20


@pytest.mark.parametrize("losses", [np.linspace(2, 1, 30), np.ones((30, 3)) * np.linspace(2, 1, 30)[:, None]])
def test_the_plot(losses, tmp_path):
    pytest.importorskip("matplotlib")
    figure = RangeTest(np.geomspace(1e-3, 1, 30), losses).plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 1000
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate"
    assert len(axes.lines) == 2 * (1 if losses.ndim == 1 else 3)


WRONG = [
    ({"lowest": 0}, "lowest must be a finite number > 0, got 0"), ({"highest": np.inf}, "highest must be a finite"),
    ({"lowest": 1, "highest": 0.1}, "lowest must be less than highest, got 1.0 and 0.1"),
    ({"steps": 5}, "steps must be an integer ≥ 20, got 5"), ({"steps": 30.5}, "steps must be an integer"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be(options, said):
    with pytest.raises(InputError, match=said):
        trainer_of().find_learning_rate(X, Y, **options)
