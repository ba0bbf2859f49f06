"""coefs_ and intercepts_: the parameters of an estimator's network, as scikit-learn shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from gpu_backprop.backend.formula import Array
from gpu_backprop.interop.estimators.own_formulas import with_formulas, without_formulas
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.network import Network
from gpu_backprop.network.samples import samples
from gpu_backprop.training.full_batch import FullBatch
from gpu_backprop.training.trainer import Trainer


class ShownParameters(BaseEstimator):
    """An estimator whose coefs_ and intercepts_ are the parameters of its network_: on a CPU its own arrays, else
    copies. Other arrays may be put in the place of them, or of what is in these lists."""

    alpha: float
    network_: Network
    coefs_: list[Array]
    intercepts_: list[Array]
    _trainer: Trainer
    _shown: list[tuple[Array, Array]]

    @property
    def _dense(self) -> list[Any]:
        return [layer for layer in self.network_.layers if isinstance(layer, Dense)]

    def _adopt_parameters(self) -> None:
        """Copies into the network what was put in the place of its parameters."""
        shown = [*self._shown, *[(None, None)] * len(self.coefs_)]
        for layer, W, b, (own_W, own_b) in zip(self._dense, self.coefs_, self.intercepts_, shown, strict=False):
            if W is not own_W:
                layer.weight = W
            if b is not own_b:
                layer.bias = b

    def _show_parameters(self) -> None:
        """Makes coefs_ and intercepts_ those of the network."""
        on_host = isinstance(self.network_.parameters, np.ndarray)
        get = (lambda array: array) if on_host else self.network_.device.to_host
        self._shown = [(get(layer.weight), get(layer.bias)) for layer in self._dense]
        self.coefs_, self.intercepts_ = [W for W, _ in self._shown], [b for _, b in self._shown]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return with_formulas(state | {"_shown": []} if "_shown" in state else state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(without_formulas(state))
        if "network_" in state:
            self._adopt_parameters()
            self._show_parameters()

    def _loss_grad_lbfgs(
        self, packed: Array, X: Any, y: Array, sample_weight: Any, *unused: Any
    ) -> tuple[float, Array]:  # fmt: skip
        """Returns the loss and its gradient where all parameters, one after the other, are these: weights, then biases,
        as scikit-learn's method of this name does; it has a use for more arrays."""
        net = self.network_.copy(dtype="float64")
        layers = [layer for layer in net.layers if isinstance(layer, Dense)]
        names = [(layer, name) for name in ("weight", "bias") for layer in layers]
        ends = np.cumsum([getattr(layer, name).size for layer, name in names])
        for (layer, name), part in zip(names, np.split(np.asarray(packed, np.float64), ends[:-1]), strict=True):
            setattr(layer, name, part.reshape(getattr(layer, name).shape))
        data = samples(net, self._trainer.loss, X, y, sample_weight, values=False)
        total = X.shape[0] if sample_weight is None else float(np.sum(sample_weight))
        objective = FullBatch(net, self._trainer.loss, data, X.shape[0], self.alpha / total)
        loss, net.gradients = objective(net.device.to_host(net.parameters))
        grads = [net.device.to_host(getattr(layer, f"grad_{name}")).ravel() for layer, name in names]
        return loss, np.concatenate(grads)
