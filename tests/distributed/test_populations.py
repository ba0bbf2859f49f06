"""Members spread over ranks become what they become on one, and every rank has them all."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ranks import needs_mpi, results, run_ranks

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.commands.runs import MODEL, OURS, TRIALS

pytestmark = needs_mpi

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 5))
Y = (X[:, 0] * X[:, 1] + 0.5 * RNG.normal(size=120) > 0).astype(int)
XV = RNG.normal(size=(60, 5))
VALIDATION = XV, (XV[:, 0] * XV[:, 1] > 0).astype(int)
LAYERS = [gb.Dense(7, "tanh"), gb.Dropout(0.1), gb.Dense(2, "softmax")]
RATES = np.geomspace(3e-3, 0.3, 7).tolist()
STOPPING = gb.EarlyStopping(patience=2)


def settings(count, **more):
    return [{"seed": m, "learning_rate": RATES[m % 7], **more} for m in range(count)]


def population(communicator, members, optimizer="adam", **fit):
    made = gb.Population(
        5, LAYERS, members, optimizer=optimizer, batch_size=32, dtype="float64", device="cpu", communicator=communicator
    )
    seen = []
    fit = {"epochs": 6, "validation": VALIDATION, "progress": False, **fit}
    fit["callbacks"] = [*fit.get("callbacks", ()), lambda p: seen.append([*p.running, *p.scores])]
    failed = ""
    try:
        made.fit(X, Y, **fit)
    except gb.DivergedError as error:
        failed = f"{error.epoch} {error.history.stopped}"
    return made, seen, failed


def told(made, seen, failed):
    """All that there is of a population on a rank, as arrays by name."""
    history = made.history
    kept = [name for name in history.columns if name not in ("seconds", "samples_per_second")]
    found = {name: [value for value in history[name] if value is not None] for name in kept}
    found |= {"seen": seen, "failed": failed, "stopped": str(history.stopped)}
    found |= {name: str(getattr(history, name)) for name in ("best_epoch", "diverged", "temperature")}
    found["rates"] = [made.setting(m, "learning_rate") for m in range(len(made))]
    if not failed:
        found |= {name: array for name, array in made.trainer.training_step.state().arrays.items() if name != "random"}
        found |= {"outputs": made.predict(XV), "last": made.member(len(made) - 1).predict(XV), "best": made.best}
    return found


def plain(ranks):
    return told(*population(ranks, settings(7, clip_norm=1.0, average=0.5), weights=np.linspace(0.5, 2, 120)))


def early_stopping(ranks):
    return told(*population(ranks, settings(10), epochs=40, early_stopping=STOPPING))


def held_out_by_seed(ranks):
    fit = {"validation": None, "validation_split": 0.25, "early_stopping": STOPPING, "epochs": 12}
    return told(*population(ranks, settings(5, schedule="cosine"), **fit))


def own_rows(ranks):
    rows = np.random.default_rng(1).integers(120, size=(5, 90))
    return told(*population(ranks, settings(5, class_weight="balanced"), rows=[*rows], validation="rest"))


def own_weights(ranks):
    weights = np.random.default_rng(2).integers(0, 3, (5, 120)).astype(float)
    return told(*population(ranks, settings(5), weights=weights, validation="rest"))


def fewer_members_than_ranks(ranks):
    return told(*population(ranks, settings(1), early_stopping=STOPPING))


def one_diverges(ranks):
    members = settings(6)
    members[4]["learning_rate"] = 1e200
    return told(*population(ranks, members, gb.SGD(0.1)))


def all_diverge(ranks):
    return told(*population(ranks, [{"learning_rate": 1e200, "seed": m} for m in range(5)], gb.SGD(0.1)))


def halved_rate(ranks):
    members = settings(6)
    members[4]["learning_rate"] = 1e150
    return told(*population(ranks, members, gb.SGD(0.1), on_divergence="halve_rate", epochs=3))


def callbacks(ranks):
    def steer(made):
        if len(made.history) == 2:
            made.stop([0, 5])
            made.change(6, learning_rate=2 * made.setting(1, "learning_rate"))
        return len(made.history) == 4

    return told(*population(ranks, settings(7), callbacks=[steer]))


def two_fits(ranks):
    made, seen, failed = population(ranks, settings(5), epochs=2, early_stopping=STOPPING)
    made.fit(X, Y, 3, progress=False)
    return told(made, seen, failed)


POPULATIONS = (
    plain, early_stopping, held_out_by_seed, own_rows, own_weights, fewer_members_than_ranks, one_diverges, all_diverge,
    halved_rate, callbacks, two_fits,
)  # fmt: skip


def search(ranks, space, **options):
    seen = []
    given = {"layers": LAYERS, "epochs": 9, "batch_size": 16, "device": "cpu", "dtype": "float64", "progress": False}
    found = gb.search(
        X, Y, space, **given | options, communicator=ranks, callbacks=[lambda r: seen.append([r.best_score, r.running])]
    )
    return {"trials": repr(found.trials), "seen": seen, "best": found.fit_best(X, Y, progress=False).predict(XV)}


def folds(ranks):
    space = {"learning_rate": [0.3, 0.01, 0.001], "batch_size": [16, 50]}
    return search(ranks, space, folds=3, early_stopping=STOPPING, metric="accuracy")


def halving(ranks):
    space = {"learning_rate": gb.LogUniform(1e-4, 1.0), "batch_size": [16, 50]}
    return search(ranks, space, strategy="halving", trials=12, validation=VALIDATION, early_stopping=STOPPING, seed=3)


SEARCHES = folds, halving


def work(cases):
    """Gives what each case has made on this rank, and on the first one what it makes on one."""
    ranks, found = gb.mpi(), {}
    warnings.simplefilter("ignore")
    for over in [ranks, None] if ranks.rank == 0 else [ranks]:
        for name in cases:
            made = globals()[name](over)
            found |= {f"{'one' if over is None else 'all'} {name} {what}": value for what, value in made.items()}
    return found


TO_ROUNDING = "own_rows", "own_weights"
"""Members have not as many rows each, so that what is added up in one go is not the same on a rank."""


@pytest.mark.parametrize("ranks", [2, 3])
def test_on_every_rank_is_what_there_is_on_one(tmp_path: Path, ranks: int) -> None:
    cases = [case.__name__ for case in (*POPULATIONS, *SEARCHES)]
    found = results(ranks, "test_populations:work", tmp_path / "found", cases)
    expected = {name: value for name, value in found[0].items() if name.startswith("one")}
    assert {name.split()[1] for name in expected} == {*cases}
    for rank, of_rank in enumerate(found):
        for name, value in expected.items():
            there, where = of_rank[name.replace("one", "all", 1)], f"rank {rank}: {name}"
            if value.dtype.kind == "f" and name.split()[1] in TO_ROUNDING:
                np.testing.assert_allclose(there, value, 1e-9, 1e-12, err_msg=where)
            else:
                np.testing.assert_array_equal(there, value, err_msg=where)


def fail():
    """Gives, by what went wrong on one rank or cannot be on several, the error that this rank gets."""
    ranks, found = gb.mpi(), {}

    def diverge(made):
        raise gb.DivergedError("too large", epoch=2, step=3)

    def run_out(made):
        raise gb.OutOfMemoryError("too much", needs={})

    def expect(what, act, *kinds):
        with pytest.raises(kinds) as caught:
            act()
        found[what] = f"{type(caught.value).__name__}: {caught.value}"

    def tell(*callbacks, members=4, epochs=3, x=X, **fit):
        made = gb.Population(5, LAYERS, settings(members), dtype="float64", device="cpu", communicator=ranks)
        made.fit(x, Y, epochs, progress=False, callbacks=callbacks, **fit)

    only = ranks.rank == 1
    expect("diverged", lambda: tell(*[diverge][:only]), gb.DivergedError)
    expect("memory", lambda: tell(*[run_out][:only]), gb.OutOfMemoryError)
    expect("any", lambda: tell(*[lambda made: 1 / 0][:only]), ZeroDivisionError, gb.GpuBackpropError)
    expect("data", lambda: tell(x=X + only), gb.InputError)
    expect("epochs", lambda: tell(epochs=3 + only), gb.InputError)
    expect("value", lambda: tell(x=np.where(only, np.nan, X)), gb.InputError)
    expect("settings", lambda: tell(members=4 + only), gb.InputError)
    expect("copy", lambda: tell(lambda made: made.copy_member(0, 3)), gb.InputError)
    expect("perturb", lambda: tell(gb.Perturb()), gb.InputError)
    expect("checkpoint", lambda: tell(checkpoint=gb.Checkpoint("nowhere")), gb.InputError)
    made = gb.Population(5, LAYERS, settings(4), dtype="float64", device="cpu", communicator=ranks)
    expect("resume", lambda: made.resume("nowhere"), gb.InputError)
    made.fit(X, Y, 1, progress=False)  # ranks still are in step
    sizes = []
    made.fit(X, Y, 1, progress=False, callbacks=[lambda made: sizes.append(made.active[0].tolist())])
    made.fit(X, Y, 5, progress=False, callbacks=[lambda made: only and len(made.history) == 4])
    return found | {"members": sizes, "outputs": made.predict(XV), "ended": len(made.history)}


def test_what_goes_wrong_on_one_rank_ends_all(tmp_path: Path) -> None:
    first, second = results(2, "test_populations:fail", tmp_path / "found")
    assert [first["members"].tolist(), second["members"].tolist()] == [[[0, 1]], [[2, 3]]]
    assert first["ended"] == second["ended"] == 4  # one of them asked for it
    np.testing.assert_array_equal(first["outputs"], second["outputs"])
    kinds = [name for name in first if name not in ("members", "ended", "outputs")]
    told = {name: (str(first[name]), str(second[name])) for name in kinds}
    assert told.pop("diverged") == ("DivergedError: rank 1: too large", "DivergedError: too large")
    assert told.pop("memory") == ("OutOfMemoryError: rank 1: too much", "OutOfMemoryError: too much")
    of_any = "ZeroDivisionError: division by zero"
    assert told.pop("any") == (f"RankError: rank 1: {of_any}", of_any)
    here, there = told.pop("value")
    assert here == f"InputError: rank 1: {there.removeprefix('InputError: ')}" and "NaN" in there
    for name, what in {"data": "x sha256 is", "epochs": "epochs is [1, 4] on rank 1", "settings": "seed is"}.items():
        here, there = told.pop(name)
        assert here == there and here.startswith("InputError: the ranks do not train the same") and what in here
    for name, what in {"copy": "copy_member", "perturb": "Perturb"}.items():
        assert (
            told.pop(name)
            == (f"InputError: {what} takes all members, and they are spread over 2 ranks: train on one.",) * 2
        )
    assert all(here == there and "takes all members" in here for here, there in told.values())


def test_the_command_searches_on_all_ranks_and_the_first_one_writes(tmp_path: Path) -> None:
    rows = [f"{a:.3f},{b:.3f},{'one' if a * b > 0 else 'other'}\n" for a, b, *_ in X]
    (tmp_path / "rows.csv").write_text("a,b,y\n" + "".join(rows))
    words = ["search", str(tmp_path / "rows.csv"), "--target", "y", "--epochs", "2", "--folds", "2", "--device", "cpu"]
    words += ["--grid", "learning_rate=0.01,0.1,0.3", "--grid", "layers=3,4:2"]
    assert main([*words, "--quiet", "--out", str(tmp_path / "one")]) == 0
    told = run_ranks(2, "-m", "gpu_backprop", *words, "--distributed", "--out", str(tmp_path / "two")).stdout
    assert told.count("6 candidates, 12 networks, side by side in 2 groups") == told.count("written to") - 1 == 1
    assert {path.name for path in (tmp_path / "two").iterdir()} == {*OURS}
    one, two = ((tmp_path / name / TRIALS).read_text() for name in ("one", "two"))
    assert one == two
    one, two = (gb.load(tmp_path / name / MODEL, device="cpu").parameters for name in ("one", "two"))
    np.testing.assert_allclose(one, two, 1e-4, 1e-6)
