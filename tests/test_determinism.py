"""Same seed, same bits: in one process, across processes, and for every layer, activation and optimizer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import gpu_backprop as gb

STREAM = np.random.default_rng(4)
X = STREAM.normal(size=(19, 4))
LABELS = np.arange(19) % 3

OPTIMIZERS = {
    "sgd": gb.SGD(0.1),
    "momentum": gb.SGD(0.1, momentum=0.9),
    "nesterov": gb.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": gb.RMSprop(),
    "adagrad": gb.Adagrad(),
    "adam": gb.Adam(),
    "adamw": gb.AdamW(),
}


def network(seed=0, activation="tanh", **options):
    layers = [
        gb.Bias("tanh"),
        gb.Dense(8, activation),
        gb.Dropout(0.3),
        gb.Dense(5, "relu", bias=False),
        gb.Dropout(0.2),
    ]
    return gb.Network(4, [*layers, gb.Dense(3, "softmax")], seed=seed, **options)


def bits(net):
    """All that training changes in a network, as a digest."""
    return hashlib.sha256(net.parameters.tobytes() + net.random.tobytes()).hexdigest()


def trained(seed=0, trainer_seed=None, optimizer="adam", **options):
    net = network(seed, **options)
    history = gb.Trainer(net, optimizer=optimizer, batch_size=5, seed=trainer_seed).fit(X, LABELS, 3, progress=False)
    return bits(net), history["loss"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(optimizer, dtype):
    assert trained(optimizer=optimizer, dtype=dtype) == trained(optimizer=optimizer, dtype=dtype)


@pytest.mark.parametrize("activation", gb.ACTIVATIONS)
def test_every_activation(activation):
    assert trained(activation=activation) == trained(activation=activation)


@pytest.mark.parametrize("init", gb.INITIALIZERS)
def test_every_initializer(init):
    first, again, other = (gb.Network(6, [gb.Dense(5, init=init)], seed=seed).layers[0].weight for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() or init == "zeros"


def test_what_else_was_done_in_between_does_not_matter():
    expected = trained()
    net = network()
    trainer = gb.Trainer(net, batch_size=5)
    np.random.default_rng().normal(size=100)
    trained(seed=9)
    net.predict(X, 7)
    net.forward(X)
    net.backward(np.ones((19, 3)))
    trainer.evaluate(X, LABELS)
    gb.check_gradients(net, None, X[:2], LABELS[:2])
    history = trainer.fit(X, LABELS, 3, validation=(X, LABELS), progress=False)
    assert (bits(net), history["loss"]) == expected


SCRIPT = """
import json, sys
import numpy as np
import gpu_backprop as gb
x, labels = np.array(json.loads(sys.argv[1])), np.arange(19) % 3
layers = [gb.Bias("tanh"), gb.Dense(8, "tanh"), gb.Dropout(0.3), gb.Dense(5, "relu", bias=False), gb.Dropout(0.2)]
net = gb.Network(4, [*layers, gb.Dense(3, "softmax")], device="cpu", seed=0)
gb.Trainer(net, batch_size=5).fit(x, labels, 3, progress=False)
sys.stdout.write((net.parameters.tobytes() + net.random.tobytes()).hex())
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process(hash_seed):
    """Its order of sets and of names that are hashed is another one."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SCRIPT, json.dumps(X.tolist())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(bytes.fromhex(done.stdout)).hexdigest() == trained()[0]


# What a seed decides --------------------------------------------------------------------------------------------------


def test_other_seeds_begin_shuffle_and_mask_otherwise():
    assert len({bits(network(seed)) for seed in range(5)}) == 5
    assert len({trained(seed)[0] for seed in range(5)}) == 5
    assert len({trained(0, trainer_seed)[0] for trainer_seed in range(5)}) == 5


def test_the_largest_seed():
    assert trained(2**64 - 1) == trained(2**64 - 1)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_trainer_takes_the_networks_seed(seed):
    assert trained(seed) == trained(seed, trainer_seed=seed) != trained(seed, trainer_seed=seed + 1)


def test_a_seed_of_ones_own_begins_dropout_anew():
    """So that the same trainer seed gives the same run, whatever masks the network has drawn before."""
    fresh, used = network(), network()
    used.forward(X, training=True)
    for net in (fresh, used):
        gb.Trainer(net, batch_size=5, seed=3).fit(X, LABELS, 1, progress=False)
    assert bits(fresh) == bits(used)


def test_initial_weights_are_the_same_numbers_in_every_dtype():
    single, double = network(dtype="float32"), network(dtype="float64")
    for one, other in zip(single.layers, double.layers, strict=True):
        if one.weight is not None:
            np.testing.assert_array_equal(one.weight, other.weight.astype(np.float32))


def first_batch(layers, shuffle=True, seed=0, trainer_seed=None):
    """The buffers of the first minibatch of a fit, which here has all rows."""
    trainer, seen = gb.Trainer(gb.Network(4, layers, seed=seed), batch_size=19, seed=trainer_seed), []
    build = trainer.training_step.build

    def spy(*args, **options):
        plan = build(*args, **options)
        look = lambda: seen.append({k: v.copy() for k, v in plan.buffers.items()})  # noqa: E731
        plan.append(gb.Operation("look", "", {}, {}, 0, 0, 1, plan.phase, lambda: (look,)))
        return plan

    trainer.training_step.build = spy
    trainer.fit(X, X, 1, shuffle=shuffle, progress=False)
    return seen[0]


def test_shuffling_and_masks_are_streams_of_their_own():
    """Without dropout the batches are the same, and without shuffling the masks."""
    both = first_batch([gb.Dropout(0.5), gb.Dense(4)])
    np.testing.assert_array_equal(both["x"], first_batch([gb.Dense(4)])["x"])
    np.testing.assert_array_equal(both["mask1"], first_batch([gb.Dropout(0.5), gb.Dense(4)], shuffle=False)["mask1"])


def test_a_trainers_seed_gives_the_batches_and_masks_of_a_network_with_that_seed():
    own, networks, others = (
        first_batch([gb.Dropout(0.5), gb.Dense(4)], seed=seed, trainer_seed=trainer_seed)
        for seed, trainer_seed in ((0, 7), (7, None), (0, None))
    )
    for name in ("x", "mask1"):
        np.testing.assert_array_equal(own[name], networks[name])
        assert (own[name] != others[name]).any()


def test_predicting_between_forward_and_backward_changes_nothing():
    plain, predicting = network(), network()
    for net in (plain, predicting):
        net.forward(X)
        if net is predicting:
            net.predict(-X)
        net.backward(np.ones((19, 3)))
    np.testing.assert_array_equal(plain.gradients, predicting.gradients)


# Masks ----------------------------------------------------------------------------------------------------------------

ONES = np.ones((50, 40))


def masks(seed=0, times=1, rows=50, rates=(0.25,)):
    net = gb.Network(40, [gb.Dropout(rate) for rate in rates], seed=seed)
    return [net.forward(ONES[:rows], training=True) for _ in range(times)]


def test_forward_draws_new_masks_in_training_and_none_otherwise():
    one, two, three = masks(times=3)
    assert (one != two).any() and (two != three).any()
    for mask in (one, two, three):
        assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)}
        assert abs((mask == 0).mean() - 0.25) < 0.05
    net = gb.Network(40, [gb.Dropout(0.25)])
    np.testing.assert_array_equal(net.forward(ONES), ONES)
    np.testing.assert_array_equal(net.predict(ONES), ONES)
    np.testing.assert_array_equal(net.forward(ONES, training=True), one)  # nor was a mask used up


def test_the_same_masks_again_from_the_same_seed():
    np.testing.assert_array_equal(masks(seed=5, times=3), masks(seed=5, times=3))
    assert (masks(seed=5)[0] != masks(seed=6)[0]).any()


def test_the_mask_of_a_row_does_not_depend_on_how_many_rows_there_are():
    np.testing.assert_array_equal(masks(rows=50)[0][:7], masks(rows=7)[0])


def test_two_dropout_layers_have_masks_of_their_own():
    one, both = masks()[0], masks(rates=[0.25, 0.25])[0]
    assert set(np.unique(both)) == {0.0, np.float32(np.float32(1 / 0.75) * np.float32(1 / 0.75))}
    assert abs((both != 0).mean() - 0.75**2) < 0.05
    assert ((both == 0) & (one != 0)).any()


def test_backward_goes_through_the_mask_of_its_forward():
    net = gb.Network(40, [gb.Dropout(0.25)], dtype="float64")
    for _ in range(2):
        mask = net.forward(ONES, training=True)
        np.testing.assert_array_equal(net.backward(2 * ONES), 2 * mask)
        np.testing.assert_array_equal(net.backward(3 * ONES), 3 * mask)


def test_members_are_masked_and_shuffled_as_they_would_be_alone():
    both = network(seed=[3, 4], dtype="float64")
    together = gb.Trainer(both, batch_size=5).fit(X, LABELS, 2, progress=False)["loss"]
    for member, seed in enumerate((3, 4)):
        net = network(seed, dtype="float64")
        alone = gb.Trainer(net, batch_size=5).fit(X, LABELS, 2, progress=False)["loss"]
        np.testing.assert_allclose([losses[member] for losses in together], alone, rtol=1e-12)
        np.testing.assert_array_equal(both.random[member], net.random)
        np.testing.assert_allclose(both.parameters[member], net.parameters, rtol=1e-9, atol=1e-12)
