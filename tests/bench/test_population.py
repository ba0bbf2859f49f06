"""bench/population.py: who does other work is found, the tables say what was measured, and a small part of it runs.

Nothing here depends on how long anything takes. The peers need not be installed.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
try:
    population, tasks, report, plot, peers, stacked, populations, estimator_tasks, processes = (
        importlib.import_module(name)
        for name in (
            "population", "comparison.population_tasks", "comparison.population_report", "plot", "comparison.peers",
            "comparison.peers.task", "comparison.peers.populations", "comparison.estimator_tasks",
            "comparison.processes",
        )
    )  # fmt: skip
finally:
    sys.path.remove(str(BENCH))

OURS, SOLO, PYTORCH, JAX = peers.POPULATIONS
SMALL = [tasks.PopulationSpec(replace(one, rows=2 * one.batch), 3) for one in tasks.NETWORKS]


# What is trained ------------------------------------------------------------------------------------------------------


def test_the_tasks_are_those_of_the_goals():
    names = [str(spec) for spec in tasks.specs(quick=False)]
    assert len(names) == len(set(names)) == 21 and "30-256-256-1, B 128, M 4096" in names
    assert all(spec.network.rows >= 32 * spec.network.batch for spec in tasks.specs(quick=False))
    assert np.prod([len(values) for values in estimator_tasks.POPULATION_GRID.values()]) == 60


@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_members_differ_in_weights_rates_and_orders(spec):
    one = stacked.Stacked(spec.task())
    assert [p.shape for p in one.task.parameters[0]] == [(3, *spec.network.widths[:2]), (3, spec.network.widths[1])]
    assert len({w[m].tobytes() for w, _ in one.task.parameters for m in range(3)}) == 3 * len(one.task.parameters)
    np.testing.assert_allclose(one.rates, [1e-4, 1e-4 * 10**0.5, 1e-3])
    orders = one.order(shuffle=True).swapaxes(0, 1).reshape(3, -1)
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(one.task.rows), (3, 1)))
    np.testing.assert_array_equal(one.order(shuffle=False)[1, 2], np.arange(one.task.batch) + one.task.batch)
    np.testing.assert_array_equal(one.alone(2).parameters[0][0], one.task.parameters[0][0][2])
    assert one.alone(2).settings == (one.rates[2], *one.task.settings[1:])
    assert one.task.labelled == (spec.network.widths[-1] > 1)
    if one.task.labelled:
        assert set(one.task.target) == set(range(spec.network.widths[-1]))


# Equal work -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_ours_does_what_the_reference_does_for_each_member(spec, monkeypatch):
    task = spec.task()
    wanted, one = tasks.expected(task), populations.Population(task)
    losses = one.epoch(shuffle=False)
    assert list(wanted) == [0, 2] and tasks.fault(losses, wanted) == ""
    one.reset()
    assert one.epoch(shuffle=False) == losses  # it begins where it began
    assert one.train() > 0 and one.epochs(2) > 0 and one.steps(3) == 4
    monkeypatch.setattr(populations, "_share", [])
    populations._begin([one.alone(m) for m in range(3)])
    np.testing.assert_allclose([loss for _, loss in populations._train(1, shuffle=False)], losses, rtol=1e-5)
    assert all(seconds == 0 for seconds, _ in populations._train(1, shuffle=True))
    assert all(seconds > 0 for seconds, _ in populations._train(3, shuffle=True))


def test_members_are_shared_out_and_put_together(monkeypatch):
    class Process:
        def __init__(self, workers, context, begin, arguments):
            (self.share,) = arguments

        def submit(self, train, epochs, shuffle):
            found = [(float(epochs), float(task.settings[0])) for task in self.share]
            return type("Begun", (), {"result": lambda self: found})()

    monkeypatch.setattr(populations, "ProcessPoolExecutor", Process)
    for name in populations.POOLS:
        monkeypatch.setenv(name, "2")
    one = populations.SoloLoop(SMALL[0].task())
    np.testing.assert_allclose(one.epoch(shuffle=False), one.rates)
    assert [len(process.share) for process in one.processes] == [2, 1]
    assert one.epochs(2) == 6.0  # the longer share of the two


@pytest.mark.parametrize(
    ("module", "name"), [("torch", PYTORCH), ("jax", JAX)], ids=["PyTorch", "JAX"]
)  # where they are installed, and not in .ci/run
@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_peers_do_what_the_reference_does(spec, module, name, monkeypatch):
    if importlib.util.find_spec(module) is None:
        with pytest.raises(peers.Missing, match=f"{module} is not installed"):
            peers.load(name, spec.task())
        return
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    one = peers.load(name, spec.task())
    losses = one.epoch(shuffle=False)
    assert tasks.fault(losses, tasks.expected(one.task)) == ""
    one.reset()
    np.testing.assert_allclose(one.epoch(shuffle=False), losses, rtol=1e-6)


def test_other_work_is_refused():
    assert tasks.fault([1.0009, 5.0, 2.0], {0: 1.0, 2: 2.0}) == ""
    assert "member 2 is 2.003, it should be 2" in tasks.fault([1.0, 5.0, 2.003], {0: 1.0, 2: 2.0})
    assert "member 0 is nan" in tasks.fault([float("nan")], {0: 1.0})


# The command ----------------------------------------------------------------------------------------------------------


class Fake:
    """Answers as a worker does, with 10 µs a model-step, ours with 5; JAX is not installed, and PyTorch does other
    work."""

    def __init__(self, name, *args, **options):
        self.name = name

    def ask(self, do, folder=None, **what):
        if self.name == JAX:
            raise processes.WorkerError("missing: jax is not installed")
        if do == "load":
            self.task = peers.Task.load(Path(folder))
            wanted = tasks.expected(self.task)
            losses = [wanted.get(m, 0.0) for m in range(len(self.task.parameters[0][0]))]
            return {
                "version": f"{self.name} 1",
                "loss": [2 * loss if self.name == PYTORCH else loss for loss in losses],
            }
        us = len(self.task.parameters[0][0]) * (5.0 if self.name == OURS else 10.0)
        return {"epochs": {"us": us, "steps": 1, "seconds": 1.0, "others": 0.0, "stolen": 0.0}}

    def pause(self):
        pass

    def close(self):
        pass


SEARCHED = {
    "name": "a search", "ms": {"gpu_backprop": {"median": 1000.0}, "scikit-learn": {"median": 12_000.0}},
    "times as fast": {"median": 12.0, "least": 11.0, "most": 13.0},
    "work": {
        "gpu_backprop": {"scores": [0.8, 0.9], "best": {"alpha": 1.0}, "best_index": 1},
        "scikit-learn": {"scores": [0.91, 0.89], "best": {"alpha": 0.1}, "best_index": 0},
    },
}  # fmt: skip


@pytest.fixture
def faked(monkeypatch, tmp_path):
    monkeypatch.setattr(population, "Worker", Fake)
    monkeypatch.setattr(population, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(population.estimators, "start_workers", lambda stack, threads: {})
    monkeypatch.setattr(population.estimators, "measure", lambda *_: SEARCHED)


def test_it_runs_to_its_end_and_keeps_what_it_is_told_to_keep(faked, tmp_path, capsys):
    kept = tmp_path / "kept.json"
    assert population.main(["--quick", "--json", str(kept)]) == 0
    out = capsys.readouterr().out
    assert "| 8-32-32-2, B 64, M 4 | 5.0 | 10.0 | - | 2.00 (2.00 to 2.00) | - |" in out
    assert "PyTorch, vmap: it does other work: the loss of member 0" in out
    assert "- JAX, vmap and lax.scan: jax is not installed" in out
    assert "| from M 4 on, times as fast as our solo loop | ≥ 1 | 2.00 (8-32-32-2, B 64, M 4) | met |" in out
    assert "| search of 60 candidates, times as fast | ≥ 10 | 12.0 | met |" in out
    assert "other candidates: scikit-learn's is alpha 0.1, and of ours, alpha 1.0, it says 0.8900" in out
    assert not population.RESULTS.exists()
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert found["command"] == "python bench/population.py --quick" and found["date"] and found["commit"] is not None
    assert found["contenders"] == {OURS: f"{OURS} 1", SOLO: f"{SOLO} 1", PYTORCH: f"{PYTORCH} 1"}
    assert "of many members 1" in report.page(found) and "a search: 12.00" in report.page(found)


def test_more_is_put_among_what_the_file_has(faked):
    for words in ("8-32-32-2, B 64, M 1", "8-32-32-2, B 64, M 4", "search"):
        assert population.main(["--quick", "--more", "--only", words]) == 0
    found = json.loads(population.RESULTS.read_text("utf-8"))
    assert [task["members"] for task in found["tasks"]] == [1, 4] and found["search"]["name"] == "a search"
    assert found["command"].count("--more") == 3


def test_who_would_take_too_long_is_left_out(faked, monkeypatch):
    monkeypatch.setattr(population, "LIMIT", 1e-4)  # s, of 3 epochs of 4 steps of 1 member in 5 µs, of 4 in 10 µs
    options = population.arguments_of(["--quick", "--only", "8-32-32-2"])
    first, second = population.populations(options)["tasks"]
    assert SOLO in first["us"] and SOLO not in second["us"]
    assert second["not timed"][SOLO] == "a turn would take 0 s" and OURS not in second["us"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "there are\n  8-32-32-2, B 64, M 1\n"),
        (["--json", "no/such/folder/file.json"], "is not a file in a folder that is there"),
    ],
)
def test_options_that_make_no_sense(words, said, capsys):
    with pytest.raises(SystemExit):
        population.main(words)
    assert said in capsys.readouterr().err


# The report -----------------------------------------------------------------------------------------------------------


def task(network, members, **us):
    spreads = {name: {"median": value, "least": value, "most": value} for name, value in us.items()}
    ratios = {name: {"median": value / us[OURS]} for name, value in us.items() if name != OURS}
    return {"name": f"{network}, M {members}", "network": network, "batch": 64, "members": members, "us": spreads,
            "others / ours": ratios}  # fmt: skip


def test_goals_are_met_or_missed():
    results = {"tasks": [
        task("8-32-32-2", 64, **{OURS: 6.0, SOLO: 5.9, JAX: 17.0}), task("64-64-64-10", 64, **{OURS: 16.0, JAX: 48.0}),
        task("30-256-256-1", 64, **{OURS: 700.0, JAX: 1048.0}), task("30-256-256-1", 1, **{OURS: 9.0, SOLO: 1.0}),
    ]}  # fmt: skip
    goals = report.goals(results)
    assert "| 8-32-32-2, M 64, µs a model-step | ≤ 6 | 6.0 | met |" in goals
    assert "| 64-64-64-10, M 64, µs a model-step | ≤ 15 | 16.0 | missed |" in goals
    assert "| 8-32-32-2, M 64, times as fast as jax.vmap | ≥ 3 | 2.83 | missed |" in goals
    assert "| 64-64-64-10, M 64, times as fast as jax.vmap | ≥ 3 | 3.00 | met |" in goals
    assert "| 30-256-256-1, M 64, times as fast as jax.vmap | ≥ 1 | 1.50 | met |" in goals
    assert "| from M 4 on, times as fast as our solo loop | ≥ 1 | 0.98 (8-32-32-2, M 64) | missed |" in goals


def test_the_results_on_record_were_taken_from_equal_work():
    found = plot.read(plot.POPULATION) or {"tasks": []}
    if plot.POPULATION.exists():
        assert found["left out"] == {} and "times as fast" in found.get("search", ["times as fast"])
        assert {one["name"] for one in found["tasks"]} <= {str(spec) for spec in tasks.specs(quick=False)}
    for one in found["tasks"]:
        assert OURS in one["us"] or one["members"] > 64
        for name in one["us"]:
            assert one["loss"][name] == pytest.approx(one["loss"]["float64"], rel=found["tolerance"])


def test_the_plot_is_the_same_from_the_same_figures(tmp_path):
    results = {"tasks": [task("8-32-32-2", m, **{OURS: 6.0, SOLO: 12.0}) for m in (1, 4)]}
    for name in ("a.svg", "b.svg"):
        report.draw(results, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "8-32-32-2, B 64" in (tmp_path / "a.svg").read_text(encoding="utf-8")
