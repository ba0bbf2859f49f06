"""scikit-learn: MLPClassifier and MLPRegressor by partial_fit, which is its way to train a given number of epochs.

An epoch is one partial_fit on all rows, which draws their order and cuts the minibatches itself: less work than a call
for each of them. A step alone is a partial_fit on one minibatch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor

from comparison.peers.task import Missing, Parameters, Peer, Task


class ScikitLearn(Peer):
    """Without its penalty and its momentum, from the given parameters."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version = f"scikit-learn {sklearn.__version__}"
        if task.device != "cpu":
            raise Missing(f"{self.version} trains on a CPU only")
        hidden = tuple(w.shape[1] for w, _ in task.parameters[:-1])
        how: dict[str, Any] = {
            "hidden_layer_sizes": hidden, "activation": task.activation, "alpha": 0.0, "batch_size": task.batch,
            "random_state": task.seed, "learning_rate_init": task.settings[0],
        }  # fmt: skip
        if task.adam:
            how |= {"solver": "adam", **dict(zip(("beta_1", "beta_2", "epsilon"), task.settings[1:], strict=True))}
        else:
            how |= {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False}
        if task.labelled:
            self.model = MLPClassifier(**how)
            self.target, classes = task.target, {"classes": np.arange(task.parameters[-1][1].size)}
        else:
            self.model = MLPRegressor(**how)
            self.target, classes = task.target.squeeze(axis=1) if task.target.shape[1] == 1 else task.target, {}
        self.weights = {} if task.weights is None else {"sample_weight": task.weights}
        self.minibatch = task.x[: task.batch], self.target[: task.batch]
        self.weights_of_it = {name: a[: task.batch] for name, a in self.weights.items()}
        self.model.partial_fit(*self.minibatch, **classes, **self.weights_of_it)  # makes parameters and an optimizer
        self.reset()

    def reset(self) -> None:
        self._copy(self.task.parameters)
        optimizer = self.model._optimizer
        optimizer.t = 0
        for name in ("ms", "vs", "velocities"):
            for moment in getattr(optimizer, name, ()):
                moment[...] = 0

    def _copy(self, parameters: Parameters) -> None:
        for k, (w, b) in enumerate(parameters):
            self.model.coefs_[k][...] = w
            self.model.intercepts_[k][...] = b

    def epoch(self, shuffle: bool) -> float:
        self.model.shuffle = shuffle
        self.model.partial_fit(self.task.x, self.target, **self.weights)
        return float(self.model.loss_)

    def steps(self, times: int) -> int:
        self.model.shuffle = False
        for _ in range(times):
            self.model.partial_fit(*self.minibatch, **self.weights_of_it)
        return times

    steps_by_hand = steps

    def evaluate(self) -> tuple[float, float]:
        x, target = self.task.validation or ()
        y = self.infer(x)
        return float(log_loss(target, y)), float((y.argmax(axis=1) == target).mean())

    def infer(self, x: Any) -> Any:
        return self.model.predict_proba(x)

    def parameters(self) -> Parameters:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [(w.copy(), b.copy()) for w, b in pairs]
