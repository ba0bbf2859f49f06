"""The history as curves in TensorBoard."""

from __future__ import annotations

import os
from typing import Any

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import MissingExtraError, install
from gpu_backprop.training.callbacks import FitState


class TensorBoard(FixedAttributes):
    """A callback that writes each epoch of the history to event files, which `tensorboard --logdir FOLDER` shows while
    the training runs: `trainer.fit(x, y, callbacks=[gb.TensorBoard("events/first")])`.

    Each column is a curve over the epochs; with a models axis it is one for each member, such as loss/0.

    Args:
        folder: where the event files go; each fit has one of its own.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    only_reads = True
    settable = ("folder",)

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(f"writing for TensorBoard needs tensorboardX: {install('tensorboard')}") from error
        self.folder = folder
        self._writer: Any = None

    def on_start(self, state: FitState) -> None:
        """Begins a file of this fit."""
        from tensorboardX import SummaryWriter

        if state.trainer.communicator.rank:  # the first one writes
            return
        # Its names have seconds in them: without a suffix, a fit could replace the file of the one before.
        self._writer = SummaryWriter(os.fspath(self.folder), filename_suffix=f".from-epoch-{state.epoch}")

    def on_epoch(self, state: FitState) -> None:
        """Adds the epoch."""
        if self._writer is None:
            return
        assert state.row is not None
        for name, value in state.row.items():
            members = {f"{name}/{k}": one for k, one in enumerate(value)} if isinstance(value, list) else {name: value}
            for tag, one in members.items():
                if name != "epoch":
                    self._writer.add_scalar(tag, one, state.epoch)
        self._writer.flush()

    def on_end(self, state: FitState) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
