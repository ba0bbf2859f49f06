"""bench/throughput.py, growth.py and denormals.py: what they report is consistent, however long anything takes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.plan import Plan

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


@pytest.fixture
def bench(monkeypatch):
    """A script of bench/ as a module."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module


@pytest.fixture
def throughput(bench):
    return bench("throughput")


@pytest.fixture
def work(bench):
    """A small network; its settings can be given."""

    def make(widths=(6, 5, 4, 3), batch=8, **settings):
        return bench("lib.workload").Workload(widths, batch, device="cpu", **settings)

    return make


def between(one):
    return one["least"] <= one["median"] <= one["most"]


# throughput.py --------------------------------------------------------------------------------------------------------


def test_the_label_of_a_back_end(throughput, work):
    compiled = work(dtype="float32").trainer().device
    assert throughput.operations_by(compiled) == ("compiled" if compiled.compiles_kernels else "numpy_ops")


def test_the_figures_agree(throughput, work):
    w = work()
    found = throughput.measure(w, rounds=2, steps=3, rows=20, window=0.001)
    plan = w.trainer().plan()
    assert found["flops"] == plan.cost()["flops"]
    assert found["floor"]["flops"] == 2 * 8 * (6 * 5 + 5 * 4 + 4 * 3 + 6 * 5 + 2 * (5 * 4) + 2 * (4 * 3))
    assert found["floor"]["products"] == [o.formula for o in plan.operations if o.name == "matmul"]
    assert len(found["floor"]["products"]) == 3 + 3 + 2  # forward, ∇W, and ∇x of all layers but the first
    assert found["rounds"] == 2 and found["steps a round"] == 3 and found["parameters"] == 6 * 5 + 5 * 4 + 4 * 3 + 12
    assert found["end to end"]["rows"] == 24  # whole minibatches
    for name, flops in (("step", found["flops"]), ("floor", found["floor"]["flops"]), ("end to end", found["flops"])):
        us = found[name]["us"]
        assert between(us) and us["least"] > 0
        assert found[name]["samples_per_second"] == pytest.approx(8 / us["median"] * 1e6, rel=0.02)
        assert found[name]["gflop_s"] == pytest.approx(flops / us["median"] / 1e3, rel=0.1, abs=1e-3)
    assert between(found["step / floor"])
    assert set(found["kinds"]) == {o.name for o in plan.operations}
    assert found["activations"] == ["relu", "relu", "softmax"] and not found["replayed"]
    assert json.loads(json.dumps(found)) == found


def test_memory_is_the_plan_s_own_account(throughput, work):
    w = work(optimizer="adam", dtype="float64")
    found = throughput.measure(w, rounds=1, steps=1, window=0.001, end_to_end=False, kinds=False)
    trainer = w.trainer()
    cost = trainer.plan().cost()
    assert found["memory"]["step"] == cost["memory"] and found["memory"]["step_by_kind"] == cost["memory_by_kind"]
    assert found["memory"]["parameters"] == found["memory"]["gradients"] == trainer.network.parameters.nbytes
    assert found["memory"]["moments"] == 2 * trainer.network.parameters.nbytes
    assert "end to end" not in found and "kinds" not in found


def test_the_samples_of_all_models_count(throughput, work):
    found = throughput.measure(work(models=3), rounds=1, steps=1, window=0.001, kinds=False)
    for name in ("step", "floor", "end to end"):
        one = found[name]
        assert one["samples_per_second"] == pytest.approx(3 * 8 / one["us"]["median"] * 1e6, rel=0.02)
    assert found["parameters"] == 3 * (6 * 5 + 5 * 4 + 4 * 3 + 12)


def test_the_floor_is_the_products_and_nothing_else(throughput, work):
    w = work()
    trainer = w.trainer()
    data = trainer.manual_steps.minibatch(*w.data(w.batch))
    replay = trainer.manual_steps.load(data)
    replay.run()
    before, network = trainer.network.parameters.copy(), trainer.network
    network.gradients[...] = 0
    throughput.products_alone(replay)()
    assert np.array_equal(network.parameters, before)  # no update
    products, others = (
        {name for o in replay.plan.operations if (o.name == "matmul") == wanted for name in o.writes}
        for wanted in (True, False)
    )
    for name, _, gradient in network.parameter_arrays():
        weight = name.endswith("weight")
        assert gradient.any() == weight, name
        layer = int(name[len("layers[")]) + 1
        assert (f"∇{'W' if weight else 'b'}{layer}" in products) == weight
    assert "parameters" in others - products


