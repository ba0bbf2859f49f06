"""Trainer.diagnose finds each fault that is built in, and nothing where there is none; it learns nothing."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb

RNG = np.random.default_rng(7)
X, LABELS = RNG.normal(size=(300, 6)), np.arange(300) % 3


def trainer(*layers, classes=3, **options):
    net = gb.Network(6, [*layers, gb.Dense(classes, "softmax")], seed=0, device="cpu", dtype="float64")
    return gb.Trainer(net, **options)


def kinds(found):
    return [finding.kind for finding in found.findings]


def test_nothing_is_wrong_with_an_ordinary_network():
    found = trainer(gb.Dense(16, "relu"), gb.Dropout(0.3), gb.Dense(16, "tanh")).diagnose(X, LABELS)
    assert not found and kinds(found) == [] and str(found).endswith("nothing is wrong")
    assert [of.layer for of in found.layers][-1] == "4 Dense(3, 'softmax')" and found.rows == 300


def test_it_learns_nothing():
    one = trainer(gb.Dense(16, "relu"), gb.Dropout(0.5), optimizer=gb.Adam(0.01))
    arrays = one.training_step.state().arrays
    before = {name: array.copy() for name, array in arrays.items()}
    one.diagnose(X, LABELS, validation=(X, LABELS))
    assert all(np.array_equal(before[name], array) for name, array in arrays.items())


def test_dead_units():
    one = trainer(gb.Dense(10, "relu"))
    one.network.layers[0].bias[:4] = -1e3
    (found,) = one.diagnose(X, LABELS).findings
    assert found.kind == "dead units" and "40% of the units of layer 1 Dense(10, 'relu')" in found.seen


def test_saturated_units_and_what_they_do_to_gradients():
    one = trainer(gb.Dense(8, "tanh"), gb.Dense(8, "sigmoid"))
    one.network.layers[1].bias[:] = np.where(np.arange(8) % 2, 40, -40)  # σ = 0 is as flat, and looks dead to nobody
    found = one.diagnose(X, LABELS)
    assert "saturated units" in kinds(found) and "vanishing gradients" in kinds(found)
    assert found.layers[1].saturated == 0.5 and found.layers[1].dead == 0


def test_exploding_gradients():
    one = trainer(gb.Dense(8, "identity"), gb.Dense(8, "identity"))
    one.network.layers[1].weight[:] *= 1e4
    assert "exploding gradients" in kinds(one.diagnose(X, LABELS))


@pytest.mark.parametrize(("rate", "kind"), [(30.0, "steps too large"), (1e-9, "steps too small")])
def test_steps_of_the_wrong_size(rate, kind):
    found = trainer(gb.Dense(8, "relu"), optimizer=gb.SGD(rate)).diagnose(X, LABELS)
    assert kinds(found) == [kind]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("epochs", [0, 2])
def test_the_recipe_for_tables_has_steps_of_the_right_size(task, epochs):
    recipe = gb.recipes.small_table(task, len(X), 6)
    classes = task == "classification"
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int) if classes else X[:, :1] * X[:, 1:2] + X[:, 2:3]
    net = recipe.make_network(
        6, 1 + classes, "softmax" if classes else "identity", x=X, numbers=6, seed=0, device="cpu", dtype="float64"
    )
    one = recipe.make_trainer(net, len(X))
    if epochs:
        one.fit(X, y, epochs, progress=False)
    assert kinds(one.diagnose(X, y)) == []
    large = gb.Trainer(net, one.loss, recipe.make_optimizer(), batch_size=256)
    large.optimizer.learning_rate, large.optimizer.schedule = 5.0, {}
    assert "steps too large" in kinds(large.diagnose(X, y))


def test_weights_that_begin_at_0_have_no_ratio():
    found = trainer(gb.Dense(8, "relu", init="zeros"), optimizer=gb.Adam(1e-3)).diagnose(X, LABELS)
    assert found.layers[0].ratio is None and "steps too large" not in kinds(found)
    found = trainer(gb.Dense(8, "tanh"), gb.Dense(8, "tanh", init="zeros"), optimizer=gb.Adam(3.0)).diagnose(X, LABELS)
    (large,) = (finding for finding in found.findings if finding.kind == "steps too large")
    assert large.seen == "one step changes W of layer 2 Dense(8, 'tanh') from 0"


def test_a_learning_rate_factor_is_meant():
    layers = gb.Scale(learning_rate_factor=6), gb.Dense(8, "relu")
    assert not trainer(*layers, optimizer=gb.Adam(0.03)).diagnose(X, LABELS)


def test_the_ratio_is_that_of_the_step():
    one = trainer(gb.Dense(8, "relu"), optimizer=gb.SGD(0.5))
    before = one.network.layers[0].weight.copy()
    (figures, *_) = one.diagnose(X, LABELS).layers
    one.step(X, LABELS)
    change = one.network.layers[0].weight - before
    assert figures.ratio == pytest.approx(np.linalg.norm(change) / np.linalg.norm(before), rel=1e-12)
    assert figures.grad_weight == pytest.approx(np.sqrt(np.mean(np.square(change / 0.5))), rel=1e-9)


def test_frozen_layers_have_no_step():
    found = trainer(gb.Dense(8, "relu", trainable=False)).diagnose(X, LABELS)
    assert not found and found.layers[0].ratio is None


def test_unscaled_columns():
    x = X.copy()
    x[:, 2] += 1e6
    assert kinds(trainer(gb.Dense(8, "relu")).diagnose(x, LABELS))[0] == "unscaled data"


def test_unbalanced_and_absent_classes():
    labels = (np.arange(300) < 15).astype(int)
    found = trainer(gb.Dense(8, "relu"), classes=4).diagnose(X, labels)
    assert kinds(found) == ["unbalanced classes", "classes without rows"]
    assert "95.0% of the rows are of class 0" in found.findings[0].seen and "2 of 4" in found.findings[1].seen


@pytest.mark.parametrize("form", ["one output", "one hot"])
def test_unbalanced_classes_that_are_no_labels(form):
    labels = (np.arange(300) < 15).astype(int)
    y, units = (labels[:, None], 1) if form == "one output" else (gb.one_hot(labels), 2)
    net = gb.Network(6, [gb.Dense(8, "relu"), gb.Dense(units, "sigmoid")], seed=0, device="cpu")
    found = gb.Trainer(net).diagnose(X, y)
    assert kinds(found) == ["unbalanced classes"] and "95.0% of the rows are of class 0" in found.findings[0].seen


def test_rows_that_need_not_fit_in_memory():
    rows = gb.open_rows(X.astype(np.float32), LABELS)
    assert not trainer(gb.Dense(16, "relu")).diagnose(rows, validation=rows)


def test_overfitting_by_validation_and_by_the_history():
    one = trainer(gb.Dense(64, "relu"), optimizer=gb.Adam(0.03))
    noise = RNG.integers(0, 3, 300)
    one.fit(X, noise, 60, validation=(X[::-1], noise), progress=False)
    assert kinds(one.diagnose(X, noise, validation=(X[::-1], noise)))[-2:] == ["trained too long", "overfitting"]


def test_early_stopping_has_not_trained_too_long():
    one = trainer(gb.Dense(64, "relu"), optimizer=gb.Adam(0.03))
    noise = RNG.integers(0, 3, 300)
    one.fit(X, noise, 60, validation=(X[::-1], noise), early_stopping=gb.EarlyStopping(patience=60), progress=False)
    assert one.history[-1]["val_loss"] > 1.05 * min(one.history["val_loss"])
    assert "trained too long" not in kinds(one.diagnose(X, noise))


def test_members_are_looked_at_together():
    net = gb.Network(6, [gb.Dense(8, "relu"), gb.Dense(3, "softmax")], seed=[0, 1], device="cpu")
    net.layers[0].bias[1, :] = -1e3
    found = gb.Trainer(net).diagnose(X, LABELS)
    assert found.layers[0].dead == 0.5 and kinds(found) == ["dead units"]


# On divergence, the layer whose values went first ---------------------------------------------------------------------


def diverge(net, x, y, **options):
    with pytest.raises(gb.DivergedError) as caught:
        gb.Trainer(net, **options).fit(x, y, 2, progress=False)
    return str(caught.value)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_layer_is_named_whose_values_go_first(layer):
    layers = [gb.Dense(8, "relu"), gb.Dense(8, "exp"), gb.Dense(3, "softmax")]
    net = gb.Network(6, layers, seed=0, device="cpu")
    net.layers[layer - 1].weight *= np.float32(1e38)
    said = diverge(net, np.abs(X), LABELS, optimizer=gb.SGD(1e-30))
    assert f"epoch 1, step 1 of 3, first in z{layer}, of layer {layer}, {net.layers[layer - 1]!r}. The" in said


def test_the_second_step_shows_it_where_the_first_made_weights_too_large():
    net = gb.Network(6, [gb.Dense(4, "relu"), gb.Dense(1)], seed=0, device="cpu")
    said = diverge(net, X, RNG.normal(size=300), optimizer=gb.SGD(1e38), batch_size=50)
    assert "epoch 1, step 2 of 6, first in z2, of layer 2, Dense(1, 'identity'). The" in said


@pytest.mark.filterwarnings("ignore:x is not scaled")
def test_weights_that_a_step_makes_infinite_are_named():
    """All losses of the epoch are finite, for there is one step in it."""
    net = gb.Network(6, [gb.Dense(1)], seed=0, device="cpu")
    net.parameters *= 0
    said = diverge(net, X * 1e35, np.sign(X[:, 0]), optimizer=gb.SGD(1e5), batch_size=300)
    assert "the parameters became NaN or infinite in epoch 1, step 1 of 1, first in W1, of layer 1, Dense(1," in said


def test_a_loss_that_overflows_by_itself_is_no_layers():
    net = gb.Network(6, [gb.Dense(1)], seed=0, device="cpu", dtype="float64")
    with pytest.warns(RuntimeWarning, match="not scaled"):
        assert "first in E, the loss itself. The" in diverge(net, X, np.full(300, 1e200))
