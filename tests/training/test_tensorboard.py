"""Event files for TensorBoard, read record by record."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

import gpu_backprop as gb


def scalars(folder):
    """(tag, epoch, value) of every record: 8 bytes length, 4 checksum, the event, 4 checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            event = Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one network", "members"])
def test_every_column_is_a_curve(tmp_path, seed):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    net = gb.Network(2, [gb.Dense(1)], seed=seed, device="cpu")
    trainer, x, y = gb.Trainer(net), np.ones((4, 2)), np.ones((4, 1))
    for epochs in (2, 1):  # each fit has a file of its own
        events = gb.TensorBoard(tmp_path / "events")
        history = trainer.fit(x, y, epochs, validation=(x, y), progress=False, callbacks=[events])
    expected = [
        (name if not isinstance(value, list) else f"{name}/{k}", row["epoch"], np.float32(one))
        for row in history
        for name, value in row.items()
        for k, one in enumerate(value if isinstance(value, list) else [value])
        if name != "epoch"
    ]
    np.testing.assert_equal(scalars(tmp_path / "events"), expected)


def test_without_tensorboardx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(gb.MissingExtraError, match=r"pip install 'gpu-backprop\[tensorboard\]'"):
        gb.TensorBoard("events")
