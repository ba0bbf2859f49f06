"""A learning rate that falls, and an end where held-out rows get worse again: a noisy curve, learned from 40 points.

What one learns here: fit calls functions after every epoch, and methods of objects at other times too. They may set the
learning rate, measure, keep weights and put them back; a true value that they return ends the training.
"""

import math

import numpy as np

import gpu_backprop as gb


def cosine(state):
    """A schedule: from 0.02 down to almost nothing after 400 epochs."""
    state.trainer.optimizer.learning_rate = 0.02 * (1 + math.cos(math.pi * state.epoch / 401)) / 2


class EarlyStop:
    """Ends it after some epochs without a better val_loss, and goes back to the best weights."""

    def __init__(self, patience):
        self.patience, self.loss, self.epoch, self.best = patience, math.inf, 0, None

    def on_epoch(self, state):
        if state.row["val_loss"] < self.loss:
            self.loss, self.epoch, self.best = state.row["val_loss"], state.epoch, state.trainer.network.copy()
        return state.epoch - self.epoch >= self.patience and f"val_loss was lowest in epoch {self.epoch}"

    def on_end(self, state):
        if self.best is not None:
            state.trainer.network.parameters = self.best.parameters


x, noise = np.random.default_rng(0).uniform(-1, 1, (2, 80, 1))
y = np.sin(4 * x) + noise / 2
held_out = x[40:], y[40:]
trainer = gb.Trainer(gb.Network(1, [gb.Dense(64, "tanh"), gb.Dense(64, "tanh"), gb.Dense(1)]), batch_size=20)
history = trainer.fit(x[:40], y[:40], 400, validation=held_out, progress=False, callbacks=[cosine, EarlyStop(60)])
print(f"{history.stopped}: {trainer.evaluate(*held_out)['loss']:.4f}, in the end it was {history[-1]['val_loss']:.4f}")
