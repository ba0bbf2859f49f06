"""Optimizers of one's own: a few assignments, from which the whole UpdateRule follows (backend/own_update.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.expression import to_text
from gpu_backprop.backend.expression_tree import TAKEN, names_of
from gpu_backprop.backend.own_update import OwnUpdate, read_assignments
from gpu_backprop.backend.rule_check import RESERVED
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.backend.update_rule import OPTIONAL, UpdateRule
from gpu_backprop.network.own_activations import check_name
from gpu_backprop.training.optimizer import Optimizer
from gpu_backprop.training.optimizers import OPTIMIZERS

MOST_RESULTS = 8
"""The most results that are no moments: each takes an array of scratch memory."""


@explain_arguments
def register_optimizer(
    name: str, settings: Mapping[str, float], update: Mapping[str, str], *, moments: Sequence[str] = ()
) -> Callable[..., Optimizer]:
    """Makes an optimizer of assignments, under a name that everything here takes from then on, in this process:
    Trainer(net, optimizer="name"), estimators, populations, searches. For example

        gb.register_optimizer(
            "my_lion", settings={"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.99},
            update={
                "c": "beta1*m + (1 - beta1)*g",
                "m": "beta2*m + (1 - beta2)*g",
                "w": "w - learning_rate*sign(c)",
            },
        )

    From it follow a NumPy function, the C++ of the kernels of a CPU and of CUDA, and the formulas that plans and
    `explain` show. docs/own-formulas.md has the grammar.

    Args:
        name: ASCII letters, digits and _; none of those that are built in.
        settings: by name the defaults of its numbers, learning_rate among them. weight_decay, l1, l2 and a schedule,
            which every optimizer has besides, are not said here.
        update: by name, what becomes of each at a step, in this order, for one parameter: expressions of w, of its
            gradient g, of the settings, of t, the number of the step from 1, and of the names of this mapping. A name
            that is read before its own assignment has the value of the step before, at first 0: it is a moment. The
            last one is "w": "w - " what it changes by.
        moments: names that are kept from step to step too, although nothing reads them before.

    Returns:
        What makes the optimizer, with other settings by name: Trainer(net, optimizer=made(0.01)).

    Raises:
        InputError: the name is taken, by another rule; a text is not in the grammar, or the texts do not make a rule.
    """
    rule = own_rule(name, settings, update, moments)
    known = OPTIMIZERS.get(name)
    if known is not None and not (isinstance(known, partial) and known.args == (rule,)):
        raise InputError(f"the optimizer {name!r} is registered already, as another rule; give this one another name.")
    return OPTIMIZERS.setdefault(name, partial(Optimizer, rule))


def own_rule(
    name: str, settings: Mapping[str, float], update: Mapping[str, str], moments: Sequence[str] = ()
) -> UpdateRule:
    """Makes the rule that `register_optimizer` registers."""
    check_name("optimizer", name, _BUILT_IN)
    for what, given in (("settings", settings), ("update", update)):
        if not isinstance(given, Mapping):
            raise InputError(f"{what} of optimizer {name!r} must be a mapping, got {given!r:.200}.")
    if "learning_rate" not in settings:
        raise InputError(
            f"settings of optimizer {name!r} must have learning_rate, got {', '.join(settings) or 'none'}."
        )
    settings = {"learning_rate": settings["learning_rate"], **settings}
    _check_names(name, settings, update, moments)
    trees = read_assignments(name, [*settings], update)
    kept, assigned = dict.fromkeys(moments), set[str]()
    for target, tree in trees:
        kept |= {n: None for n in update if n in names_of(tree) and n not in assigned and n != "w"}
        assigned.add(target)
    texts = tuple((target, to_text(tree)) for target, tree in trees)
    made = OwnUpdate(name, tuple(settings), texts, tuple(n for n in update if n in kept))
    if (others := len(update) - 1 - len(made.moments)) > MOST_RESULTS:
        raise InputError(
            f"update of optimizer {name!r} has {others} names that are no moments, and may have {MOST_RESULTS}."
        )
    rule = UpdateRule(
        name, settings, dict.fromkeys(made.moments, "1"), made.coefficients, made, made.cpp(), made.lines()
    )
    read = {"learning_rate", "w", *moments}.union(*(names_of(tree) for _, tree in trees))  # weight_decay reads the rate
    if idle := [one for one in (*settings, *update) if one not in read]:
        raise InputError(f"update of optimizer {name!r} does not read {idle[0]!r}: use it there, or leave it out.")
    return rule


def _check_names(name: str, settings: Mapping[str, float], update: Mapping[str, str], moments: Sequence[str]) -> None:
    what, taken = f"optimizer {name!r}", {*RESERVED, *TAKEN}
    if [*update][-1:] != ["w"]:
        raise InputError(f"the last of update of {what} must be 'w', got {', '.join(map(str, update)) or 'nothing'}.")
    for one in (*settings, *(n for n in update if n != "w")):
        check_name(f"setting or result of {what}", one, frozenset())
        if one in taken or (one in settings and (one in update or one in OPTIONAL)):
            raise InputError(f"nothing of {what} can be called {one!r}, which means something else.")
    if not isinstance(moments, (list, tuple)):
        raise InputError(f"moments of {what} must be a list of names, got {moments!r:.80}.")
    if strange := [one for one in moments if one not in update or one == "w"]:
        raise InputError(f"moments of {what} must be names of its update, got {strange[0]!r}.")


_BUILT_IN = frozenset(OPTIMIZERS)
