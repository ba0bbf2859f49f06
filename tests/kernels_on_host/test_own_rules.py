"""Update rules of which the package knows nothing, proved as those of its tables are."""

from __future__ import annotations

import pytest
from kernel_runners_optimizers import prove
from kernel_table import RUNNERS
from own_formulas import ACTIVATION_ROWS, RULE_ROWS
from own_optimizers import ADABELIEF, LION

from gpu_backprop.backend.cuda.kernel_instance import instance
from gpu_backprop.backend.formula import Functions
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import LOSSES

F = Functions((ACTIVATIONS["tanh"], ACTIVATION_ROWS["own_mish"], ACTIVATIONS["identity"]))
UPDATES = [("float32", 4), ("float64", 1), ("float16", 8), ("bfloat16", 1)]


@pytest.mark.parametrize(
    "kind", ["plain", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("address", "thread"))]
)
@pytest.mark.parametrize(
    "rule", [LION, ADABELIEF, RULE_ROWS["own_adam"], RULE_ROWS["own_bounded"]], ids=lambda rule: rule.name
)
class TestOwnRules:
    def test_update(self, rule, kind, shared, tmp_path):
        pytest.importorskip("ml_dtypes", reason="ml_dtypes, which brings bfloat16, is not installed")
        made = [instance("update", dtype, rule, width) for dtype, width in UPDATES[: 1 if kind == "thread" else None]]
        assert prove(made, *RUNNERS["update"], tmp_path, shared, kind) > 3

    def test_an_epoch(self, rule, kind, shared, tmp_path):
        loss = LOSSES["half_squared_error"].formula
        made = [instance("train_epoch", "float64", "float32", "float64", F, loss, rule)]
        assert prove(made, *RUNNERS["train_epoch"], tmp_path, shared, kind) > 3