def test_every_loss_and_optimizer_can_be_measured(throughput, work):
    optimizers = [*gb.OPTIMIZERS] * 2
    for name, optimizer in zip(gb.LOSSES, optimizers, strict=False):
        w = work(loss=name, optimizer=optimizer)
        found = throughput.measure(w, rounds=1, steps=1, rows=16, window=0.001, kinds=False)
        assert found["loss"] == name and optimizer in found["optimizer"].lower()
        needs = gb.LOSSES[name].needs
        assert found["activations"][-1] == (needs[0] if needs else "identity")


def test_every_round_begins_with_the_same_parameters(throughput, work, monkeypatch):
    w, seen = work(learning_rate=0.1), []
    once = throughput.Clock.once

    def look(clock, run, times=1):
        seen.append(trainers[-1].network.parameters.copy())
        return once(clock, run, times)

    trainers = [w.trainer()]
    trainer = throughput.Workload.trainer
    monkeypatch.setattr(throughput.Workload, "trainer", lambda one: trainers[-1] if one == w else trainer(one))
    monkeypatch.setattr(throughput.Clock, "once", look)
    monkeypatch.setattr(throughput.busy, "disturbed", lambda window, processors: False)  # else rounds are repeated
    throughput.measure(w, rounds=3, steps=5, rows=24, window=0.001, kinds=False)
    steps, floors = seen[1::2], seen[2::2]  # after the pilot
    assert len(steps) == len(floors) == 3 and not np.array_equal(steps[0], floors[0])  # a step was run into the cache
    assert all(np.array_equal(one, steps[0]) for one in steps) and all(np.array_equal(one, floors[0]) for one in floors)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("784", "has inputs and no layer"),
        ("784-0-10", "is not a network"),
        ("784-ten", "is not a network"),
        ("5-4 --batch 0", "whole number of at least 1"),
        ("5-4 --activation sin", "unknown activation 'sin'"),
        ("5-4-3 --activation relu,relu,relu", "give one for all of them"),
        ("5-4 --loss hinge", "unknown loss 'hinge'"),
        ("5-4-3 --activation relu,tanh", "cross_entropy needs an output activation out of softmax"),
        ("5-4 --optimizer newton", "unknown optimizer 'newton'"),
        ("5-4 --dtype float16 --device cpu", "float16 is for CUDA devices only"),
        ("5-4 --dtype int8", "--dtype"),
        ("5-4 --device gpu", "'gpu' is not a device"),
        ("5-4 --learning-rate -1", "--learning-rate"),
        ("5-4 --rounds none", "--rounds"),
        ("5-4 --json nowhere/at/all.json", "nowhere/at is not there"),
        ("5-4 --speed high", "unrecognized arguments"),
    ],
)
def test_a_bad_option_is_told(throughput, typed, said, capsys):
    with pytest.raises(SystemExit) as ended:
        throughput.main(typed.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count("\n") <= 2 and "Traceback" not in error


def test_networks_as_they_are_typed(bench):
    widths = bench("lib.workload").widths
    assert widths("784-512-512-10") == (784, 512, 512, 10)
    assert widths("1024x4-10") == widths("1024×4-10") == (1024, 1024, 1024, 1024, 10)


def test_the_file_says_what_the_table_says_and_how_to_get_it(throughput, tmp_path, capsys):
    path = tmp_path / "it.json"
    typed = "4-3-2 --batch 5 --activation tanh --optimizer sgd --device cpu --rounds 1 --steps 2 --rows 10"
    assert throughput.main([*typed.split(), "--json", str(path)]) == 0
    found, printed = json.loads(path.read_text(encoding="utf-8")), capsys.readouterr().out
    assert set(found["command"].split()[2:]) == set(typed.split())
    assert "4-3-2, tanh, softmax, cross_entropy, SGD" in printed and "µs a step" in printed
    for name in ("step", "floor", "end to end"):
        assert (
            f"{found[name]['us']['median']:,.1f}" in printed and f"{found[name]['samples_per_second']:,.0f}" in printed
        )
    assert all(name in printed for name in found["kinds"])
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_a_disturbed_round_is_told(throughput, work, monkeypatch):
    monkeypatch.setattr(throughput.busy, "disturbed", lambda window, processors: True)
    found = throughput.measure(work(), rounds=2, steps=1, window=0.001, end_to_end=False, kinds=False)
    assert found["disturbed rounds"] == 2
    assert any("OTHER PROGRAMS DISTURBED 2 OF THE ROUNDS" in line for line in throughput.table(found))


# growth.py ------------------------------------------------------------------------------------------------------------


def test_what_a_step_allocates_is_what_its_plan_says(bench, work):
    account = bench("lib.held_memory").account
    for w in (work((64, 128, 10), 64), work(optimizer="sgd", activation=("tanh",), loss="half_squared_error")):
        found = account(w)
        assert found["holds"], found
        assert found["plan"] == w.trainer().plan().cost()["memory"]
        assert found["allocated"] == found["plan"] + found["scratch"] + found["own"]


def test_an_array_that_no_plan_tells_of_is_found(bench, work, monkeypatch):
    add, hidden = Plan.add, []

    def hoarding(plan, *arguments, **more):
        hidden.append(np.empty(10_000))
        return add(plan, *arguments, **more)

    monkeypatch.setattr(Plan, "add", hoarding)
    assert not bench("lib.held_memory").account(work())["holds"]


def test_a_run_that_allocates_is_found(bench, work, monkeypatch):
    run = Plan.run
    monkeypatch.setattr(Plan, "run", lambda plan, *phases: (np.empty(10_000), run(plan, *phases)))
    found = bench("lib.held_memory").account(work())
    assert found["while running"] > 80_000 and not found["holds"]


def test_growth_in_small(bench, tmp_path, capsys, monkeypatch):
    growth, first_costs = bench("growth"), bench("lib.first_costs")
    children = []

    def answer(self, code):
        children.append(code)
        return [30.0, 10.0] if "trainer.step" in code else [250.0 if "import gpu_backprop" in code else 100.0]

    monkeypatch.setattr(first_costs.Children, "numbers", answer)
    for name in ("NETWORK", "SQUARE", "DEEP"):
        monkeypatch.setattr(growth, name, dataclasses.replace(getattr(growth, name), widths=(16, 8, 8, 4), batch=8))
    assert growth.main(["--quick", "--out", str(tmp_path)]) == 0
    found, printed = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8")), capsys.readouterr().out

    assert found["importing"]["beyond_numpy_ms"]["median"] == 150 and found["importing"]["holds"]
    assert found["building"]["first_step_ms"]["median"] == 20 and not found["building"]["holds"]
    assert "bound: 20 ms: DOES NOT HOLD" in printed and "bound: 200 ms: holds" in printed
    assert len(children) == 2 * 2 + 2  # NumPy and the package in turns, then the steps; the first of each not counted
    assert len(found["memory"]["points"]) == 5
    for name, values in (("batch", [1, 4]), ("width", [16, 32]), ("depth", [1, 2]), ("rows", [512, 1000])):
        points = found[name]["points"]
        assert [point[name] for point in points] == values
        for point in points:
            step, floor = point.get("step", point), point.get("floor", found[name].get("floor"))
            assert between(step["us"]) and between(floor["us"]) and floor["samples_per_second"] > 0
    assert [p["network"] for p in found["width"]["points"]] == ["16-16-16-4", "16-32-32-4"]
    assert [p["network"] for p in found["depth"]["points"]] == ["16-256-4", "16-256-256-4"]
    few, many = found["rows"]["points"]
    assert few["samples_per_second"] == pytest.approx(512 / 2 / few["us"]["median"] * 1e6, rel=1e-2)
    assert many["samples_per_second"] == pytest.approx(1000 / 4 / many["us"]["median"] * 1e6, rel=1e-2)
    for name in ("batch", "width", "depth", "rows"):
        text = (tmp_path / f"growth-{name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "its matrix products alone" in text and len(text) < 60_000


def test_growth_writes_nothing_unasked(bench, capsys, monkeypatch):
    growth = bench("growth")
    monkeypatch.setattr(growth.record, "write", None)
    assert growth.main(["--quick", "--only", "memory"]) == 0
    assert "784-512-512-10" in capsys.readouterr().out


def test_the_plots_are_the_same_from_the_same_figures(bench, tmp_path):
    plots, step = bench("lib.growth_plots"), {"us": {"median": 2.0, "least": 1.0, "most": 3.0}}
    step |= {"samples_per_second": 10.0, "gflop_s": 5.0}
    point = {"network": "4-3-2", "batch": 8, "step": step, "floor": step}
    series = {name: {"points": [{**point, name: n} for n in (1, 10)]} for name in ("batch", "width", "depth")}
    series["rows"] = {"network": "4-3-2", "batch": 8, "floor": step, "points": [{"rows": n, **step} for n in (1, 10)]}
    path = tmp_path / "growth.json"
    path.write_text(json.dumps(series), encoding="utf-8")
    first = [drawn.read_bytes() for drawn in plots.draw(path)]
    assert first == [drawn.read_bytes() for drawn in plots.draw(path)] and len(first) == 4


def test_a_child_has_bytecode_of_its_own(bench, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with bench("lib.first_costs").Children() as children:
        code = "import sys, gpu_backprop.backend.errors; print(int(sys.dont_write_bytecode))"
        assert children.numbers(code) == [0]
        assert any(Path(children._folder.name).rglob("errors*.pyc"))
        folder = children._folder.name
    assert not Path(folder).exists()


def test_the_first_step_of_a_child(bench, work):
    first_costs = bench("lib.first_costs")
    with first_costs.Children() as children:
        assert len(children.numbers(first_costs.FIRST_STEP.format(work()))) == 2


# denormals.py ---------------------------------------------------------------------------------------------------------


def test_denormals_in_small(bench, capsys, monkeypatch):
    denormals = bench("denormals")
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")  # which main sets too: this brings it back
    monkeypatch.setattr(denormals.record, "write", None)
    monkeypatch.setattr(denormals, "DEEP", dataclasses.replace(denormals.DEEP, widths=(8, *[6] * 12, 3), batch=4))
    assert denormals.main(["--quick"]) == 0
    assert capsys.readouterr().out.count("×") >= 6


def test_what_is_called_denormal_is(bench, monkeypatch):
    monkeypatch.setenv("GPU_BACKPROP_COMPILER", "none")
    denormals, tiny = bench("denormals"), np.finfo(np.float32).tiny
    assert 0 < np.float32(denormals.DENORMAL) < tiny
    share = denormals.step(denormals.SCALES["with small weights"])[1]["denormal"]
    assert share > 0.1 and denormals.step(1.0)[1]["denormal"] == 0


# What is on record ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["growth", "denormals", "levers", "blas"])
def test_the_results_on_record(name):
    text = (RESULTS / f"{name}.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert found["command"] == f"python bench/{name}.py" and found["processor"] and found["versions"]["numpy"]
    assert "/" not in "".join(found["versions"].values()) and "/home" not in text and "/tmp" not in text


def test_the_bounds_hold_on_record():
    found = json.loads((RESULTS / "growth.json").read_text(encoding="utf-8"))
    assert [name for name in ("importing", "building", "memory") if not found[name]["holds"]] == []
    assert [p["batch"] for p in found["batch"]["points"]][:: len(found["batch"]["points"]) - 1] == [1, 65_536]
    assert [p["width"] for p in found["width"]["points"]][:: len(found["width"]["points"]) - 1] == [16, 4096]
    assert [p["depth"] for p in found["depth"]["points"]][:: len(found["depth"]["points"]) - 1] == [1, 32]
    assert [p["rows"] for p in found["rows"]["points"]] == [1000, 10_000, 100_000, 1_000_000]
