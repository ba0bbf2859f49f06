"""Networks from scikit-learn's own fitted MLPs, and fitted MLPs from networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.utils.multiclass import unique_labels

from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.interop.estimators.options import NAMED_ACTIVATIONS
from gpu_backprop.interop.exchange.assembly import Assembly
from gpu_backprop.interop.exchange.weights import layer_slots
from gpu_backprop.network.layers import Dense, Dropout
from gpu_backprop.network.network import Network

HIDDEN = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
"""The activations of hidden layers that scikit-learn has, and what it calls them."""


@explain_arguments
def from_mlp(mlp: Any, **options: Any) -> Network:
    """Makes a network that computes what a fitted MLPClassifier or MLPRegressor of scikit-learn computes: predict_proba
    of classes, of two of them the probability of the second one alone, and predict of numbers. `network.classes` has
    the names of the classes, where these are text or whole numbers.

    Args:
        mlp: of sklearn.neural_network. Those of gpu_backprop have their network as `network_`.
        options: dtype, device, tf32 and seed, as of `Network`; unless it is given, dtype is that of the weights.

    Raises:
        InputError: it is something else, is not fitted, or holds what is no finite number.
    """
    if not isinstance(mlp, (neural_network.MLPClassifier, neural_network.MLPRegressor)):
        hint = ": its network is there already, as its attribute network_" if hasattr(mlp, "network_") else ""
        raise InputError(
            f"mlp must be an MLPClassifier or MLPRegressor of sklearn.neural_network, got {type(mlp).__name__}{hint}."
        )
    if not hasattr(mlp, "coefs_"):
        raise InputError(f"{type(mlp).__name__} is not fitted yet: call its fit first.")
    assembly = Assembly()
    activations = [mlp.activation] * (len(mlp.coefs_) - 1) + [mlp.out_activation_]
    for number, (weight, bias, f) in enumerate(zip(mlp.coefs_, mlp.intercepts_, activations, strict=True), 1):
        assembly.add_dense(f"layer {number}", weight, bias)
        assembly.activate(NAMED_ACTIVATIONS[f].name)
    network = assembly.network(**options)
    classes: list[Any] = getattr(mlp, "classes_", np.zeros(0)).tolist()
    one_a_row = mlp.out_activation_ == "softmax" or network.outputs == 1
    if classes and one_a_row and all(isinstance(one, str) or type(one) is int for one in classes):
        network.classes = classes
    return network


@explain_arguments
def to_mlp(network: Network, classes: Sequence[Any] | None = None) -> Any:
    """Makes an MLPClassifier or MLPRegressor of scikit-learn, fitted, that predicts what the network predicts.

    Args:
        network: of Dense layers, and Dropout, which predictions know nothing of. The hidden ones have one activation,
            identity, sigmoid, tanh or relu; the last one has softmax, or one sigmoid output for two classes, several
            for labels that are each a yes or no, identity for numbers, or exp.
        classes: the labels of the outputs, in their order; None: `network.classes`, or the numbers of the outputs.

    Raises:
        InputError: scikit-learn's MLP cannot compute it; the message names the layer. Or there are not as many classes.
    """
    slots = layer_slots(network)
    layers = [layer for layer in network.layers if not isinstance(layer, Dropout)]
    if not layers or not all(isinstance(layer, Dense) for layer in layers):
        wrong = next(layer for layer in network.layers if layer not in layers or not isinstance(layer, Dense))
        raise InputError(f"scikit-learn's MLP has Dense layers alone, and layer {wrong.number} is {wrong!r}.")
    hidden = list(dict.fromkeys(layer.activation.name for layer in layers[:-1]))
    if len(hidden) > 1 or any(name not in HIDDEN for name in hidden):
        raise InputError(
            f"scikit-learn's MLP has one activation in all hidden layers, {', '.join(HIDDEN)}, and those of the "
            f"network have {', '.join(hidden)}."
        )
    sizes, f = [layer.units for layer in layers[:-1]], HIDDEN[hidden[0]] if hidden else "relu"
    arrays = [[slot.read() for slot in of_layer.values()] for of_layer in slots]
    coefs, intercepts = zip(*((weight, *(bias or [np.zeros_like(weight[0])])) for weight, *bias in arrays), strict=True)
    last, told = network.last.activation.name, {}
    if last in ("softmax", "sigmoid"):
        coefs, intercepts, rows = _ordered(network, classes, [*coefs], [*intercepts])
        mlp, told = neural_network.MLPClassifier(sizes, f), {"classes": unique_labels(rows)}
    elif classes is not None:
        raise InputError(f"classes are for a network that ends in softmax or sigmoid, and this one ends in {last}.")
    elif last in ("identity", "exp"):
        rows = np.ones((1, network.outputs) if network.outputs > 1 else 1)
        mlp = neural_network.MLPRegressor("poisson" if last == "exp" else "squared_error", sizes, f)
    else:
        raise InputError(f"scikit-learn's MLP ends in softmax, sigmoid, identity or exp, and the network in {last}.")
    # one step on made-up rows: scikit-learn itself makes all that a fitted one has
    mlp.partial_fit(np.zeros((len(rows), network.inputs), network.device.master), rows, **told)
    vars(mlp).pop("_optimizer")  # whose moments are of that step
    mlp.coefs_, mlp.intercepts_ = [*coefs], [*intercepts]
    mlp.t_, mlp.loss_curve_, mlp.best_loss_ = 0, [], np.inf
    return mlp


def _ordered(
    network: Network, classes: Sequence[Any] | None, coefs: list[Array], intercepts: list[Array]
) -> tuple[list[Array], list[Array], Array]:
    """Brings the outputs into the order of scikit-learn, which sorts the classes, and has one output for two of them.
    Returns the parameters, and targets in which all classes are."""
    several = max(2, network.outputs)
    softmax = network.last.activation.name == "softmax"
    if not softmax and network.outputs > 1:
        if classes is not None:
            raise InputError("classes are for one class a row, and each output of this network is a yes or no.")
        return coefs, intercepts, np.eye(several, dtype=int)
    if softmax and network.outputs == 1:
        raise InputError("softmax of one output is always 1, which scikit-learn's MLP has not.")
    given = network.classes if classes is None else classes
    labels = np.arange(several) if given is None else np.asarray(given)
    if labels.shape != (several,) or len(np.unique(labels)) != several:
        raise InputError(f"classes must be {several} different labels, one for each class, got {given!r}.")
    order = np.argsort(labels)
    weight, bias = coefs[-1], intercepts[-1]
    if not softmax:  # that of the second class, which is 1 − that of the first
        sign = 1 if order[1] == 1 else -1
        weight, bias = sign * weight, sign * bias
    elif several == 2:  # e^z₂/(e^z₁ + e^z₂) is the sigmoid of z₂ − z₁
        weight, bias = (array[..., order[1:]] - array[..., order[:1]] for array in (weight, bias))
    else:
        weight, bias = weight[:, order], bias[order]
    return [*coefs[:-1], weight], [*intercepts[:-1], bias], labels[order]
