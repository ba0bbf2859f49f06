"""What an estimator names by a formula of one's own travels with it, to where nobody has registered the name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.own_update import OwnUpdate
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.network.own_losses import OwnLoss
from gpu_backprop.training.optimizers import OPTIMIZERS

TABLES: dict[str, dict[str, Any]] = {"activation": ACTIVATIONS, "loss": LOSSES, "optimizer": OPTIMIZERS}
STATE = "_own_formulas"


def with_formulas(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of an estimator with the registered formulas that its parameters name, if there are any."""
    names = [one for value in state.values() for one in (value if isinstance(value, (list, tuple)) else [value])]
    found = [*_found({name for name in names if isinstance(name, str)})]
    return state | {STATE: found} if found else state


def without_formulas(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of an estimator without its formulas, which are registered here; InputError where another one
    has a name already."""
    for kind, name, row in state.get(STATE, ()):
        known = TABLES[kind].setdefault(name, row)
        if _compared(known) != _compared(row):
            raise InputError(
                f"the {kind} {name!r} that this estimator names is another one than the one that is registered here."
            )
    return {name: value for name, value in state.items() if name != STATE}


def _found(names: set[str]) -> Iterator[tuple[str, str, Any]]:
    for kind, table in TABLES.items():
        for name in sorted(names & table.keys()):
            row = table[name]
            if getattr(row, "expression", "") or isinstance(row, OwnLoss) or isinstance(_rule_function(row), OwnUpdate):
                yield kind, name, row


def _rule_function(row: Any) -> Any:
    return row.args[0].numpy if isinstance(row, partial) else None


def _compared(row: Any) -> Any:
    """Returns what two rows of one name are told apart by."""
    return row.args if isinstance(row, partial) else row
