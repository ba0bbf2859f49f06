"""What is set on a network, a layer, a trainer or an optimizer works, or is an error that says what does."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb


def trainer(loss=None):
    layers = [gb.Dense(4, "tanh"), gb.Dropout(0.5), gb.Bias("relu"), gb.Dense(2)]
    return gb.Trainer(gb.Network(3, layers), loss, gb.SGD(0.1, momentum=0.5))


OWNERS = {
    "trainer": lambda it: it,
    "optimizer": lambda it: it.optimizer,
    "unbound": lambda it: gb.AdamW(),
    "plain": lambda it: gb.SGD(),
    "network": lambda it: it.network,
    "dense": lambda it: it.network.layers[0],
    "dropout": lambda it: it.network.layers[1],
    "bias": lambda it: it.network.layers[2],
    "alone": lambda it: gb.Dense(3),
    "loss": lambda it: trainer("huber").loss,
    "unbound loss": lambda it: gb.Huber(),
    "copy": lambda it: it.network.copy().layers[0],
}

REFUSED = [
    ("trainer", "learning_rate", 0.1, "Use trainer.optimizer.learning_rate"),
    ("trainer", "lr", 0.1, "Use trainer.optimizer.learning_rate"),
    ("trainer", "bach_size", 3, "has no attribute 'bach_size'. Did you mean batch_size"),
    ("trainer", "loss", "huber", "loss of a Trainer is decided when it is made"),
    ("trainer", "optimizer", "sgd", "is decided"),
    ("trainer", "network", None, "is decided"),
    ("trainer", "graph", True, "is decided"),
    ("trainer", "one_launch", True, "is decided"),
    ("trainer", "seed", 3, "has no attribute"),
    ("trainer", "batch_size", 0, "batch_size must be an integer ≥ 1"),
    ("trainer", "batch_size", 2.5, "batch_size must be an integer ≥ 1"),
    ("trainer", "stream", "yes", "stream must be 'auto', True or False"),
    ("optimizer", "lr", 0.1, "Use optimizer.learning_rate"),
    ("optimizer", "learning_rat", 0.1, "Did you mean learning_rate"),
    ("optimizer", "learning_rate", 0, "must be a finite number > 0"),
    ("optimizer", "momentum", 1.0, "must be a number in [0, 1)"),
    ("optimizer", "nesterov", True, "Write SGD(0.1, momentum=0.9, nesterov=True): it is decided when it is made"),
    ("optimizer", "rule", None, "is decided"),
    ("optimizer", "settings", {}, "is decided"),
    ("unbound", "weight_decay", -1, "must be a finite number ≥ 0"),
    ("plain", "momentum", 0.9, "Write SGD(0.1, momentum=0.9): one without momentum keeps no velocity"),
    ("unbound", "lr", 0.9, "Use optimizer.learning_rate"),
    ("network", "dtype", "float64", "Write net.copy(dtype=...)"),
    ("network", "layers", [], "is decided"),
    ("network", "seed", 3, "is decided"),
    ("network", "inputs", 3, "is decided"),
    ("network", "weights", 3, "has no attribute"),
    ("network", "preprocesing", 3, "Did you mean preprocessing"),
    ("dense", "activation", "relu", "is decided"),
    ("dense", "units", 3, "is decided"),
    ("dense", "rate", 3, "has no attribute 'rate'"),
    ("dense", "wieght", 3, "Did you mean weight"),
    ("dropout", "rate", 1, "dropout rate must be a number in [0, 1)"),
    ("dropout", "rates", 0.9, "has no attribute 'rates'. Did you mean rate"),
    ("dropout", "rate", [0.5, 0.5], "dropout rate must be one number, got [0.5, 0.5]"),
    ("bias", "activation", "relu", "is decided"),
    ("alone", "activation", "relu", "is decided"),
    ("copy", "has_bias", False, "is decided"),
    ("loss", "reduction", "sum", "reduction of a Huber is decided when it is made"),
    ("loss", "delta", 0, "Huber's delta must be a finite number > 0, got 0"),
    ("loss", "delta", [1.0, 2.0], "Huber's delta must be one number, got"),
    ("loss", "detla", 2.0, "Did you mean delta? What can be set: delta"),
    ("loss", "numbers", None, "is decided"),
    ("unbound loss", "delta", 2.0, "delta of a Huber is decided when it is made"),
]


@pytest.mark.parametrize(("owner", "name", "value", "says"), REFUSED, ids=[f"{row[0]}.{row[1]}" for row in REFUSED])
def test_what_would_have_no_effect_is_refused(owner, name, value, says):
    made = OWNERS[owner](trainer())
    before = repr(vars(made))
    with pytest.raises((AttributeError, gb.InputError)) as caught:
        setattr(made, name, value)
    assert says in str(caught.value)
    assert repr(vars(made)) == before


def test_the_error_is_an_attribute_error_of_ours():
    with pytest.raises(
        AttributeError, match="What can be set: average, batch_size, clip_norm, history, metrics, stopping, stream"
    ) as caught:
        trainer().bach_size = 3
    assert isinstance(caught.value, gb.GpuBackpropError)


def test_what_can_be_set_works():
    it, x, y = trainer(), np.ones((12, 3)), np.zeros((12, 2))
    it.batch_size = np.int64(4)
    seen = []
    it.training_step.shuffling.draw_order = lambda rows: seen.append(rows) or np.arange(rows)[::-1]
    it.optimizer.learning_rate, it.optimizer.momentum = 0.25, 0.75
    it.network.layers[0].weight = np.full((3, 4), 0.5)
    it.network.preprocessing, it.network.classes, it.network.trained_by = None, ["a", "b"], None
    assert (it.network.layers[0].weight == 0.5).all() and it.optimizer.hyper[1:].tolist() == [0.25, 0.75]
    it.fit(x, y, 2, progress=False)
    assert seen == [12, 12] and it.optimizer.hyper[0] == 6
    it.stop = seen.clear  # a method
    it._anything = 3  # private names are nobody's mistake


def test_a_subclass_may_set_what_its_constructor_set():
    class Patient(gb.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.best = None

        def fit(self, *arguments, **options):
            self.best = min(super().fit(*arguments, **options)["loss"])

    it = Patient(gb.Network(2, [gb.Dense(1)]))
    it.fit(np.ones((4, 2)), np.ones(4), 2, progress=False)
    assert it.best > 0
    with pytest.raises(AttributeError, match="a Patient has no attribute 'bets'"):
        it.bets = 3
