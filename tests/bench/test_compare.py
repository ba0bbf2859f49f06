"""bench/compare.py: who does other work is found, what disturbs is noticed, and the texts say what was measured.

Nothing here depends on how long anything takes. The peers need not be installed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gpu_backprop.backend.compiled import program

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))
try:
    busy, compare, processes, tasks, peers, plot, summary, mnist_seconds, ours, worker_of = (
        importlib.import_module(name)
        for name in (
            "lib.busy", "compare", "comparison.processes", "comparison.tasks", "comparison.peers", "plot",
            "comparison.summary", "comparison.mnist_seconds", "comparison.peers.ours", "comparison.worker",
        )
    )  # fmt: skip
finally:
    sys.path.remove(str(BENCH))

WorkerError = processes.WorkerError
SMALL = tasks.Configuration((64, 12, 8, 10), 16, 64)
NUMBERS = tasks.Configuration((8, 6, 1), 16, 64)
ALL = list(tasks.task_specs((SMALL, NUMBERS)))
FURTHER = [spec for spec in tasks.quick_specs() if spec.kind not in tasks.SIZES]


# What is trained ------------------------------------------------------------------------------------------------------


def test_the_contests_are_those_of_the_page():
    names = [str(spec) for spec in tasks.task_specs()]
    assert len(names) == len(set(names)) == 30
    assert "784-2500-2000-1500-1000-500-10, B 256, relu, SGD" in names
    assert [name for name in names if name.startswith("8-32-32-1, ")] == [
        "8-32-32-1, B 64, tanh, Adam", "8-32-32-1, B 64, relu, Adam",
    ]  # fmt: skip
    assert tasks.Configuration((3, 5, 2), 7, 7).flops == 2 * 7 * (2 * 15 + 3 * 10)
    for configuration in tasks.CONFIGURATIONS:
        assert configuration.rows % configuration.batch == 0 and configuration.rows // configuration.batch >= 7


def test_the_further_tasks_are_of_every_kind():
    specs = list(tasks.further_specs())
    names = [str(spec) for spec in specs]
    assert len(set(names)) == len(names) and not set(names) & {str(spec) for spec in tasks.task_specs()}
    assert {spec.kind for spec in specs} == set(summary.KINDS) - set(tasks.SIZES) == {spec.kind for spec in FURTHER}
    for name in (
        "64-64-64-10, B 32, relu, Adam, dropout 0.5", "784-512-512-10, B 1024, relu, Adam, float64",
        "784-100-10, B 1, tanh, SGD", "8-32-32-1, B 64, relu, Adam, weights", "64-64-64-10, B 32, relu, Adam, by hand",
        "30-128-64-5, B 1000000, relu, predict", "30-128-64-5, B 1000, relu, Adam, fit",
    ):  # fmt: skip
        assert name in names
    assert all(spec.configuration.rows % spec.configuration.batch == 0 for spec in specs)
    assert {spec.kind: spec.ways[0] for spec in specs} | {"fit": "fit", "predict": "predict"} == {
        **dict.fromkeys(("dropout", "float64", "online", "weights"), "end to end"),
        **{way: way for way in ("by hand", "predict", "fit")},
    }


def test_who_takes_part():
    def those(spec):
        return {name for name in peers.ON_CPU if spec.takes_part(name)}

    by_kind = {spec.kind: those(spec) for spec in [*FURTHER, *tasks.task_specs()]}
    assert all({"PyTorch, eager"} <= them for them in by_kind.values())
    assert "onnxruntime" in by_kind["predict"] and "onnxruntime" not in by_kind["fit"] | by_kind["small"]
    assert SCIKIT in by_kind["float64"] and SCIKIT not in by_kind["dropout"]
    assert by_kind["small"] - by_kind["large"] == {"Keras, model.fit", "MLX, compiled step"}


@pytest.mark.parametrize("inputs", [64, 784, 1024])
def test_the_digits_fill_the_inputs(inputs):
    task = tasks.TaskSpec(tasks.Configuration((inputs, 10), 32, 1_856), "relu", "SGD").task()
    assert task.x.shape == (1_856, inputs) and task.x.dtype == np.float32 and task.x.flags.c_contiguous
    assert (task.x.min(), task.x.max(), task.labelled) == (0, 1, True)
    np.testing.assert_array_equal(task.x[1_797:], task.x[:59])
    np.testing.assert_array_equal(task.target[1_797:], task.target[:59])


@pytest.mark.parametrize("spec", [*ALL, *FURTHER], ids=str)
def test_a_task_comes_out_of_its_folder_as_it_went_in(spec, tmp_path):
    def arrays(task):
        return [*task.data, *sum(task.parameters, ()), *(task.validation or ())]

    task = spec.task(seed=3)
    task.save(tmp_path)
    again = peers.Task.load(tmp_path)
    for name in (
        "batch", "settings", "activation", "device", "precision", "dropout", "epochs", "seed", "rows", "steps",
        "labelled", "adam",
    ):  # fmt: skip
        assert getattr(again, name) == getattr(task, name), name
    for one, other in zip(arrays(again), arrays(task), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    floats = {a.dtype for a in arrays(task)} - {np.dtype(np.int64)}
    assert floats == {np.dtype(spec.dtype)}


# Equal work -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_we_do_what_the_reference_does(spec):
    task = spec.task()
    check, one = tasks.Check.of(task), ours.Ours(task)
    loss, distance = one.epoch(shuffle=False), check.distance(one.parameters())
    assert check.fault(loss, distance) == ""
    assert distance < 1e-3 and loss == pytest.approx(check.loss, rel=1e-5)
    one.reset()
    assert one.epoch(shuffle=False) == loss  # it begins where it began, the optimizer too
    np.testing.assert_allclose(check.distance(one.parameters()), distance, rtol=1e-6)


@pytest.mark.parametrize("spec", FURTHER, ids=str)
def test_we_do_what_the_reference_does_in_further_tasks(spec, tmp_path):
    """As a worker does it, and timed in each way."""
    task = spec.task()
    task.save(tmp_path)
    check, commands = spec.check(task), worker_of.Commands(peers.OURS)
    what = [tasks.MEASURED[way] for way in spec.ways]
    how = {"ways": what} if isinstance(check, tasks.Check) else {}
    answer = getattr(commands, check.command)(str(tmp_path), str(tmp_path / "after.npz"), **how)
    told, fault = check.checked(answer, tmp_path / "after.npz")
    assert fault == "" and told and "version" not in told
    assert ("dropped" in told, "validation" in told) == (spec.kind == "dropout", spec.kind == "fit")
    assert set(what) & {"steps", "steps_by_hand", "fit"} == told.keys() & {"steps", "steps_by_hand", "fit"}
    assert all(one["us"] > 0 for one in commands.time(what, 0.001).values())


def test_other_work_is_refused_in_further_tasks(tmp_path):
    by_kind = {spec.kind: (spec.task(), spec.check(spec.task())) for spec in FURTHER}
    task, check = by_kind["dropout"]
    masks = np.random.default_rng(9)
    assert check.fault_dropped(tasks.reference(task, masks)[0]) == ""
    for rate in (0.0, 0.3, 0.6):
        loss = trained_otherwise(task, np.random.default_rng(9), dropout=rate)[0]
        assert "with dropout is" in check.fault_dropped(loss), rate
    assert check.fault_dropped(float("nan"))
    task, check = by_kind["weights"]
    loss, after = trained_otherwise(task, weights=None)
    assert check.fault(loss, check.distance(after))
    task, check = by_kind["fit"]
    assert check.fault_validation(check.validation) == "" != check.fault_validation((check.validation[0] + 0.1, 1.0))
    assert check.fault_fit(check.fitted) == "" != check.fault_fit((check.fitted[0] + 0.1, 1.0))
    task, check = by_kind["predict"]
    np.savez(tmp_path / "y.npz", y=tasks.outputs(task, task.parameters, task.x[::-1]))
    assert "its outputs are up to" in check.checked({}, tmp_path / "y.npz")[1]
    np.savez(tmp_path / "y.npz", y=check.y[:, :2])
    assert check.checked({}, tmp_path / "y.npz")[1]
    np.savez(tmp_path / "y.npz", y=check.y)
    told = check.checked({}, tmp_path / "y.npz")[1]
    assert told == "it does other work: its outputs are float64, they should be float32"


def test_another_dtype_is_refused_where_no_tolerance_tells(tmp_path):
    spec = replace(ALL[1], dtype="float64")
    check = tasks.Check.of(spec.task())
    answer = {"loss": check.loss, "shuffled": check.loss}
    single = [(w.astype(np.float32), b.astype(np.float32)) for w, b in check.after]
    single_b = [(w, b) for (w, _), (_, b) in zip(check.after, single, strict=True)]
    for after, dtype in ((check.after, ""), (single, "float32"), (single_b, "float32")):
        peers.task.save_parameters(tmp_path / "after.npz", after)
        told, fault = check.checked(answer, tmp_path / "after.npz")
        assert check.fault(check.loss, told["distance"]) == ""
        expected = f"it does other work: its parameters are {dtype}, they should be float64"
        assert fault == (expected if dtype else "")


LIBRARIES = {"PyTorch": "torch", "JAX": "jax", "scikit-learn": "sklearn", "Keras": "keras", "MLX": "mlx"}


@pytest.mark.parametrize(
    "name",
    [
        name for name in peers.ON_CPU
        if replace(ALL[0], dtype="float64").takes_part(name) and find_spec(LIBRARIES[name.partition(",")[0]])
    ],
)  # fmt: skip
def test_peers_train_in_the_dtype_of_the_task(name, tmp_path):
    """Those that are installed, one dtype after the other in one process."""
    one = processes.Worker(name, tmp_path / "log", threads=1, environment={"JAX_PLATFORMS": "cpu"})
    try:
        for dtype in ("float32", "float64", "float32"):
            task = replace(ALL[0], dtype=dtype).task()
            task.save(tmp_path)
            answer = one.ask("load", folder=str(tmp_path), into=str(tmp_path / "after.npz"), ways=["steps"])
            told, fault = tasks.Check.of(task).checked(answer, tmp_path / "after.npz")
            assert fault == "", dtype
            assert dtype == "float32" or max(told["distance"], told["steps"]) < 1e-7
    finally:
        one.close()


def test_steps_that_are_timed_are_those_of_the_reference(tmp_path):
    """And orders are new."""
    task = ALL[1].task()
    check, path = tasks.Check.of(task), tmp_path / "after.npz"

    def fault(repeated, **changes):
        arrays = {path: check.after, peers.task.of_way(path, "steps_by_hand"): repeated}
        for place, after in arrays.items():
            peers.task.save_parameters(place, [(w.astype(np.float32), b.astype(np.float32)) for w, b in after])
        answer = {"loss": check.loss, "shuffled": check.loss, "repeated": ["steps_by_hand"], **changes}
        return check.checked(answer, path)[1]

    assert fault(check.repeated) == ""
    for other in (check.first, check.after, [(w, 0 * b) for w, b in check.repeated]):
        assert fault(other).startswith("it does other work: after steps by hand its parameters are ")
    assert fault(check.repeated, reordered=False) == "it does other work: its new order is that of the rows"


def test_of_ours_everything_can_be_timed():
    one = ours.Ours(ALL[1].task())
    assert one.steps(3) == one.steps_by_hand(3) == 3 and one.floor(2) == 2
    assert one.train() > 0 and one.epochs(2) > 0
    before = one.parameters()
    one.floor(1)
    for (w, b), (w2, b2) in zip(before, one.parameters(), strict=True):
        np.testing.assert_array_equal(w, w2)
        np.testing.assert_array_equal(b, b2)


def test_other_seeds_draw_other_orders():
    task = ALL[0].task()
    first, again, other = (ours.Ours(replace(task, seed=seed)).epoch(shuffle=True) for seed in (0, 0, 1))
    assert first == again != other


def test_the_peak_is_of_the_threads_that_the_products_run_on(monkeypatch):
    one = ours.Ours(ALL[1].task())
    monkeypatch.setattr(ours, "peak", lambda threads, dtype, seconds: (threads, dtype, seconds))
    for before, after, most in ((1, 1, 1), (2, 1, 2), (1, 2, 2)):
        levels = iter((before, after))
        monkeypatch.setattr(one, "_level", lambda levels=levels: next(levels))
        assert one.floor(8) == 9
        assert one.peak(0.5) == {"threads": most, "peak_gflops": (most, "float32", 0.5)}
    monkeypatch.undo()
    one.products = [run := partial(int)]
    assert one.floor(1) == 1 and one.peak(0.5) == {}
    run.holds = [np.arange(len(program.FIELDS))]
    assert one._level() == program.FIELDS.index("level")


def test_the_share_of_the_peak_is_that_of_the_best_round():
    floors = [
        {"us": us, "threads": threads, "peak_gflops": peak}
        for us, threads, peak in ((1.0, 1, 100.0), (2.0, 1, 50.0), (0.5, 2, 150.0), (0.5, 2, 200.0), (1.0, 1, 80.0))
    ]
    found = compare.share_of_peak(50_000, [{peers.OURS: {"floor": floor}} for floor in floors])
    assert found["threads in use"] == [1, 1, 2, 2, 1] and found["peak_gflops"] == {"1": 100.0, "2": 200.0}
    assert found["share of the peak"] == 0.5
    assert compare.share_of_peak(1, [{peers.OURS: {"floor": {"us": 1.0}}}, {}]) == compare.share_of_peak(1, []) == {}


def test_everyone_has_an_epoch_before_those_that_are_timed():
    class Counted(peers.Peer):
        seconds = iter([100.0, 1.0, 2.0])

        def train(self):
            return next(self.seconds)

    assert Counted(ALL[0].task()).epochs(2) == 3.0
    one = ours.Ours(ALL[0].task())
    one._fit = lambda epochs, shuffle: {"seconds": [100.0, 1.0, 2.0][:epochs]}
    assert one.epochs(2) == 3.0


def trained_otherwise(task, masks=None, **changes):
    """What the reference comes to when it does something else."""
    return tasks.reference(replace(task, **changes), masks)


def wrong(task):
    rate, *rest = task.settings
    yield "rate", {"settings": (1.06 * rate, *rest)}
    yield "activation", {"activation": "tanh" if task.activation == "relu" else "relu"}
    yield "order", {"x": task.x[::-1], "target": task.target[::-1]}
    yield "rows", {"x": task.x[: -task.batch], "target": task.target[: -task.batch]}
    yield "parameters", {"parameters": tasks.first_parameters([64, 12, 8, 10], 1)}
    if task.adam:
        yield "beta1", {"settings": (rate, 0.0, *rest[1:])}
        yield "beta2", {"settings": (rate, rest[0], 0.0, rest[2])}
        yield "epsilon", {"settings": (rate, *rest[:2], 1e-3)}


@pytest.mark.parametrize("spec", [spec for spec in ALL if spec.configuration is SMALL], ids=str)
def test_other_work_is_refused(spec):
    task = spec.task()
    check = tasks.Check.of(task)
    for what, changes in wrong(task):
        loss, after = trained_otherwise(task, **changes)
        assert check.fault(loss, check.distance(after)).startswith("it does other work: its loss after"), what
    loss, after = trained_otherwise(task)
    no_biases = [(w, 0 * b) for w, b in after]
    assert "but its parameters are" in check.fault(loss, check.distance(no_biases))
    assert check.fault(float("nan"), 0.0) and check.fault(check.loss, float("nan"))


def test_parameters_of_another_shape_are_refused(tmp_path):
    task = ALL[0].task()
    peers.task.save_parameters(tmp_path / "after.npz", [(w.T, b) for w, b in task.parameters])
    check = tasks.Check.of(task)
    answer = {"loss": check.loss, "shuffled": check.loss}
    assert "parameters" in check.checked(answer, tmp_path / "after.npz")[1]


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_an_epoch_in_a_new_order_comes_to_about_the_same_loss(spec):
    """It is such epochs that are timed: half of the rows, or targets of other rows, must not pass."""
    task = spec.task()
    check, one = tasks.Check.of(task), ours.Ours(task)
    loss = one.epoch(shuffle=True)
    assert check.fault_shuffled(loss) == "" != check.fault_shuffled(loss / 2)
    assert "in a new order is 99," in check.fault_shuffled(99.0) and check.fault_shuffled(float("nan"))


# A busy machine -------------------------------------------------------------------------------------------------------


def test_the_clocks_of_the_system_are_read(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    monkeypatch.setattr(busy, "STAT", stat)
    monkeypatch.setattr(busy, "processors", lambda: frozenset([1, 3]))
    one, two = "4 10 20 600 400 1 1 3 2 0", "6 10 10 400 100 0 1 4 1 0"
    stat.write_text(f"cpu  900 90 90 9000 900 9 9 90 9 0\ncpu0 {two}\ncpu1 {one}\ncpu3 {two}\ncpu11 {one}\nintr 5 0\n")
    before = busy.Clocks.now()  # of processors 1 and 3 alone
    assert before.everybody == pytest.approx(63 / tick) and before.stolen == pytest.approx(7 / tick)
    assert before.own <= time.process_time() + sum(os.times()[2:4])
    stat.write_text("cpu  10 20 30 1000 500 1 2 7 3 0\ncpu64 1 1 1 1 1 1 1 1 0 0\n")  # a container's own numbers
    assert busy.Clocks.now().everybody == pytest.approx(63 / tick)
    stat.unlink()
    without = busy.Clocks.now()
    assert without.everybody == without.own and without.stolen == 0


def test_what_others_took_is_what_we_did_not():
    before, after = busy.Clocks(1.0, 5.0, 0.5, 2.0), busy.Clocks(3.0, 8.5, 0.75, 4.5)
    assert after.since(before) == {"seconds": 2.0, "others": 1.0, "stolen": 0.25}
    assert after.since(busy.Clocks(1.0, 7.0, 0.5, 2.0))["others"] == 0  # clocks that tick


@pytest.mark.parametrize(
    ("others", "stolen", "busy_with_it"),
    [(0.0, 0.0, False), (0.2, 0.0, False), (0.23, 0.0, True), (0.0, 0.23, True), (0.2, 0.2, False)],
)
def test_a_tenth_of_the_machine_disturbs(others, stolen, busy_with_it):
    assert busy.disturbed({"seconds": 1.0, "others": others, "stolen": stolen}, 2) is busy_with_it


# Rounds ---------------------------------------------------------------------------------------------------------------

QUIET, NOISY = ({"seconds": 1.0, "others": others, "stolen": 0.0} for others in (0.0, 1.0))


def turn_of(us, window=QUIET):
    return {what: {"us": us, **window} for what in ("steps", "epochs", "floor")}


def test_another_one_begins_in_every_round():
    seen = []
    kept, counts = compare.in_rounds("abc", lambda name: seen.append(name) or turn_of(1.0), 3, 2, {})
    assert "".join(seen) == "abcbcacab" and [list(one) for one in kept] == [list("abc")] * 3
    assert counts == {"repeated": 0, "disturbed": 0}


def test_a_disturbed_round_is_repeated_then_kept_and_counted():
    noisy = iter([True, False, *[True] * 4])  # the first round once, the second to the last
    kept, counts = compare.in_rounds("a", lambda _: turn_of(1.0, NOISY if next(noisy) else QUIET), 2, 2, {})
    assert len(kept) == 2 and counts == {"repeated": 4, "disturbed": 1}


def test_who_fails_is_noted_and_in_no_round():
    turns = iter([turn_of(1.0), turn_of(2.0), WorkerError("it failed: no"), turn_of(1.0)])

    def turn(_):
        one = next(turns)
        if isinstance(one, WorkerError):
            raise one
        return one

    not_timed = {}
    kept, _ = compare.in_rounds("ab", turn, 2, 2, not_timed)
    assert not_timed == {"b": "it failed: no"} and [list(one) for one in kept] == [["a"]] * 2


def test_a_ratio_is_that_of_a_round():
    eager = "PyTorch, eager"
    rounds = [{peers.OURS: turn_of(us), eager: turn_of(other)} for us, other in ((1, 4), (2, 4), (10, 30))]
    found = compare.statistics(rounds, summary.WAYS)
    for way in summary.WAYS:
        assert found[way]["others / ours"] == {peers.OURS: {eager: {"median": 3, "least": 2, "most": 4}}}
        assert found[way]["us"][eager] == {"median": 4, "least": 4, "most": 30}
        assert found[way]["ours / floor"][peers.OURS] == {"median": 1, "least": 1, "most": 1}
    assert found["floor_us"]["median"] == 2
    assert "floor_us" not in compare.statistics([{eager: turn_of(1.0)}], summary.WAYS)


# Processes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(tmp_path):
    """gpu_backprop itself, in a process."""
    one = processes.Worker(peers.NUMPY_ALONE, tmp_path / "log", threads=1, environment=processes.ALONE)
    yield one
    one.close()


def test_a_contender_trains_in_its_process(worker, tmp_path):
    task = ALL[3].task()
    task.save(tmp_path)
    answer = worker.ask("load", folder=str(tmp_path), into=str(tmp_path / "after.npz"))
    assert answer["version"].startswith("gpu_backprop ") and "numpy_ops" in answer["version"]
    check = tasks.Check.of(task)
    assert check.checked(answer, tmp_path / "after.npz")[1] == ""
    assert answer["shuffled"] != answer["loss"]
    found = worker.ask("time", what=["steps", "epochs", "floor"], window=0.001)
    assert all(one["us"] > 0 and one["steps"] >= 2 and not one["seconds"] < 0 for one in found.values())
    assert found["epochs"]["steps"] % task.steps == 0
    np.savez(tmp_path / "test.npz", x=task.x, labels=task.target)
    assert len(worker.ask("train", epochs=2)["seconds"]) == 2
    assert 0 <= worker.ask("test")["accuracy"] <= 1
    with pytest.raises(WorkerError, match="it failed: FileNotFoundError"):
        worker.ask("load", folder=str(tmp_path / "nothing"))


def state(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the state of a process on Linux only")
def test_a_contender_is_stopped_until_it_is_asked(worker, tmp_path):
    ALL[0].task().save(tmp_path)
    worker.ask("load", folder=str(tmp_path))
    worker.pause()
    for _ in range(1000):
        if state(worker._process) == "T":
            break
        time.sleep(0.001)
    assert state(worker._process) == "T"
    assert worker.ask("train", epochs=1)["seconds"][0] > 0
    worker.pause()
    worker.close()  # a stopped one too
    assert worker._process.returncode is not None


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Workers whose program answers as told, by name, and nothing of the real ones."""

    def put(**answers):
        program = tmp_path / "worker.py"
        program.write_text(
            f"import sys\nfor _ in sys.stdin:\n    print({answers!r}[sys.argv[1]], flush=True)\n", encoding="utf-8"
        )
        monkeypatch.setattr(processes, "program", lambda _: program)
        return processes.Workers(tmp_path, sys.executable, 1, list(answers))

    return put


