"""Which way a column of the history gets better."""

import pytest

from gpu_backprop import InputError
from gpu_backprop.training.metrics import larger_is_better


def profit(y_true, y_pred):
    return 0.0


def test_columns_and_their_twins():
    for name in ("accuracy", "val_accuracy", "val_top_5_accuracy", "f1_macro", "val_r2", "roc_auc"):
        assert larger_is_better(name), name
    for name in ("loss", "val_loss", "val_mae", "rmse", "log_loss", "val_quantile_0.9_loss", "calibration_error"):
        assert not larger_is_better(name), name


def test_own_functions_say_it_themselves(monkeypatch):
    for name in ("val_profit", "seconds", "top_0_accuracy"):
        with pytest.raises(InputError, match=f"larger {name} is better, nobody has said"):
            larger_is_better(name, [profit])
    for larger in (True, False):
        monkeypatch.setattr(profit, "larger_is_better", larger, raising=False)
        assert larger_is_better("val_profit", ["accuracy", profit]) is larger
