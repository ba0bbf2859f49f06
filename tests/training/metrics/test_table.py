"""Which metrics there are for what network, what a user may give, and which way each gets better."""

import pytest

import gpu_backprop as gb
from gpu_backprop import InputError
from gpu_backprop.training.metrics import METRICS, choose_metrics, larger_is_better


def profit(y_true, y_pred):
    return 0.0


def network(units, activation, loss=None):
    net = gb.Network(3, [gb.Dense(units, activation)])
    return net, gb.Trainer(net, loss).loss


def suiting(*args):
    net, loss = network(*args)
    fitting = set()
    for name in METRICS:
        try:
            choose_metrics([name], net, loss)
            fitting.add(name)
        except InputError:
            pass
    return fitting


EVERY_CLASS = {"accuracy", "f1_macro", "f1_weighted", "roc_auc", "average_precision", "log_loss", "brier_score"}
EVERY_CLASS |= {"calibration_error", "calibrated_log_loss"}
CLASSES = EVERY_CLASS | {"balanced_accuracy"}
NUMBERS = {"r2", "mae", "rmse", "median_absolute_error", "quantile_0.9_loss"}


def test_what_suits_a_network():
    assert suiting(9, "softmax") == CLASSES | {"top_5_accuracy"}
    assert suiting(3, "softmax") == CLASSES
    assert suiting(2, "softmax") == suiting(1, "sigmoid") == CLASSES | {"f1"}
    assert suiting(2, "sigmoid") == EVERY_CLASS | {"label_accuracy", "exact_match"}
    assert suiting(2, "identity") == NUMBERS
    assert suiting(2, "identity", "quantile") == NUMBERS | {"quantile_loss"}
    assert suiting(3, "softmax", "squared_error") == CLASSES | NUMBERS  # of classes or of shares: who knows
    assert suiting(1, "sigmoid", "squared_error") == CLASSES | {"f1"} | NUMBERS


def test_what_is_refused():
    for metrics, args, message in (
        (["aucroc"], (3, "softmax"), "unknown metric 'aucroc'. Did you mean 'roc_auc'"),
        (["r2"], (3, "softmax"), "'r2' is for numbers, but .* with cross_entropy, are classes.* accuracy, top_5_acc"),
        (["f1"], (3, "softmax"), "'f1' is for two classes, but"),
        (["roc_auc"], (1, "identity"), "are numbers. For these there are r2, mae, rmse"),
        (["top_3_accuracy"], (3, "softmax"), "always 1, for there are 3 classes"),
        (["quantile_loss"], (1, "identity"), "half_squared_error has none: write quantile_0.9_loss"),
        (["accuracy", "accuracy"], (3, "softmax"), "got 'accuracy' twice"),
        ("accuracy", (3, "softmax"), "must be a list of names and functions, got str 'accuracy'"),
        ([7], (3, "softmax"), "must be names, or functions .* got int 7"),
        ([lambda y_true, y_pred: 0.0], (3, "softmax"), "cannot be called '<lambda>'. Define it by def"),
        ([len], (3, "softmax"), "len is not"),
    ):
        net, loss = network(*args)
        with pytest.raises(InputError, match=message):
            choose_metrics(metrics, net, loss)
        with pytest.raises(InputError, match=message):
            gb.Trainer(net, loss, metrics=metrics)


def test_columns_and_their_twins():
    for name in ("accuracy", "val_accuracy", "val_top_7_accuracy", "f1_macro", "val_r2", "roc_auc"):
        assert larger_is_better(name), name
    for name in ("loss", "val_loss", "val_mae", "rmse", "log_loss", "val_quantile_0.25_loss", "calibration_error"):
        assert not larger_is_better(name), name


def test_own_functions_say_it_themselves(monkeypatch):
    for name in ("val_profit", "seconds", "top_0_accuracy"):
        with pytest.raises(InputError, match=f"larger {name} is better, nobody has said"):
            larger_is_better(name, [profit])
    for larger in (True, False):
        monkeypatch.setattr(profit, "larger_is_better", larger, raising=False)
        assert larger_is_better("val_profit", ["accuracy", profit]) is larger