def test_who_is_missing_is_left_out_by_name_and_the_rest_goes_on(fakes):
    workers = fakes(a='{"loss": 1.5, "version": "A 1"}', b='{"missing": "b is not installed"}', c='{"failed": "no"}')
    try:
        assert workers.load() == ({}, {"c": "it failed: no"})
        assert workers.left_out == {"b": "b is not installed"} and list(workers.by_name) == ["a", "c"]
        assert workers.versions == {"a": "A 1"}
    finally:
        workers.close()


def test_who_does_other_work_is_told_with_both_values(fakes, tmp_path):
    task = ALL[0].task()
    check = tasks.Check.of(task)
    answers = {
        "right": json.dumps({"loss": check.loss, "shuffled": 1.01 * check.loss, "version": ""}),
        "wrong": json.dumps({"loss": 9.5, "shuffled": 9.5, "version": ""}),
        "half": json.dumps({"loss": check.loss, "shuffled": check.loss / 2, "version": ""}),
    }
    workers = fakes(**answers)
    for k in range(3):
        after = [(w.astype(np.float32), b.astype(np.float32)) for w, b in check.after]
        peers.task.save_parameters(tmp_path / f"after-{k}.npz", after)
    try:
        first_epoch, troubles = workers.load(check)
    finally:
        workers.close()
    right = {"loss": check.loss, "distance": check.distance(after), "shuffled": 1.01 * check.loss}
    assert first_epoch["wrong"]["loss"] == 9.5 and first_epoch["right"] == right
    assert list(troubles) == ["wrong", "half"] and f"is 9.5, it should be {check.loss:.6g}" in troubles["wrong"]
    assert f"in a new order is {check.loss / 2:.6g}" in troubles["half"]


