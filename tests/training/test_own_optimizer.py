"""Optimizers from outside: rules of tests/own_optimizers.py, of which the package knows nothing, and wrong ones."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from functools import partial
from inspect import getdoc
from textwrap import dedent

import numpy as np
import pytest
from own_optimizers import ADABELIEF, LION, RIDGE, AdaBelief, Lion, follow

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled.program import KernelCall
from gpu_backprop.explanation import explain

RNG = np.random.default_rng(0)
X, LABELS, WEIGHTS = RNG.normal(size=(30, 4)), RNG.integers(0, 3, 30), RNG.uniform(0, 2, 30)
BATCHES = [(X[k : k + 5], LABELS[k : k + 5]) for k in range(0, 30, 5)]
WEIGHTED = [(x, y, WEIGHTS[k : k + 5] * (k != 2)) for k, (x, y) in enumerate(BATCHES)]
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}

OWN = {
    "Lion": lambda rate=0.01: Lion(rate, weight_decay=0.1),
    "a rule alone": lambda rate=0.01: gb.Optimizer(LION, learning_rate=rate, beta1=np.float32(0.75)),
    "AdaBelief": lambda rate=0.01: AdaBelief(rate, epsilon=1e-6),
}


@pytest.fixture(params=OWN.values(), ids=OWN)
def own(request):
    return request.param


@pytest.fixture(params=["numpy", "compiled"])
def back_end(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setenv(compiler.VARIABLE, compiler.NONE)
    else:
        try:
            compiler.find()
        except compiler.NoCompilerError as error:
            pytest.skip(f"kernels cannot be compiled: {error}")
    return request.param


def trainer(optimizer, dtype="float64", seed=3, **options):
    layers = [gb.Dense(6, "tanh"), gb.Dense(3, "softmax")]
    return gb.Trainer(gb.Network(4, layers, dtype=dtype, seed=seed, device="cpu"), None, optimizer, **options)


def state(it):
    return [a.tobytes() for a in (it.network.parameters, it.optimizer.hyper, *it.optimizer.moments.values())]


def update_of(it):
    """The operation of the steps that it has taken."""
    (replay,) = it.manual_steps._replays.values()
    (found,) = [o for o in replay.plan.operations if o.name == "update"]
    return found


# What it does ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [BATCHES, WEIGHTED], ids=["", "weights"])
@pytest.mark.parametrize(("seed", "rate"), [(3, 0.01), ([3, 4], [0.01, 0.002])], ids=["one", "members"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_follows_its_authors(own, dtype, seed, rate, batches, back_end):
    """A batch whose weights are all 0 is no step."""
    it = trainer(own(rate), dtype, seed)
    taken = follow(it, batches, TOLERANCE[dtype])
    assert set(taken) == {5 if batches is WEIGHTED else 6}
    compiled = all(isinstance(one, KernelCall) for one in update_of(it).calls)
    assert compiled == (back_end == "compiled")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_rule_that_reads_the_parameters(dtype, back_end):
    optimizer = gb.Optimizer(RIDGE, learning_rate=[0.1, 0.05], penalty=[0.5, 0.1])
    follow(trainer(optimizer, dtype, [3, 4]), WEIGHTED, TOLERANCE[dtype])


def test_it_learns(own, back_end):
    x = np.tile(X, (4, 1))
    history = trainer(own(), "float32", batch_size=10).fit(x, np.argmax(x[:, :3], 1), 15, progress=False)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


@pytest.mark.usefixtures("half_on_a_cpu")
def test_loss_scaling(own):
    """Gradients are read divided by S, and a step in which one of them overflows is none."""
    it = trainer(own(), "float16")
    it.scaling.state[0] = 2.0**20
    (taken,) = follow(it, BATCHES, 1e-5)
    assert it.scaling.state.tolist() == [2.0 ** (20 - 6 + taken), taken, 6 - taken] and 0 < taken < 6


def test_a_class_and_a_rule_alone_are_the_same():
    one, other = trainer(Lion(0.01)), trainer(gb.Optimizer(LION, learning_rate=0.01))
    for it in (one, other):
        it.fit(X, LABELS, 2, progress=False)
    assert state(one) == state(other)
    assert repr(one.optimizer) == "Lion(learning_rate=0.01, beta1=0.9, beta2=0.99, weight_decay=0.0)"
    assert repr(other.optimizer) == repr(one.optimizer).replace("Lion(", "Optimizer(lion, ")
    assert one.optimizer.describe() == other.optimizer.describe() == {"name": "lion", **one.optimizer.settings}


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_on_bit_for_bit(own, again, back_end):
    it = trainer(own(), "float32", seed=[1, 2])
    it.fit(X, LABELS, 2, progress=False)
    it.optimizer.learning_rate = [0.5, 0.25]
    twin = again(it)
    assert repr(twin.optimizer) == repr(it.optimizer) and state(twin) == state(it)
    for each in (it, twin):
        each.fit(X, LABELS, 2, progress=False)
    assert state(twin) == state(it)
    assert repr(again(own())) == repr(own())


def test_the_example_that_the_record_gives(back_end):
    given, example = (
        {**vars(gb), "network": gb.Network(4, [gb.Dense(3, "softmax")], dtype="float32")},
        getdoc(gb.UpdateRule),
    )
    exec(dedent(example[example.index("    from functools") : example.index("Any rule may")]), given)
    it = given["trainer"]
    before = it.network.layers[0].weight.copy()
    it.step(X, LABELS)
    np.testing.assert_allclose(abs(it.network.layers[0].weight - before), 0.001, rtol=1e-4)


def test_a_plan_says_what_it_does():
    (lion,) = [o for o in trainer(Lion(0.1)).plan().operations if o.name == "update"]
    assert lion.formula.startswith("c = β₁m + (1 − β₁)∇W, m ← β₂m + (1 − β₂)∇W, W ← W − ηλW − η")
    assert "sign(c)" in lion.formula
    (belief,) = [o for o in trainer(AdaBelief(0.1)).plan().operations if o.name == "update"]
    assert "s\u0302 = s/(1 − β₂ᵗ)" in belief.formula
    assert 0 < lion.flops < belief.flops < 40 * trainer(Lion()).network.parameters.size


def test_explain_spells_it_out():
    it = trainer(AdaBelief(0.1), seed=1)
    it.step(*BATCHES[0])
    text = explain(it, X[:3], LABELS[:3])
    spelled = (
        "m ← β₁·m + (1 − β₁)·∇W1[0,0] = 0.9·",
        "s\u0302 = s/(1 − β₂^t) = ",
        "W1[0,0] ← W1[0,0] − η·m\u0302/(√(s\u0302) + ε) = ",
    )
    assert all(line in text for line in spelled)
    text = explain(trainer(Lion(weight_decay=0.1)), X[:3], LABELS[:3])
    assert "W1[0,0] ← W1[0,0] − η·λ·W1[0,0] − η·sign(c)" in text


def test_a_name_of_ones_own(monkeypatch):
    monkeypatch.setitem(gb.OPTIMIZERS, "lion", Lion)
    assert isinstance(trainer("lion").optimizer, Lion)


def test_the_network_of_one_is_saved_and_says_so(tmp_path):
    it = trainer(Lion(0.01, beta1=np.float32(0.5)))
    it.fit(X, LABELS, 2, progress=False)
    gb.save(tmp_path / "m.safetensors", it)
    net = gb.load(tmp_path / "m.safetensors")
    settings = {"learning_rate": 0.01, "beta1": 0.5, "beta2": 0.99, "weight_decay": 0.0}
    assert net.trained_by["optimizer"] == {"name": "lion", "settings": settings}
    np.testing.assert_array_equal(net.predict(X), it.network.predict(X))


# Settings between steps -----------------------------------------------------------------------------------------------


CHANGES = {
    2: {"beta1": np.float32(0.5), "learning_rate": np.array(0.02)},
    4: {"beta1": [0.25, 0.75], "beta2": np.array([0.5, 0.6]), "learning_rate": (0.001, 0.03)},
    5: {"beta1": 0.0},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_settings_may_change_between_steps(own, dtype):
    it = trainer(own(), dtype, seed=[5, 6])
    follow(it, BATCHES, TOLERANCE[dtype], CHANGES)
    assert it.optimizer.settings["beta1"] == it.optimizer.beta1 == 0.0
    assert it.optimizer.learning_rate == (0.001, 0.03)
    with pytest.raises(TypeError, match="item assignment"):  # it would reach no device
        it.optimizer.learning_rate[0] = 0.1
    assert it.optimizer.describe()["learning_rate"] == [0.001, 0.03]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("beat1", 0.5, "a Lion has no attribute 'beat1'. Did you mean beta1? What can be set: beta1, beta2, learn"),
        ("lr", 0.5, "Use optimizer.learning_rate"),
        ("beta1", 1.0, r"beta1 of Lion must be a number in [0, 1), got 1.0"),
        ("beta1", [0.5, np.nan], r"beta1 of Lion must be a number in [0, 1), got [0.5, nan]"),
        ("beta1", [0.5, 0.6, 0.7], "beta1 must be one number, or 2, one a member, got (0.5, 0.6, 0.7)"),
        ("momentum", 0.5, "a Lion has no attribute 'momentum'"),
        ("rule", ADABELIEF, "rule of a Lion is decided when it is made"),
        ("settings", {}, "settings of a Lion is decided when it is made"),
        ("moments", {}, "moments of a Lion is decided when it is made"),
    ],
)
def test_what_cannot_be_set(name, value, says):
    it = trainer(Lion(), seed=[1, 2])
    before = it.optimizer.describe(), it.optimizer.hyper.tolist()
    with pytest.raises(gb.InputError) as caught:
        setattr(it.optimizer, name, value)
    assert says in str(caught.value)
    assert before == (it.optimizer.describe(), it.optimizer.hyper.tolist())


def test_settings_are_there_to_be_read():
    """What was written into them would reach no device."""
    with pytest.raises(TypeError, match="item assignment"):
        trainer(Lion()).optimizer.settings["beta1"] = 0.5
    with pytest.raises(AttributeError, match="Lion has no attribute 'beat1'. Its settings are learning_rate, beta1"):
        _ = Lion().beat1


def test_sgd_without_momentum_says_how_to_have_one():
    for optimizer in (gb.SGD(0.1), trainer(gb.SGD(0.1, momentum=np.float32(0))).optimizer):
        with pytest.raises(gb.InputError, match=r"momentum of a SGD cannot be set. Write SGD\(0.1, momentum=0.9\)"):
            optimizer.momentum = 0.5
    with pytest.raises(gb.InputError, match="nesterov=True"):
        gb.SGD(0.1, momentum=0.5).nesterov = True


SETTINGS, COEFFICIENTS = LION.settings, LION.coefficients

# C++ texts ------------------------------------------------------------------------------------------------------------


def stepped(rule, dtype="float32"):
    it = trainer(gb.Optimizer(rule, learning_rate=0.01), dtype)
    follow(it, BATCHES, TOLERANCE[dtype])
    return it


def test_without_a_text_numpy_serves():
    with warnings.catch_warnings(action="error"):
        it = stepped(replace(LION, cuda=""))
    assert not any(isinstance(one, KernelCall) for one in update_of(it).calls)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LION.cuda.replace("sign(b1", "sign(b2"), "update of lion does not give what NumPy gives"),
        ("change = rate * sign(b1 * m + rest1 * g);", "update of lion does not give what NumPy gives"),
        (LION.cuda.replace("rest2", "rest3"), "rest3"),
        (LION.cuda[:-1], "expected"),
    ],
    ids=["another rule", "the moment stays", "unknown name", "semicolon"],
)
def test_a_wrong_text_is_found_and_numpy_serves(text, says, back_end):
    if back_end == "numpy":
        stepped(replace(LION, cuda=text))
        return
    with pytest.warns(RuntimeWarning, match=f"^lion is left to NumPy: .*{says}") as said:
        it, _ = [stepped(replace(LION, cuda=text)) for _ in range(2)]
    assert len(said) == 1 and it.device.ops is not numpy_ops
    assert not any(isinstance(one, KernelCall) for one in update_of(it).calls)


def test_integers_in_coefficients_are_numbers(back_end):
    """1/2 would be 0 in C++."""
    halved = {**COEFFICIENTS, "rate": "2 * learning_rate * (1/2) * power(2, 1 - step) * power(C(2), C(step) - 1)"}
    stepped(replace(LION, coefficients=halved))


# Mistakes -------------------------------------------------------------------------------------------------------------


def _at_once(w, g, change, work, m, rate, b1, rest1, b2, rest2):
    np.multiply(g, rate, out=change)


def _too_early(w, g, change, work, m, rate, b1, rest1, b2, rest2):
    yield partial(np.multiply, g, rate.copy(), out=change)


def _nowhere(w, g, change, work, m, rate, b1, rest1, b2, rest2):
    yield partial(np.multiply, g, rate, out=work.full(5))


def _in_place(w, g, change, work, m, rate, b1, rest1, b2, rest2):
    yield partial(np.multiply, g, rate, out=g)
    yield partial(np.positive, g, out=change)


_NUMPY = r"update rule 'lion': numpy\(w, g, change, work, m, rate, b1, rest1, b2, rest2\) fails: .*"
WRONG = {
    "a name": ({"name": "my lion"}, "'my lion' must be a name of ASCII letters"),
    "a word of Python": ({"settings": {**SETTINGS, "lambda": 0.1}}, "'lambda' must be a name"),
    "a word of C++": ({"moments": {"new": "1"}}, "'new' must be a name"),
    "a name twice": ({"settings": {**SETTINGS, "m": 0.1}}, "'m' must be a name of .* that means nothing else"),
    "a name around it": ({"coefficients": {"change": "learning_rate"}}, "'change' must be a name"),
    "no learning rate": ({"settings": {"lr": 0.1}}, "its first setting must be learning_rate"),
    "a default": ({"settings": {**SETTINGS, "beta1": "0.9"}}, "the default of beta1 must be a number, got '0.9'"),
    "unknown": ({"coefficients": {**COEFFICIENTS, "rate": "lr"}}, "lr in 'lr' is none of C, beta1"),
    "no text": ({"coefficients": {**COEFFICIENTS, "rate": 0.1}}, "a coefficient must be text, got 0.1"),
    "unread": ({"coefficients": {**COEFFICIENTS, "rate": "2 +"}}, r"'2 \+' cannot be read: invalid syntax"),
    "a power": ({"coefficients": {**COEFFICIENTS, "rate": "beta1**2"}}, r"write|power\(a, b\) for a\*\*b"),
    "by 0": ({"coefficients": {**COEFFICIENTS, "rate": "1/(step - 1)"}}, r"rate = 1/\(step - 1\) cannot .* by zero"),
    "complex": ({"coefficients": {**COEFFICIENTS, "rate": "root(beta1 - 1)"}}, "rate = root.* cannot be worked out"),
    "a moment": ({"moments": {"m": "1/0"}}, "m = 1/0 cannot be worked out of learning_rate=0.0001, .*: division by"),
    "no calls": ({"numpy": _at_once}, _NUMPY + "it must yield calls"),
    "too early": ({"numpy": _too_early}, _NUMPY + "use numbers only when its calls run"),
    "no change": ({"numpy": _nowhere}, _NUMPY + "it must fill change"),
    "gradients": ({"numpy": _in_place}, _NUMPY + "output array is read-only"),
    "a parameter": ({"numpy": lambda w, g, change, work, m: ()}, _NUMPY + "unexpected keyword argument 'rate'"),
    "no function": ({"numpy": None}, _NUMPY + "not callable"),
    "C++": ({"cuda": "chnge = rate * g;"}, r"its C\+\+ text must assign change"),
    "a line": ({"lines": (("m", "{m}"), ("w", "{w} − {rat}·{g}"))}, "rat"),
    "other lines": (
        {"lines": (LION.lines[0], ("m", "{beta1}·{m} + (1 − {beta1})·{g}"), LION.lines[2])},
        "in step 1, with the gradient -2, its NumPy function makes m -0.02, and its lines -0.2",
    ),
    "other lines of w": (
        {"lines": (*LION.lines[:2], ("w", "{w} − {learning_rate}·sign({m})"))},
        "in step 2, with the gradient 1, its NumPy function makes change 0.0001, and its lines -0.0001",
    ),
    "a line's text": ({"lines": (("m", "{m}"), ("w", "{w} − {rate·{g}"))}, "update rule 'lion': "),
    "the last line": ({"lines": LION.lines[:-1]}, "update rule 'lion': .*w"),
    "no line": ({"lines": LION.lines[::2]}, "update rule 'lion': .*m"),
}


@pytest.mark.parametrize(("changed", "says"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_told_when_the_rule_is_made(changed, says):
    with pytest.raises(gb.InputError, match=says) as caught:
        replace(LION, **changed)
    assert str(caught.value).startswith("update rule ")


DIVIDES = replace(
    LION, settings={**SETTINGS, "kappa": 2.0}, coefficients={**COEFFICIENTS, "rate": "learning_rate / (kappa - 1)"}
)


def with_setting(name):
    return gb.Optimizer(replace(LION, settings={**SETTINGS, name: 1.0}))


class Forgetful(gb.Optimizer):
    def __init__(self):
        self.rate = 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: gb.Optimizer(LION, beat1=0.5), "Optimizer has no argument beat1; did you mean beta1"),
        (lambda: gb.Optimizer(LION, momentum=0.5), "Optimizer has no argument momentum; use beta1=0.9"),
        (lambda: gb.Optimizer(LION, beta1=2), r"beta1 of lion must be a number in \[0, 1\), got 2"),
        (lambda: gb.Optimizer(LION, beta1=[]), r"beta1 of lion must be a number in .*, or one a member, got \[\]"),
        (lambda: gb.Optimizer(DIVIDES, kappa=[2, 1, 3]), "rate = .* cannot be worked out of .*kappa=1.0: .*by zero"),
        (lambda: setattr(gb.Optimizer(DIVIDES), "kappa", 1), "rate = .* cannot be worked out of .*kappa=1.0"),
        (
            lambda: gb.Optimizer(replace(LION, settings={**SETTINGS, "hyper": 1.0})),
            "a setting cannot be called 'hyper'",
        ),
        (lambda: gb.Optimizer(replace(LION, settings={**SETTINGS, "bind": 1.0})), "a setting cannot be called 'bind'"),
        (lambda: gb.Optimizer("lion"), "rule must be an UpdateRule, got str 'lion'"),
        (Forgetful, r"the constructor of Forgetful must call super\(\).__init__\(rule, \*\*settings\)"),
        (lambda: trainer(LION), r"got the rule 'lion': write Optimizer\(rule, learning_rate=...\)"),
        (lambda: trainer(Lion), r"got the class Lion: write Lion\(\)"),
        (lambda: trainer(Lion([0.1, 0.2])), "learning_rate must be one number, got"),
    ],
)
def test_a_mistake_is_told_when_the_optimizer_is_made(make, says):
    with pytest.raises(gb.InputError, match=says):
        make()
