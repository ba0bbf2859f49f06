"""Where ranks are given different things, all of them are told; and what a trainer does not do where it has several.

What they learn is tested in tests/distributed/.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from thread_ranks import on_threads

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.explanation import explain

_random = np.random.default_rng(5)
X, Y = _random.normal(size=(20, 3)), _random.normal(size=(20, 2))


def trainer_of(communicator, seed=0, layers=(4,), **settings):
    layers = [*(gb.Dense(units, "tanh") for units in layers), gb.Dense(2)]
    net = gb.Network(3, layers, seed=seed, dtype="float64", device="cpu")
    return gb.Trainer(net, communicator=communicator, **{"batch_size": 8} | settings)


def fit(rank, settings=None, **given):
    """What the fit of a rank raises, and whether it has learned anything."""
    trainer = trainer_of(rank, **settings or {})
    before = trainer.network.parameters.copy()
    data = given.pop("x", X), given.pop("y", Y)
    try:
        trainer.fit(*data, **{"epochs": 2, "progress": False} | given)
    except gb.GpuBackpropError as error:
        return error, not np.array_equal(trainer.network.parameters, before)
    return None, True


OTHERS = {
    "batch_size": ({"settings": {"batch_size": 9}}, "batch_size is 9 on rank 1 and 8 on rank 0"),
    "optimizer": ({"settings": {"optimizer": gb.SGD(0.1)}}, "optimizer name is 'sgd' on rank 1"),
    "a rate": ({"settings": {"optimizer": gb.Adam(0.1)}}, "learning_rate is 0.1 on rank 1"),
    "loss": ({"settings": {"loss": "huber"}}, "loss name is 'huber' on rank 1"),
    "clip_norm": ({"settings": {"clip_norm": 1.0}}, "clip_norm is 1.0 on rank 1 and None on rank 0"),
    "average": ({"settings": {"average": 0.9}}, "average is 0.9 on rank 1"),
    "accumulate": ({"settings": {"accumulate": 2}}, "accumulate is 2 on rank 1"),
    "metrics": ({"settings": {"metrics": ["rmse"]}}, "metrics is 'rmse' on rank 1"),
    "parameters": ({"settings": {"seed": 1}}, "state parameters is"),
    "seed": ({"settings": {"seed": 1}}, "seeds is [1] on rank 1 and [0] on rank 0"),
    "layers": ({"settings": {"layers": (5,)}}, "on rank 1"),
    "epochs": ({"epochs": 3}, "epochs is [1, 3] on rank 1 and [1, 2] on rank 0"),
    "shuffle": ({"shuffle": False}, "shuffle is False on rank 1"),
    "rows": ({"x": X[:19], "y": Y[:19]}, "training x forms is ['float64 (19, 3)'] on rank 1"),
    "x": ({"x": X + 1}, "training x sha256 is"),
    "y": ({"y": Y + 1}, "training y sha256 is"),
    "weights": ({"weights": np.ones(20)}, "training weights"),
    "validation": ({"validation": (X, Y)}, "validation x"),
    "validation_split": ({"validation_split": 0.2}, "on rank 1"),
    "on_divergence": ({"on_divergence": "halve_rate"}, "on_divergence is 'halve_rate' on rank 1"),
    "early stopping": ({"early_stopping": gb.EarlyStopping("loss")}, "EarlyStopping"),
    "loss_every": ({"loss_every": 2}, "loss_every is 2 on rank 1 and None on rank 0"),
    "callbacks": ({"callbacks": [print]}, "callbacks is ['print'] on rank 1 and [] on rank 0"),
    "a dtype": ({"x": X.astype("float32")}, "training x forms is ['float32 (20, 3)'] on rank 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_one_rank_is_given_otherwise_is_told_on_all_and_nothing_is_learned(what):
    given, told = OTHERS[what]
    for error, learned in on_threads(2, lambda rank: fit(rank, **(given if rank.rank else {}))):
        assert isinstance(error, InputError) and told in str(error)
        assert not learned


def test_an_error_on_one_rank_is_told_on_the_others():
    (first, learned), (own, _) = on_threads(2, lambda rank: fit(rank, **({"y": Y * np.nan} if rank.rank else {})))
    assert "NaN" in str(own) and not learned
    assert str(first) == f"another rank cannot begin: rank 1: {own}"


def test_ranks_that_are_given_the_same_learn_together():
    assert on_threads(2, fit) == [(None, True)] * 2


REFUSED = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "diagnose": lambda trainer: trainer.diagnose(X, Y),
    "explain": lambda trainer: explain(trainer, X[:2], Y[:2]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_of_one_process_is_refused_where_there_are_ranks(what):
    def refused(rank):
        trainer = trainer_of(rank)
        with pytest.raises(InputError, match="ranks|rank . of 2"):
            REFUSED[what](trainer)

    on_threads(2, refused)


# The plan of a step ---------------------------------------------------------------------------------------------------


def steps_of(plan):
    return [o.name for o in plan.operations]


def test_gradients_are_summed_up_between_backward_and_update_and_weights_before_the_loss():
    def plans(rank):
        trainer = trainer_of(rank)
        return trainer.plan(8), trainer.plan(8, weights=True)

    for plain, weighted in on_threads(3, plans):
        assert [o.phase for o in plain.operations if o.name == "all_reduce"] == ["reduce"]
        names = steps_of(weighted)
        first, last = (place for place, name in enumerate(names) if name == "all_reduce")
        assert first < names.index("matmul") < names.index("loss_gradient") < last < names.index("update")
        assert {o.phase for o in weighted.operations[last + 1 :]} == {"update"}
        assert "∇ = Σ∇ of all ranks" in str(plain)


def test_a_rank_without_rows_works_nothing_out_and_still_takes_part():
    first, last = on_threads(2, lambda rank: trainer_of(rank).plan(1))
    assert steps_of(first) == ["copy", "all_reduce", "advance", "update"]
    of_one = steps_of(trainer_of(None).plan(1))
    assert steps_of(last) == ["gather", *of_one[:-2], "all_reduce", *of_one[-2:]]


def test_the_loss_is_divided_by_the_rows_of_all_ranks():
    for plan in on_threads(3, lambda rank: trainer_of(rank).plan(9)):
        (loss,) = (o for o in plan.operations if o.name == "loss_gradient")
        assert loss.arguments["scale"] == 1 / 9 and plan.buffers["x"].shape == (3, 3)


@pytest.mark.parametrize("differs", ["rows", "weights"])
@pytest.mark.parametrize("call", ["step", "evaluate"])
def test_minibatches_and_data_of_other_forms_on_the_ranks_are_refused(call, differs):
    def refuse(rank):
        trainer = trainer_of(rank)
        rows = 4 + rank.rank if differs == "rows" else 4
        weights = np.ones(rows) if differs == "weights" and rank.rank else None
        with pytest.raises(InputError, match=f"{differs} is (5|True) on rank 1 and (4|False) on rank 0"):
            getattr(trainer, call)(X[:rows], Y[:rows], weights)

    on_threads(2, refuse)


@pytest.mark.parametrize("given", [gb.mpi, 3, "mpi"])
def test_what_is_no_communicator_is_refused(given):
    with pytest.raises(InputError, match=r"communicator must be gb.mpi\(\)"):
        trainer_of(given)
    with pytest.raises(InputError, match=r"communicator must be gb.mpi\(\)"):
        gb.Population(3, [gb.Dense(2)], [{"seed": 0}], loss="squared_error", device="cpu", communicator=given)