def test_it_runs_to_its_end_and_keeps_what_it_is_told_to_keep(monkeypatch, tmp_path, capsys):
    """With those peers that are installed."""
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "compare.json")
    arguments = ["--quick", "--only", "8-8-1, B 16, relu", "--window", "0.001", "--threads", "1"]
    assert compare.main([*arguments, "--peers", "none"]) == 0
    assert "8-8-1, B 16, relu, Adam" in capsys.readouterr().out and not (tmp_path / "compare.json").exists()
    assert compare.main([*arguments, "--json", str(tmp_path / "some.json")]) == 0
    found = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(found) and str(ROOT) not in json.dumps(found)
    those = {*peers.OUR_OWN, *peers.ON_CPU} - {"onnxruntime"}  # which does not train
    assert set(found["contenders"]) | set(found["left out"]) == those
    [spec] = found["contests"]
    assert spec["name"] == "8-8-1, B 16, relu, Adam" and spec["floor_us"]["median"] > 0
    assert spec["not timed"] == {} and 0 < spec.get("share of the peak", 0.5) < 10
    assert set(spec.get("threads in use", [1])) == {1} == set(map(int, spec.get("peak_gflops", [1])))
    told = 'python bench/compare.py --only "8-8-1, B 16, relu" --quick --window 0.001'.replace('"', "'")
    assert found["command"].removesuffix(" --threads 1") == told


