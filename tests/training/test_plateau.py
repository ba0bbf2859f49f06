"""A learning rate that falls where a fit gets no better, beside PyTorch's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError

LOSSES = [
    1.0, 0.9, 0.9, 0.9, 0.9, 0.85, 0.85, 0.849999, 0.85, 0.85, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6,
    0.6,
]  # fmt: skip

# PyTorch 2.13.0: param_groups[0]["lr"] of an SGD(lr=0.1) after each ReduceLROnPlateau.step(loss) of LOSSES, with
# threshold_mode="abs" and factor=0.5, patience=2, threshold=0; factor=0.5, patience=2, threshold=1e-3, cooldown=2,
# min_lr=0.02; factor=0.1, patience=0, threshold=0.01, cooldown=1, mode="max", up to the eps below which it stops.
PYTORCH = [
    ({"factor": 0.5, "patience": 3}, [0.1] * 4 + [0.05] * 6 + [0.025] * 3 + [0.0125] * 6 + [0.00625] * 3),
    (
        {"factor": 0.5, "patience": 3, "min_delta": 1e-3, "cooldown": 2, "minimum": 0.02},
        [0.1] * 4 + [0.05] * 5 + [0.025] * 5 + [0.02] * 8,
    ),
    (
        {"factor": 0.1, "patience": 1, "min_delta": 0.01, "cooldown": 1, "mode": "max"},
        [0.1, *np.repeat([1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7], 2), 1e-8],
    ),
]


def followed(callback, losses, rate=0.1, models_shape=()):
    """The learning rates after each epoch."""
    optimizer, rates = SimpleNamespace(learning_rate=rate), []
    trainer = SimpleNamespace(optimizer=optimizer, network=SimpleNamespace(models_shape=models_shape), metrics=None)
    callback.on_start(SimpleNamespace(trainer=trainer, epoch=1, row=None))
    for epoch, loss in enumerate(losses, 1):
        callback.on_epoch(SimpleNamespace(trainer=trainer, epoch=epoch, row={"val_loss": loss}))
        rates.append(optimizer.learning_rate)
    return rates


@pytest.mark.parametrize(("settings", "wanted"), PYTORCH, ids=["plain", "all settings", "a large value is good"])
def test_the_rates_are_pytorchs(settings, wanted):
    found = followed(gb.ReduceOnPlateau(**settings), LOSSES[: len(wanted)])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_each_member_by_itself():
    settings, worse = PYTORCH[1][0], [2 * loss for loss in reversed(LOSSES)]
    together = followed(gb.ReduceOnPlateau(**settings), [*map(list, zip(LOSSES, worse, strict=True))], [0.1, 0.3], (2,))
    alone = [followed(gb.ReduceOnPlateau(**settings), *each) for each in ((LOSSES, 0.1), (worse, 0.3))]
    assert together == [*map(list, zip(*alone, strict=True))]


def test_nan_is_no_improvement_and_a_rate_stays_above_0():
    rates = followed(gb.ReduceOnPlateau(factor=1e-200, patience=1), [np.nan] * 4)
    assert rates == [0.1 * 1e-200] * 4


@pytest.mark.parametrize("epochs", [1, 2, 5, 9])
def test_it_goes_on_from_its_state(epochs):
    settings = PYTORCH[1][0]
    whole = followed(gb.ReduceOnPlateau(**settings), LOSSES)
    first, second = (gb.ReduceOnPlateau(**settings) for _ in range(2))
    rate = followed(first, LOSSES[:epochs])[-1]
    start = second.on_start
    second.on_start = lambda state: (start(state), second.load_state(first.state()))
    assert followed(second, LOSSES[epochs:], rate) == whole[epochs:]


def test_in_a_fit():
    """The history tells the rate that an epoch was trained with, and that of a schedule is a factor on top."""
    x = np.random.default_rng(0).normal(size=(12, 3))
    for schedule, factors in ((None, [1, 1, 1]), ("linear", [5 / 6, 3 / 6, 1 / 6])):
        net = gb.Network(3, [gb.Dense(1)], dtype="float64", seed=1, device="cpu")
        trainer = gb.Trainer(net, optimizer=gb.SGD(1e-9, schedule=schedule), batch_size=6)
        callback = gb.ReduceOnPlateau("loss", 0.5, patience=1, min_delta=1e9)
        trainer.fit(x, x[:, :1], 3, callbacks=[callback], progress=False)
        np.testing.assert_allclose(trainer.history["learning_rate"], np.multiply(factors, [1e-9, 1e-9, 0.5e-9]))
        assert trainer.optimizer.learning_rate == 0.25e-9


def test_validation_data_are_needed_before_anything_is_trained():
    net, x = gb.Network(3, [gb.Dense(1)], device="cpu"), np.ones((12, 3))
    with pytest.raises(InputError, match="ReduceOnPlateau monitors val_loss, but there are no validation data"):
        gb.Trainer(net).fit(x, x[:, :1], 1, callbacks=[gb.ReduceOnPlateau()], progress=False)
    gb.Trainer(net).fit(x, x[:, :1], 1, callbacks=[gb.ReduceOnPlateau()], early_stopping=True, progress=False)


WRONG = [
    ({"factor": 1}, r"factor must be a number in \(0, 1\), got 1"), ({"patience": 0}, "patience must be an integer"),
    ({"cooldown": 1.5}, "cooldown must be an integer"), ({"minimum": -1}, "minimum must be a finite number ≥ 0"),
    ({"min_delta": np.nan}, "min_delta must be a finite number ≥ 0"), ({"mode": "least"}, "mode 'least'"),
    ({"monitor": 5}, "monitor must be the name of a column of the history"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), WRONG, ids=[next(iter(settings)) for settings, _ in WRONG])
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(InputError, match=said):
        gb.ReduceOnPlateau(**settings)


def test_a_column_that_is_not_there_and_a_mode_that_nobody_knows():
    with pytest.raises(InputError, match="monitor of ReduceOnPlateau 'val_acuracy'"):
        followed(gb.ReduceOnPlateau("val_acuracy", mode="max"), [1.0])
    with pytest.raises(InputError, match=r"give ReduceOnPlateau\('val_own', mode='min'\) or mode='max'"):
        followed(gb.ReduceOnPlateau("val_own"), [1.0])
    assert eval(repr(gb.ReduceOnPlateau(patience=3)), vars(gb)).patience == 3
