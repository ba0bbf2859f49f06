"""on_divergence="halve_rate": an epoch that diverges begins again with half the learning rate."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.training import fit as fit_module
from gpu_backprop.training.progress import Progress

RNG = np.random.default_rng(3)
X = RNG.normal(size=(50, 4))
Y = X @ RNG.normal(size=(4, 2))

DTYPES = ["float64", "float32"]
"""NumPy, and compiled kernels where there is a compiler."""


class Watch:
    """A callback after every step: none of them can be done again to look for the one that diverged."""

    def on_step(self, state):
        pass


def trainer_of(rate, dtype="float64", seed=1, batch_size=8, **options):
    net = gb.Network(4, [gb.Dense(6, "relu"), gb.Dropout(0.2), gb.Dense(2)], dtype=dtype, device="cpu", seed=seed)
    return gb.Trainer(net, "squared_error", gb.SGD(rate, momentum=0.5), batch_size=batch_size, **options)


def fit(trainer, epochs=1, **options):
    return trainer.fit(X, Y, epochs, progress=False, **options)


def warns(epoch):
    return pytest.warns(RuntimeWarning, match=f"NaN or infinite in epoch {epoch}, which begins again with half")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"loss_every": 2}, {"callbacks": [Watch()]}], ids=["", "loss_every", "on_step"]
)
def test_the_epoch_is_what_the_smaller_rate_makes_of_it(dtype, options):
    """Order and masks are those of its first beginning."""
    trainer = trainer_of(64.0, dtype)
    with warns(1) as caught:
        history = fit(trainer, on_divergence="halve_rate", **options)
    assert [warning.filename for warning in caught] == [__file__]  # once, and where fit was called
    halvings = history[0]["rate_halved"]
    assert halvings > 3
    assert trainer.optimizer.learning_rate == 64 / 2**halvings
    twin = trainer_of(trainer.optimizer.learning_rate, dtype)
    assert fit(twin)["loss"] == history["loss"]
    assert twin.network.parameters.tobytes() == trainer.network.parameters.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_far_off_before_the_epoch_is_not_gone_on_from(dtype):
    """One step an epoch: the loss grows without bounds for epochs before it is infinite. Each time it begins anew from
    what the epoch with the least loss began with."""
    trainer = trainer_of(1.0, dtype, batch_size=50)
    with pytest.warns(RuntimeWarning, match="so will every epoch that does, 10 times at most"):
        history = fit(trainer, 20, on_divergence="halve_rate")
    again = [row["epoch"] for row in history if "rate_halved" in row]
    assert len(again) == 2
    assert max(history["loss"][: again[0] - 1]) > 1e10 > 20 > history[-1]["loss"]
    assert "rate_halved" in history.columns
    assert max(history["loss"][epoch - 1] for epoch in again) < 20


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_that_did_not_diverge_go_on_as_they_would(dtype):
    together, calm = trainer_of([0.01, 64.0, 1.0], dtype, [1, 2, 3]), trainer_of(0.01, dtype, [1, 2, 3])
    with warns(1):
        fit(together, 5, on_divergence="halve_rate")
    fit(calm, 5)
    assert together.optimizer.learning_rate[0] == 0.01
    assert max(together.optimizer.learning_rate) <= 0.25
    assert together.network.parameters[0].tobytes() == calm.network.parameters[0].tobytes()
    assert np.isfinite(together.history[-1]["loss"]).all()


def test_it_gives_up_after_ten_halvings():
    trainer = trainer_of(1e20)
    with pytest.raises(gb.DivergedError, match=r"now 9.765625e\+16"), warns(1):
        fit(trainer, on_divergence="halve_rate")
    assert not len(trainer.history)
    assert np.isfinite(trainer.network.parameters).all()


def test_a_fit_that_does_not_diverge_is_the_same():
    one, other = trainer_of(0.01), trainer_of(0.01)
    assert fit(one, on_divergence="halve_rate")["loss"] == fit(other)["loss"]
    assert "rate_halved" not in one.history.columns


def test_the_progress_has_as_many_rows_as_there_are():
    shown = []

    class Counter(Progress):
        def advance(self, samples):
            shown.append(samples)

    trainer = trainer_of(64.0)
    with pytest.MonkeyPatch.context() as patch, warns(1):
        patch.setattr(fit_module, "open_progress", lambda *_: Counter())
        fit(trainer, on_divergence="halve_rate")
    assert sum(shown) == 50


def test_only_these_two():
    with pytest.raises(gb.InputError, match="unknown on_divergence 'half'. Known: raise, halve_rate"):
        fit(trainer_of(0.1), on_divergence="half")