def test_another_checkout_trains_beside_this_one(monkeypatch, tmp_path, capsys):
    """Here this one itself; its worker may also have the place that it had before."""
    other = tmp_path / "other"
    (other / "bench").mkdir(parents=True)
    (other / "bench" / "contend.py").write_text(
        "import runpy\nfrom pathlib import Path\n(Path(__file__).parent / 'it ran').touch()\n"
        f"runpy.run_path({str(BENCH / 'comparison' / 'worker.py')!r}, run_name='__main__')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (BENCH, ROOT))))
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "compare.json")
    arguments = ["--quick", "--only", "8-8-1, B 16, relu", "--window", "0.001", "--threads", "1"]
    assert compare.main([*arguments, "--before", str(other), "--json", str(tmp_path / "some.json")]) == 0
    found = json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))
    assert (other / "bench" / "it ran").exists() and not (tmp_path / "compare.json").exists()
    assert set(found["contenders"]) == {peers.OURS, peers.NUMPY_ALONE, *processes.BEFORE} and not found["left out"]
    assert found["contests"][0]["not timed"] == {} and str(tmp_path) not in json.dumps(found)
    said = capsys.readouterr().out
    assert "end to end: time now / time before" in said and "step only: time now / time before" in said
    assert "worst: 8-8-1, B 16, relu, Adam, " in said
    assert compare.program(tmp_path) is None


