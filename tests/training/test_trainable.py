"""Training with layers that are frozen, for ever or for a while; and plans that follow what is set."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.explanation import explain

ROWS = 20
STREAM = np.random.default_rng(1)
X, LABELS = STREAM.normal(size=(ROWS, 4)), STREAM.integers(0, 3, ROWS)
OPTIMIZERS = gb.SGD(0.1, 0.9), gb.Adam(0.01), gb.AdamW(0.01, weight_decay=0.5)


def network(*frozen, seed=3):
    made = [gb.Dense(5, "tanh"), gb.Dropout(0.25), gb.Dense(4, "relu"), gb.Dense(3, "softmax")]
    net = gb.Network(4, made, dtype="float64", seed=seed)
    for k in frozen:
        net.layers[k].trainable = False
    return net


def trainer_of(net, optimizer=OPTIMIZERS[0]):
    return gb.Trainer(net, optimizer=optimizer, batch_size=8)


def fit(trainer, epochs=1, **options):
    return trainer.fit(X, LABELS, epochs, progress=False, **options)


def parts(flat, net):
    """Those of a flat array that belong to each layer, by its place."""
    found = {}
    for layer, _, shape, start in net.places:
        found.setdefault(layer.number - 1, []).append(flat[..., start : start + int(np.prod(shape))].copy())
    return found


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", [3, [3, 4]], ids=["one", "members"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_frozen_layer_stays_and_the_others_learn_as_by_hand(optimizer, seed):
    """By hand: steps of the whole network, after each of which the frozen parameters are put back."""
    net, whole = network(0, 2, seed=seed), network(seed=seed)
    trainer, by_hand = trainer_of(net, optimizer), trainer_of(whole, optimizer)
    before = parts(net.parameters, net)
    for _ in range(3):
        trainer.step(X, LABELS)
        by_hand.step(X, LABELS)
        for k in (0, 2):
            whole.layers[k].weight, whole.layers[k].bias = net.layers[k].weight, net.layers[k].bias
    after = parts(net.parameters, net)
    same(before[0] + before[2], after[0] + after[2])
    np.testing.assert_array_equal(net.parameters, whole.parameters)
    for moment in trainer.optimizer.moments.values():
        of_layers = parts(moment, net)
        assert not np.concatenate(of_layers[0] + of_layers[2], axis=-1).any()
        assert np.concatenate(of_layers[3], axis=-1).any()


@pytest.mark.parametrize("seed", [3, [3, 4]], ids=["one", "members"])
def test_factors_are_those_of_the_formula(seed):
    """W ← (1 − η·λ·rate·decay)·W − rate·(what Adam without a decay subtracts), step by step from the same W."""
    eta, decay = 0.01, 0.5
    net, plain = network(seed=seed), network(seed=seed)
    first, _, second, last = net.layers
    first.learning_rate_factor, first.weight_decay_factor = {"bias": 2}, {"bias": 0}
    second.learning_rate_factor, second.weight_decay_factor = 0.25, {"weight": 3}
    last.learning_rate_factor = {"weight": 0}
    factors = {0: [(1, 1), (2, 0)], 2: [(0.25, 3), (0.25, 1)], 3: [(0, 1), (1, 1)]}
    trainer, of_adam = trainer_of(net, gb.AdamW(eta, weight_decay=decay)), trainer_of(plain, gb.Adam(eta))
    for _ in range(4):
        plain.parameters = before = net.parameters.copy()
        trainer.step(X, LABELS)
        of_adam.step(X, LABELS)
        old, new, adams = (parts(flat, net) for flat in (before, net.parameters, plain.parameters))
        for k, of_layer in factors.items():
            for w, got, adam, (rate, of_decay) in zip(old[k], new[k], adams[k], of_layer, strict=True):
                want = (1 - eta * decay * rate * of_decay) * w - rate * (w - adam)
                np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(new[3][0], network(seed=seed).layers[3].weight.reshape(new[3][0].shape))


def test_a_factor_that_is_set_counts_from_the_next_step_on():
    net, faster = network(), network()
    trainer, other = trainer_of(net, gb.SGD(0.1)), trainer_of(faster, gb.SGD(0.2))
    trainer.step(X, LABELS)
    for layer in net.layers:
        if layer.weight is not None:
            layer.learning_rate_factor = 2
    for name in ("parameters", "random"):
        getattr(faster, name)[...] = getattr(net, name)
    for _ in range(2):
        trainer.step(X, LABELS)
        other.step(X, LABELS)
        np.testing.assert_allclose(net.parameters, faster.parameters, rtol=1e-12)


def test_where_nothing_is_trainable():
    with pytest.raises(gb.InputError, match=r"no layer is trainable.*net\.layers\[3\]\.trainable = True"):
        trainer_of(network(0, 2, 3))
    trainer = trainer_of(network(0, 2))
    trainer.network.layers[3].trainable = False
    for run in (lambda: trainer.step(X, LABELS), lambda: fit(trainer), lambda: trainer.plan(3)):
        with pytest.raises(gb.InputError, match="no layer is trainable"):
            run()
    trainer.network.layers[0].trainable = True
    fit(trainer)
    gb.Trainer(gb.Network(4, [gb.Dropout(0.5)])).step(X, X)  # there is nothing to freeze


def test_steps_by_hand_follow_what_is_set():
    net = network()
    trainer = trainer_of(net)
    for frozen in ((), (0,), (0, 2), (3,), ()):
        for k in (0, 2, 3):
            net.layers[k].trainable = k not in frozen
        twin = net.copy()
        fresh = trainer_of(twin)
        fresh.training_step.load_state(trainer.training_step.state())
        assert float(trainer.step(X, LABELS)) == float(fresh.step(X, LABELS))
        np.testing.assert_array_equal(net.gradients, twin.gradients)


@pytest.mark.parametrize("validation", [None, (X[:5], LABELS[:5])], ids=["", "validation"])
def test_an_epoch_follows_what_was_set_before_it(validation):
    """What a callback sets at the end of an epoch, in one fit, is what is set between fits of an epoch each."""
    net, wanted = network(0), network(0)
    net.layers[1].rate = wanted.layers[1].rate = 0.0
    trainer, by_parts = trainer_of(net), trainer_of(wanted)

    def change(of, epoch):
        if epoch == 2:
            of.layers[0].trainable, of.layers[3].trainable = True, False
        if epoch == 3:
            of.layers[1].rate, of.layers[2].learning_rate_factor = 0.5, {"bias": 1}

    def changing(state):
        change(net, state.epoch + 1)

    history = fit(trainer, 4, validation=validation, callbacks=[changing])
    for epoch in range(1, 5):
        change(wanted, epoch)
        fit(by_parts, validation=validation)
    assert history["loss"] == by_parts.history["loss"]
    np.testing.assert_array_equal(net.parameters, wanted.parameters)
    assert not net.layers[3].grad_weight.any() and net.layers[0].grad_weight.any()


def test_a_model_file_keeps_what_is_set(tmp_path):
    net = network(0)
    net.layers[2].weight_decay_factor, net.layers[3].learning_rate_factor = {"bias": 0}, 0.5
    gb.save(tmp_path / "net", net)
    again = gb.load(tmp_path / "net")
    assert again.architecture() == net.architecture()
    np.testing.assert_array_equal(again.group_factors(), net.group_factors())
    gb.save(tmp_path / "plain", network())
    assert not any(key in (tmp_path / "plain").read_bytes() for key in (b"trainable", b"factor"))


def test_explain_says_what_is_frozen():
    text = explain(trainer_of(network(0)), X[:2], LABELS[:2])
    assert "W1 stays as it is: its layer is not trainable." in text and "∇W1" not in text and "∇W3" in text
    assert "Dense(5, 'tanh', trainable=False)" in text
