"""What is compared with NumPy before it is used: every operation in all of its forms. What comes of a difference."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import library as cpu_library
from gpu_backprop.backend.compiled import open_device as opening
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled import self_test
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import BASE
from gpu_backprop.backend.compiled.operations_text import operations_text
from gpu_backprop.backend.compiled.program import HEAD, segments
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.signatures import heads as heads_of
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.training.optimizers import ADAM, PLAIN, RULES

TANH = gb.ACTIVATIONS["tanh"]
ROWS = {name: f for name, f in gb.ACTIVATIONS.items() if f.cuda_value} | {n: loss.formula for n, loss in LOSSES.items()}
ROWS |= {rule.name: rule for rule in RULES}
FLAGS = "store_z", "hit", "a_transposed", "b_transposed", "small", "swapped", "kind"


@pytest.fixture
def cache(made_by, monkeypatch, tmp_path):
    """An empty folder for what is compiled, and nothing is known of libraries that were opened before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(opening, "_library", functools.cache(opening._library.__wrapped__))


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    """A folder in which what several tests compile is compiled once."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def compared(monkeypatch):
    """The names of the units that are compared."""
    names, compare = [], self_test.compare

    def noted(device, unit):
        names.append(unit if isinstance(unit, str) else unit.name)
        compare(device, unit)

    monkeypatch.setattr(self_test, "compare", noted)
    return names


def plant(monkeypatch, row, right, wrong):
    """A mistake in the texts in float32, of a row or of all files; returns for each whether it is there."""
    planted = []

    def spoilt(unit, dtype):
        made = operations_text(unit, dtype)
        if dtype == "float32" and (isinstance(unit, str) if row is None else unit == row):
            planted.append(right in made.text)
            made = made._replace(text=made.text.replace(right, wrong))
        return made

    monkeypatch.setattr(cpu_library, "operations_text", spoilt)
    return planted


# What is compared -----------------------------------------------------------------------------------------------------


def test_every_operation_is_compared_in_all_of_its_forms(on_threads, monkeypatch):
    """From the heads of kernels/cpu: what is written there tomorrow has to be compared too."""
    seen, run, heads = defaultdict(set), self_test._run, dict(heads_of("cpu/*.cpp"))
    for row in (TANH, LOSSES["cross_entropy"].formula, ADAM):
        heads |= operations_text(row, "float32").heads

    def noted(device, steps):
        run(device, steps)
        for step in steps:
            head = heads[step.name]
            seen[step.name, "parts"].add(int(step.record[1]) > 1)
            for k, p in enumerate(head.parameters):
                value = int(step.record[HEAD + k])
                seen[step.name, p.name].add(value if p.name in FLAGS else value > (not p.pointer))

    monkeypatch.setattr(self_test, "_run", noted)
    binders = set()
    for row in (None, TANH, gb.ACTIVATIONS["identity"], LOSSES["cross_entropy"].formula, PLAIN, ADAM):
        self_test.compare(on_threads(2), row)
        binders |= {name for name, *_ in self_test.cases(row)}
    names = [name for name, value in vars(Operations).items() if hasattr(value, "account")]
    assert binders == {name for name in names if getattr(compiled_ops, name) is not getattr(numpy_ops, name)}
    for head in heads.values():
        assert seen[head.name, "parts"] == {True, False}, head.name
        for p in head.parameters:
            if p.nullable or p.name == "models":
                assert seen[head.name, p.name] == {True, False}, (head.name, p.name)
            if p.name in FLAGS and head.name != "loss_gradient":
                assert len(seen[head.name, p.name]) > 1, (head.name, p.name)


@pytest.mark.parametrize("row", [None, *ROWS])
def test_what_is_right_passes(device, row):
    self_test.compare(device, row and ROWS[row])


def test_threads_wait_for_each_other_in_it(on_threads):
    """Where a step is counted, and then taken, in parts."""
    device = on_threads(2)
    _, given, _ = next(self_test.cases(ADAM))
    counting = compiled_ops.advance(device, None, 0, None, None, given[4][..., 0])
    steps = [*counting, *compiled_ops.update(device, *given)]
    self_test._run(device, steps)
    assert segments(steps) == [0, 1]


@pytest.mark.parametrize("unit", self_test.FILES)
def test_a_comparison_needs_no_other_unit(on_threads, monkeypatch, unit):
    """It would wait for the comparison of that one, which waits for its end."""
    device, asked, prepare = on_threads(2), set(), cpu_library.CpuLibrary.prepare

    def noted(library, units):
        asked.update(units := [*units])
        prepare(library, units)

    monkeypatch.setattr(cpu_library.CpuLibrary, "prepare", noted)
    self_test.compare(device, unit)
    assert unit == "program" or unit in asked
    assert asked <= {unit, *BASE}


def test_cases_are_the_same_each_time():
    for row in (None, TANH, LOSSES["huber"].formula, ADAM):
        for (name, given, _), (same, again, _) in zip(self_test.cases(row), self_test.cases(row), strict=True):
            assert name == same
            for a, b in zip(given, again, strict=True):
                np.testing.assert_equal(a, b) if isinstance(a, np.ndarray) else None


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "right", "wrong", "told"),
    [
        ("momentum", "velocity = mu * velocity + g", "velocity = g", "update of momentum"),
        ("adamw", "rule.weight_keep * w", "w", "update of adamw"),
        ("adam", "const double epsilon = setting[3]", "const double epsilon = setting[2]", "update of adam"),
        ("rmsprop", "factor * g[i]", "g[i]", "update of rmsprop"),
        ("adamw", "(rate * decay)", "rate", "update of adamw"),
        ("rmsprop", "if (group.rate == real(0.0)) continue;", "", "update of rmsprop"),
        (
            None,
            "step[model * step_step] += 1",
            "step[model * step_step] += 2",
            "advance does not give what NumPy gives",
        ),
        (None, "*ticket = 0;", ";", "column_sum does not give what NumPy gives when it is run again"),
        ("tanh", "grad_y[i] * F::slope(s[i])", "F::slope(s[i])", "activation_gradient of tanh"),
        ("relu", "z < A(0) ? A(0) : z", "z > A(0) ? z : A(0)", "bias_activate of relu .* 0 instead of nan"),
        ("squared_error", "e[row] *= weights[row];", ";", "loss_gradient of squared_error"),
        (None, "row.v[c] * share; }", "row.v[c]; }", "bias_activate does not give"),
        (None, "share[k] = real(1) / share[k];", "", "bias_activate does not give"),
        (None, "double(d * d * w)", "double(d * w)", "residual_sums does not give"),
    ],
)
def test_a_mistake_is_found(common, made_by, monkeypatch, row, right, wrong, told):
    """bench/assault/miscompilations.py has many more."""
    monkeypatch.setenv("XDG_CACHE_HOME", common)
    row = row and ROWS[row]
    planted = plant(monkeypatch, row, right, wrong)
    device = CpuDevice("", cpu_library.CpuLibrary(made_by, 2), opening.compiled_ops)
    with pytest.raises(gb.DeviceError, match=f"^{told}.*"):
        self_test.compare(device, row)
    assert any(planted)


def test_a_mistake_in_a_formula_leaves_it_to_numpy_in_the_middle_of_a_plan(cache, monkeypatch):
    """All that is made of that text, and nothing else."""
    plant(monkeypatch, TANH, "grad_y[i] * F::slope(s[i])", "F::slope(s[i])")
    x, y = np.random.default_rng(0).standard_normal((2, 30, 4))

    def trained(dtype):
        net = gb.Network(4, [gb.Dense(8, "tanh"), gb.Dense(4, "sigmoid")], device="cpu", seed=0, dtype=dtype)
        trainer = gb.Trainer(net, loss="half_squared_error")
        for _ in range(5):
            trainer.step(x, y)
        return net, trainer

    with pytest.warns(
        RuntimeWarning, match="^tanh is left to NumPy: activation_gradient of tanh does not give"
    ) as said:
        net, trainer = trained("float32")
    assert len(said) == 1
    (replay,) = trainer.manual_steps._replays.values()
    compiled = {o.name: all(isinstance(c, self_test.KernelCall) for c in o.calls) for o in replay.plan.operations}
    assert compiled["loss_gradient"] and compiled["update"] and isinstance(net.device, CpuDevice)
    by_numpy = [o for o in replay.plan.operations if not all(isinstance(c, self_test.KernelCall) for c in o.calls)]
    assert {o.name for o in by_numpy} == {"bias_activate", "activation_gradient"}
    np.testing.assert_allclose(net.predict(x), trained("float64")[0].predict(x), 1e-3, 1e-4)


def test_ctrl_c_while_it_is_compared_leaves_nothing_unknown(cache, made_by, monkeypatch):
    def interrupted(library, loaded, unit):
        if unit == TANH:
            raise KeyboardInterrupt

    library = cpu_library.CpuLibrary(made_by, 2, interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            library.operation("bias_activate", TANH)


# What is remembered ---------------------------------------------------------------------------------------------------


def _open(made_by, *rows):
    """As a new process does."""
    library = opening._library.__wrapped__(made_by, 2, "float32")
    for row in rows:
        library.operation("bias_activate", row)


def test_what_was_right_is_not_compared_again(cache, made_by, compared, monkeypatch):
    """The process that tries what is compiled first has compared that, and left a note of it."""
    for _ in range(2):
        _open(made_by, TANH)
        assert compared == ["tanh"]
    monkeypatch.setattr(self_test, "_surroundings", lambda: "another NumPy")
    _open(made_by, TANH)
    assert compared == ["tanh", *BASE, "tanh"]


def test_another_library_is_compared_again(cache, made_by, compared, tmp_path):
    """Of the same name too: one that a later compiler made, or somebody put there."""
    _open(made_by)
    noted = [*(tmp_path / "gpu_backprop").glob("*.checked")]
    assert len(noted) == len(BASE) and not compared
    for path in noted:
        assert len(path.read_text()) == 64
        path.write_text("0" * 64)
    _open(made_by)
    assert compared == [*BASE]


def test_our_own_rows_can_be_remembered():
    assert [
        f
        for row in ROWS.values()
        for f in self_test._numpy_functions(row)
        if not f.__module__.startswith("gpu_backprop.")
    ] == []


def test_what_users_write_for_numpy_is_always_compared(cache, made_by, compared):
    def value(z, y, work):
        yield functools.partial(np.tanh, z, y)

    for _ in range(2):
        _open(made_by, replace(TANH, numpy_value=value))
    assert compared == ["tanh", "tanh"]