def test_the_time_now_over_the_time_before():
    [before, _] = processes.BEFORE
    rounds = [{peers.OURS: turn_of(us), before: turn_of(2.0)} for us in (1.0, 3.0, 2.5)]
    way = compare.statistics(rounds, summary.WAYS)
    assert way["step only"]["now / before"] == {peers.OURS: {"median": 1.25, "least": 0.5, "most": 1.5}}
    lines = list(summary.before_and_now({"contests": [{"name": "a task", **way}]}))
    assert "worst: a task, gpu_backprop: 1.250 (0.500 to 1.500)" in lines
    assert "geometric mean 1.250; 0 of 1 rows slower in every round" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threads", "0"], "at least 1"),
        (["--threads", "4096"], "this process may use"),
        (["--rounds", "0"], "at least 1"),
        (["--window", "-1"], "more than 0"),
        (["--window", "nan"], "more than 0"),
        (["--window", "inf"], "more than 0"),
        (["--only", "784-11"], "no task has these words; there are\n  64-64-64-10, B 32, tanh, SGD\n"),
        (["--only", "784", "--quick"], "there are\n  64-16-10, B 32"),
        (["--again", "--quick"], "--again takes none of --quick"),
        (["--again", "--mnist", "."], "--again takes none of --quick"),
        (["--only", "784", "--mnist", "."], "give one of the two"),
        (["--mnist", "not/there"], "not/there is not a folder"),
        (["--peers", "not/there/python"], "not/there/python is not a program"),
        (["--before", "not/there"], "not/there is not a checkout of this project"),
        (["--before", str(ROOT), "--mnist", "."], "or --mnist is given too"),
        (["--json", "not/there/x.json"], "is not a file in a folder that is there"),
        (["--json", "."], "is not a file in a folder that is there"),
    ],
)
def test_options_that_make_no_sense(words, said, capsys, monkeypatch):
    monkeypatch.setattr(compare, "start_workers", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(SystemExit) as ended:
        compare.main(words)
    assert ended.value.code == 2 and said.replace("/", os.sep) in capsys.readouterr().err


# Summaries ------------------------------------------------------------------------------------------------------------


def spread(median):
    return {"median": median, "least": median / 2, "most": median * 2}


def results_of(name, batch, floor, us, network="784-512-512-10", kind="large", ways=summary.WAYS):
    """A task as it is in the file, of which all ways are alike."""
    mine = [one for one in (peers.OURS, peers.NUMPY_ALONE) if one in us]
    way = {
        "us": {one: spread(time) for one, time in us.items()},
        "others / ours": {o: {p: spread(t / us[o]) for p, t in us.items() if p in peers.ON_CPU} for o in mine},
        "ours / floor": {one: spread(us[one] / floor) for one in mine},
    }
    return {
        "name": name, "kind": kind, "ways": list(ways), "network": network, "batch": batch, "floor_us": spread(floor),
        "not timed": {}, "rounds": {"measured": 7, "repeated": 2, "disturbed": 1}, **dict.fromkeys(ways, way),
    }  # fmt: skip


EAGER, COMPILED, JITTED, SCAN, SCIKIT, *_ = peers.ON_CPU
FOUND = {
    "rounds": 7, "threads": 2, "processor": "a processor, 2 cores", "system": "an OS", "date": "2026-01-01",
    "versions": {"python": "3.12.1", "numpy": "2.4.0"}, "left out": {},
    "contenders": {peers.OURS: "gpu_backprop 1, x", EAGER: "PyTorch 2", COMPILED: "PyTorch 2", JITTED: "JAX 1"},
    "contests": [
        results_of("large", 1024, 80, {peers.OURS: 100, peers.NUMPY_ALONE: 200, EAGER: 400, COMPILED: 200, JITTED: 90}),
        results_of("small", 32, 10, {peers.OURS: 20, peers.NUMPY_ALONE: 40, EAGER: 160, JITTED: 40}, "9-9", "small")
        | {"share of the peak": 0.5},
        results_of("asked", 64, 10, {peers.OURS: 20, peers.NUMPY_ALONE: 40, EAGER: 60}, "30-5", "predict", ["predict"]),
    ],
}  # fmt: skip


def test_ours_beside_the_peers():
    parts = summary.parts(FOUND, peers.OURS)
    assert list(parts) == ["the first 2 tasks, end to end", "the first 2 tasks, step only", "the 1 further tasks"]
    those = parts["the first 2 tasks, step only"]
    one = summary.Standing.of(those)
    assert [row.best for row in those] == [JITTED, JITTED] and [row.ratio for row in those] == pytest.approx([0.9, 2])
    assert one.pytorch == pytest.approx(4)  # the faster form: √(2·8)
    assert one.jitted == one.best == pytest.approx(1.8**0.5)
    assert [row.task["name"] for row in one.below] == ["large"] and one.level == "1 of 2" and one.behind == 0
    first, over_floor, below = summary.summed_up("all", those)
    assert (
        "all: at least as fast as the fastest peer in 1 of 2 rows" in first and "4.00 times as fast as PyTorch" in first
    )
    assert "1.250 times its products alone, at most 1.250 (large)" in over_floor
    compared = "0.90 (0.45 to 1.80) times as fast as JAX, jitted step (100.0 µs, it 90.0, our products alone 80.0)."
    assert below == f"Level within its rounds: large: {compared}"
    alone = summary.parts(FOUND, peers.NUMPY_ALONE)
    assert summary.Standing.of(alone["the first 2 tasks, step only"]).pytorch == pytest.approx(2)
    assert [row.ratio for row in alone["the 1 further tasks"]] == [1.5]


def test_who_is_slower_in_every_round_is_behind():
    task = results_of("near", 32, 10, {peers.OURS: 100, EAGER: 40})
    for way in summary.WAYS:
        assert list(summary.summed_up("all", summary.rows({"contests": [task]}, peers.OURS, way)))[-1].startswith(
            "Behind: near: 0.40 (0.20 to 0.80)"
        )


def test_kinds_are_told_in_their_order():
    kinds = summary.by_kind(FOUND | {"contests": FOUND["contests"][::-1]}, peers.OURS)
    assert list(kinds) == ["small", "large", "predict"]
    assert [[row.way for row in those] for those in kinds.values()] == [["end to end"], ["end to end"], ["predict"]]


def test_contests_in_which_nobody_was_timed_are_left_out():
    alone = results_of("alone", 1, 1, {EAGER: 5})
    found = {"contests": [{**alone, "end to end": {}, "step only": {}}, alone]}
    assert not any(summary.parts(found, ours) or summary.by_kind(found, ours) for ours in peers.OUR_OWN)
    assert list(summary.summaries(found)) == [] and np.isnan(summary.geometric_mean([]))


def test_the_tables():
    text = plot.performance(FOUND)
    assert "| small networks: 9-9, B 32 | 1 | 8.00 | 2.00 | - | - | - | 2.00 | 2.00 | 50% |" in text
    assert "| predictions | 1 | 3.00 | - | - | - | - | 3.00 | 3.00 | - |" in text
    assert "| gpu_backprop: the first 2 tasks, step only | 1 of 2 | 0 | 1.34 | 4.00 | 1.34 |" in text
    assert "Rows below 1:\n\n- Level within its rounds: large: 0.90" in text
    machine = "a processor, 2 cores, 2 threads, an OS, Python 3.12.1, NumPy 2.4.0, JAX 1, PyTorch 2"
    assert f"On {machine}, gpu_backprop 1, x (2026-01-01)" in text and "(../bench/results/compare.svg)" in text
    text = plot.every_row(FOUND)
    assert (
        "| large | 100.0 | 200.0 | 400.0 | 200.0 | 90.0 | 80.0 | - | 0.90 (0.45 to 1.80) | 0.45 (0.23 to 0.90) |"
        in text
    )
    assert "## Predict, µs a prediction" in text and "## Fit" not in text
    assert "Of 21 rounds 3 were disturbed" in text and "6 times a disturbed round" in text
    assert "784-512-512-10" in "\n".join(plot.line(one) for one in FOUND["contests"])
    assert "small" in "\n".join(summary.text(FOUND))
    missing = FOUND | {"left out": {SCIKIT: "sklearn is not installed"}}
    assert "Left out" not in text and plot.every_row(missing) == (
        f"{text}\n\nLeft out: scikit-learn, partial_fit: sklearn is not installed."
    )


def test_a_text_without_its_comments_is_refused():
    begin, end = plot.BEGIN.format("levers"), plot.END.format("levers")
    assert plot.put(f"a\n{begin}\nold\n{end}\nb", "levers", "new") == f"a\n{begin}\n\nnew\n\n{end}\nb"
    for text in ("a", f"{begin}", f"{begin} {end} {begin} {end}"):
        with pytest.raises(ValueError, match="it needs the comments"):
            plot.put(text, "levers", "new")


def test_the_plot_is_the_same_from_the_same_figures(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.draw(FOUND, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "large networks" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_tasks_that_were_measured_again_take_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "compare.json")
    first, second, third = (str(spec) for spec in list(tasks.task_specs())[:3])
    before = FOUND | {
        "command": "python bench/compare.py", "seconds": 60.0, "tolerances": {},
        "contests": [FOUND["contests"][0] | {"name": first}, FOUND["contests"][1] | {"name": third}],
    }  # fmt: skip
    compare.RESULTS.write_text(json.dumps(before), encoding="utf-8")

    class Told:
        versions, left_out = {SCIKIT: "scikit-learn 2"}, {}

    for name in (third, second):
        compare.again(FOUND["contests"][1] | {"name": name, "batch": 7}, Told, f"again {name}", 1.5)
    after = json.loads(compare.RESULTS.read_text(encoding="utf-8"))
    assert [c["name"] for c in after["contests"]] == [first, second, third]
    assert [c["batch"] for c in after["contests"]] == [FOUND["contests"][0]["batch"], 7, 7]
    assert after["command"] == "python bench/compare.py" and after["seconds"] == 63
    assert after["tolerances"]["loss"] == tasks.LOSS_TOLERANCE and after["contenders"][SCIKIT] == "scikit-learn 2"
    assert after["again"] == {third: f"again {third}", second: f"again {second}"}


# MNIST ----------------------------------------------------------------------------------------------------------------


def test_seconds_to_a_goal():
    runs = [
        {"seconds": [1.0, 2.0, 3.0], "accuracy": [0.96, 0.975, 0.985]},
        {"seconds": [2.0, 4.0], "accuracy": [0.97, 0.98]},
        {"seconds": [1.0, 2.0, 3.0], "accuracy": [0.9, 0.9, 0.99]},
    ]
    assert mnist_seconds.to(0.97, runs) == {"median": 2, "least": 2, "most": 3, "epochs": 2}
    assert mnist_seconds.to(0.98, runs) == {"median": 3, "least": 3, "most": 4, "epochs": 3}
    assert mnist_seconds.to(0.986, runs) is None
    found = {"not timed": {"b": "no"}, "seconds to": {"97%": {"a": mnist_seconds.to(0.97, runs)}},
             "seconds an epoch": {"a": spread(1)}}  # fmt: skip
    assert [line.split("  ")[-1].strip() for line in mnist_seconds.table(found)] == [
        "s an epoch", "1.00 (0.50 to 2.00)", "b: no",
    ]  # fmt: skip


def test_a_fit_of_mnist_is_a_task(tmp_path, monkeypatch):
    x, labels = np.ones((mnist_seconds.QUICK_ROWS, 784), np.float32), np.zeros(mnist_seconds.QUICK_ROWS, np.int64)
    monkeypatch.setattr(mnist_seconds, "images", lambda folder, part: (x, labels))
    spec, task = mnist_seconds.fit(tmp_path, quick=True)
    assert str(spec) == "784-512-512-10 on MNIST, B 128, relu, Adam, fit" and spec.kind == "fit"
    assert (task.steps, task.epochs, len(task.validation[0])) == (10, 2, len(x))
    assert task.epochs == spec.epochs and all(spec.takes_part(name) for name in mnist_seconds.CONTENDERS)


# The results on record ------------------------------------------------------------------------------------------------


def test_the_texts_say_what_the_files_say():
    assert plot.PLOT.exists()
    names = [(path.name, name) for path, name, _ in plot.parts()]
    rows = [("performance.md", "compare"), ("performance-rows.md", "rows")]
    parts = "mnist", "levers", "products", "denormals", "growth", "busy machine"
    page = rows + [("performance.md", name) for name in parts]
    tables = [("tables.md", "tables"), ("from-scikit-learn.md", "estimators")]
    population = [("populations.md", "population")] if plot.POPULATION.exists() else []
    scaling = [("distributed.md", name) for name in ("scaling", "scaling model")]
    assert names == [("README.md", "compare"), *page, *tables, *population, *scaling]
    for path, name, made in plot.parts():
        text = path.read_text(encoding="utf-8")
        assert plot.put(text, name, made) == text, f"{path.name}, {name}: run python bench/plot.py"


def test_the_results_on_record_were_taken_from_equal_work():
    found = plot.read(plot.RESULTS)
    assert found["left out"] == {}
    names, specs = [one["name"] for one in found["contests"]], [*tasks.task_specs(), *tasks.further_specs()]
    assert names == [str(spec) for spec in specs]
    for one in found["contests"]:
        if one["ways"] == ["predict"]:
            continue
        distance = found["tolerances"]["distance"][f"{one['activation']}, {one['optimizer']}"]
        reference = one["first epoch"]["float64"]["loss"]
        for name, trained in one["first epoch"].items():
            if name != "float64" and name not in one["not timed"]:
                assert trained["loss"] == pytest.approx(reference, rel=found["tolerances"]["loss"])
                assert trained["distance"] <= distance
        for way in one["ways"]:
            for peer, ratio in one[way]["others / ours"][peers.OURS].items():
                assert ratio["least"] <= ratio["median"] <= ratio["most"], peer
