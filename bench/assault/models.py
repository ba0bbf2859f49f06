"""Model files, damaged, cut off while they are read, or full of holes: each must be refused by a ModelFileError, or
load as exactly what was saved, where the damage changed nothing that means something.

python bench/assault/models.py [--quick]
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from accidents import LENGTHS, damaged
from verdict import asked_quick, report
from workers import run_all

import gpu_backprop as gb
from gpu_backprop.data import Preprocessing, Table
from gpu_backprop.training import model_file

MEMORY = 2 << 30
"""Bytes that a process may address."""

HUGE = (2**20, 10**9, 2**31, 2**40)
"""Units of layers that no memory holds, or none of this process's."""


def networks() -> list[gb.Network]:
    """Networks of every kind that a file may hold."""
    table = Table("t", {"a": np.arange(9.0), "b": np.array(["x", "ÿ", None] * 3, object), "y": np.arange(9.0) % 2})
    learned = Preprocessing.fit(table, "y", impute="median")
    knowing = gb.Network(learned.inputs, [gb.Dense(3, "relu"), gb.Dense(2, "softmax")], device="cpu")
    knowing.preprocessing, knowing.classes = learned, learned.classes
    layers = [gb.Dense(5, "tanh"), gb.Dropout(0.5), gb.Bias("sigmoid"), gb.Dense(2, bias=False, init="orthogonal")]
    several = [gb.Network(4, layers, device="cpu", **of) for of in ({}, {"dtype": "float64"}, {"seed": [1, 2, 5]})]
    large = gb.Network(60, [gb.Dense(800)], device="cpu")  # more than is read ahead
    return [knowing, *several, large]


@cache
def saved() -> list[tuple[bytes, gb.Network]]:
    """What is in the file of each network, and what it loads as."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        found = []
        for net in networks():
            gb.save(path, net)
            found.append((path.read_bytes(), gb.load(path, device="cpu")))
        return found


def meaning(net: gb.Network) -> tuple[object, ...]:
    """All that a file says of a network."""
    preprocessing = None if net.preprocessing is None else json.dumps(net.preprocessing.to_dict())
    return net.architecture(), net.parameters.tobytes(), net.random.tobytes(), preprocessing, net.classes


def header_of(whole: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    """The header of a file, and what follows."""
    length = struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def rewritten(whole: bytes, chance: random.Random) -> bytes:
    """A header that is sound JSON and says something else in one to three places."""
    header, rest = header_of(whole)
    for _ in range(chance.randint(1, 3)):
        holder = header[chance.choice(list(header))]
        key = chance.choice(list(holder))
        junk = (None, True, -1, 2.5, 1e308, "", "x", [], [[]], {}, "F64", [0, 24], *LENGTHS)
        match chance.randrange(4):
            case 0:
                holder[key] = chance.choice(junk)
            case 1:
                holder[key] = json.loads(_damaged_text(json.dumps(holder[key]), chance))
            case 2:
                del holder[key]
            case 3:
                header[chance.choice(("random", "layers.0.weight", "more"))] = dict(holder)
        if not all(header.values()):
            break
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def _damaged_text(text: str, chance: random.Random) -> str:
    changed = damaged(text.encode(), chance)
    try:
        json.loads(changed)
    except ValueError:
        return "0"
    return changed.decode()


def write_holes(path: Path, chance: random.Random) -> None:
    """A file of some kilobytes whose header says that it has layers of more units than any memory holds: as large as it
    says, of holes, or cut off."""
    units, inputs = chance.choice(HUGE), chance.choice((1, 100, 2**15))
    layer = {"kind": "dense", "units": units, "activation": "relu", "bias": False, "init": "orthogonal"}
    text = json.dumps({"inputs": inputs, "layers": [layer], "dtype": "float32", "seed": 0})
    end = 24 + 4 * units * inputs
    header = {
        "__metadata__": {"program": "gpu_backprop", "format": "1", "architecture": text, "sha256": "0" * 64},
        "random": {"dtype": "U64", "shape": [1, 3], "data_offsets": [0, 24]},
        "layers.0.weight": {"dtype": "F32", "shape": [inputs, units], "data_offsets": [24, end]},
    }
    start = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(start)) + start)
        file.truncate(8 + len(start) + min(end, chance.choice((0, 10**6, 2**43))))


def cut_off(path: Path, chance: random.Random, length: int) -> None:
    """Makes the next load meet a file that becomes shorter while it is read."""
    read, left = model_file.fill, chance.randrange(length)
    countdown = chance.randrange(3)

    def fill(file: object, array: np.ndarray) -> int:
        nonlocal countdown
        if not countdown:
            os.truncate(path, left)
        countdown -= 1
        return read(file, array)

    model_file.fill = fill


def attempt(number: int, folder: Path) -> str:
    """Load the file of an attempt."""
    chance, path = random.Random(number), folder / "model.safetensors"
    whole, net = saved()[number % len(saved())]
    plain, manner = model_file.fill, chance.randrange(10)
    path.unlink(missing_ok=True)
    if manner == 0:
        write_holes(path, chance)
    elif manner == 1:
        path.write_bytes(whole)
        cut_off(path, chance, len(whole))
    elif manner < 4:
        path.write_bytes(rewritten(whole, chance))
    else:
        path.write_bytes(damaged(whole, chance, saved()[0][0]))
    try:
        loaded = gb.load(path, device="cpu")
    except gb.ModelFileError as error:
        if str(path) not in str(error) or len(str(error)) > 1500 or "\n" in str(error):
            raise
        return "refused"
    finally:
        model_file.fill = plain
    if manner == 0 or meaning(loaded) != meaning(net):
        raise AssertionError("loaded as something else")
    return "read"


def main() -> int:
    attempts = 600 if asked_quick(__doc__) else 3000
    outcomes, failures = run_all(attempt, range(attempts), MEMORY)
    what = f"{outcomes['refused']:,} refused, {outcomes['read']:,} unharmed and loaded as what they were"
    return report(f"{attempts:,} damaged model files: {what}", failures)


if __name__ == "__main__":
    sys.exit(main())
