"""docs/distributed.md says what the results say, and names nothing that is not there. Its commands are run by
tests/distributed/test_page.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gpu_backprop as gb
from gpu_backprop.arguments import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
SAID = " ".join(PAGE.split())
RECORD = json.loads((ROOT / "bench" / "results" / "scaling.json").read_text(encoding="utf-8"))
SMALL, MIDDLE, WIDE = RECORD["model"]["networks"]


def test_every_name_is_there() -> None:
    for name in ("find_learning_rate", "fit", "step", "evaluate", "resume"):
        assert f"`{name}`" in PAGE and hasattr(gb.Trainer, name)
    for timeout in re.findall(r"`(--timeout \d+)`", PAGE):
        assert parse(["train", "--distributed", *timeout.split()]).timeout == 600


def test_what_it_says_of_the_model_is_what_the_model_says() -> None:
    def faster(network, gpus, way="after"):
        (row,) = (row for row in network["strong"] if row["gpus"] == gpus)
        return row["times as fast"][way]

    assert "eight GPUs are slower than one" in SAID and faster(SMALL, 8, "during") < 1
    assert f"{MIDDLE['bytes'] / 1e6:.0f} MB of gradients" in SAID
    assert 1.5 < faster(MIDDLE, 8) < 2.5 > 1.25 > faster(MIDDLE, 64)
    assert faster(WIDE, 8) > 5 and faster(WIDE, 1024) < 1.1 * faster(WIDE, 64) < 2 * faster(WIDE, 8)
    links = RECORD["model"]["links"]
    assert links["InfiniBand"]["gigabytes_per_second"] * 8 == 400 and "adapter of 400 Gbit/s" in SAID
    assert links["NVLink"]["gigabytes_per_second"] * 2 == 900 and "900 GB/s" in SAID


def test_what_it_says_of_two_ranks_is_what_was_measured() -> None:
    gains = [task["one / two"][f"strong, B {task['batch']}"]["median"] for task in RECORD["tasks"]]
    assert gains == sorted(gains) and gains[0] < 1 < gains[-1] < 2 and len(gains) == 3
    for task, gain in zip(RECORD["tasks"], gains, strict=True):
        assert task["one / two"][f"strong, B {2 * task['batch']}"]["median"] > gain


def test_it_says_what_was_not_run() -> None:
    assert "**No GPU has run it yet**" in PAGE and "**A model, and no measurement.**" in PAGE
    assert "Neither was run" in PAGE and "two cores are all that there is" in SAID
