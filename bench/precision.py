"""What each precision costs in accuracy: the bundled digits in every dtype, into bench/results/precision.json.

    python bench/precision.py            three seeds in seven precisions; some minutes where the device is emulated
    python bench/precision.py --quick    one epoch of one seed, which only shows that it runs; writes no results

The same network is trained with the same settings and seeds on the CPU (float64, float32) and on the CUDA device
(float64, float32, float32 with products in TF32, float16, bfloat16), and measured once on the fifth of the rows that
was held out. Accuracy is arithmetic and not speed, so an emulated device may be measured; the record says so. It rounds
the operands of TF32 products as TF32 has them, and adds up in an order of its own, as every device does.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu.machine import machine
from lib import markdown, record
from lib.device_trace import DeviceTrace

import gpu_backprop as gb
from gpu_backprop.data.digits import load_digits
from gpu_backprop.data.split import stratified_split

RESULTS = Path(__file__).parent / "results" / "precision.json"
SEEDS, EPOCHS, BATCH_SIZE, UNITS, LEARNING_RATE, HELD_OUT = range(3), 12, 32, 64, 0.003, 0.2


@dataclass(frozen=True)
class Precision:
    """Where, in which dtype, and whether products may take TF32."""

    device: str
    dtype: str
    tf32: bool = False

    def __str__(self) -> str:
        return f"{self.dtype}{' with TF32' if self.tf32 else ''}"


PRECISIONS = (
    Precision("cpu", "float64"),
    Precision("cpu", "float32"),
    Precision("cuda", "float64"),
    Precision("cuda", "float32"),
    Precision("cuda", "float32", tf32=True),
    Precision("cuda", "float16"),
    Precision("cuda", "bfloat16"),
)


def trained(precision: Precision, seed: int, epochs: int) -> dict[str, Any]:
    """One run: accuracy and loss on the rows held out; of float16 also what became of the scale of its loss."""
    x, labels = load_digits()
    x = x / 16
    rows, held_out = stratified_split(labels, HELD_OUT, seed)
    layers = [gb.Dense(UNITS, "relu"), gb.Dense(10, "softmax")]
    net = gb.Network(64, layers, dtype=precision.dtype, device=precision.device, tf32=precision.tf32, seed=seed)
    trainer = gb.Trainer(net, None, gb.Adam(LEARNING_RATE), batch_size=BATCH_SIZE)
    history = trainer.fit(x[rows], labels[rows], epochs, progress=False)
    found = trainer.evaluate(x[held_out], labels[held_out])
    run = {"accuracy": round(found["accuracy"], 4), "loss": round(found["loss"], 4)}
    if precision.dtype == "float16":
        run |= {"skipped": sum(history["skipped"]), "loss_scale": history[-1]["loss_scale"]}
    return run


def table(rows: list[dict[str, Any]]) -> str:
    def each(row: dict[str, Any], name: str, format: str) -> str:
        return ", ".join(f"{run[name]:{format}}" if name in run else "–" for run in row["runs"])

    heads = (
        "device", "precision", "held-out accuracy", "of each seed", "held-out loss", "steps skipped", "loss scale"
    )  # fmt: skip
    return markdown.table(heads, [
        (
            row["device"], row["precision"], f"{row['accuracy']:.4f}", each(row, "accuracy", ".4f"),
            f"{row['loss']:.4f}", each(row, "skipped", ","), each(row, "loss_scale", ","),
        )
        for row in rows
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one epoch of one seed, and write nothing")
    options = parser.parse_args(arguments)
    seeds, epochs = (SEEDS[:1], 1) if options.quick else (SEEDS, EPOCHS)
    started, rows = time.perf_counter(), []
    for precision in PRECISIONS:
        try:
            runs = [trained(precision, seed, epochs) for seed in seeds]
        except gb.DeviceError as error:  # no CUDA device, or one that is too old for TF32
            print(f"precision.py: {precision} on {precision.device}: {error}", file=sys.stderr)
            return 1
        means = {name: round(float(np.mean([run[name] for run in runs])), 4) for name in ("accuracy", "loss")}
        rows.append({"device": precision.device, "precision": str(precision), **means, "runs": runs})
        print(f"{precision} on {precision.device}: {means['accuracy']:.4f}", file=sys.stderr, flush=True)
    print(table(rows))
    if not options.quick:
        import cupy

        device = "emulated" if DeviceTrace.is_there() else machine()["device"]
        settings = {
            "network": f"64-{UNITS}-10, relu, softmax",
            "optimizer": repr(gb.Adam(LEARNING_RATE)),
            "epochs": epochs,
            "batch_size": BATCH_SIZE,
            "seeds": list(seeds),
            "held_out": HELD_OUT,
        }
        measured = {"cupy": cupy.__version__, "device": device, "settings": settings, "precisions": rows}
        record.write(RESULTS, "python bench/precision.py", time.perf_counter() - started, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
