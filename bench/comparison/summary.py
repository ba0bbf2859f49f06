"""Tables and ratios of what bench/compare.py has measured, from its results alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.timing import ranged

from comparison.peers import NUMPY_ALONE, ON_CPU, OURS
from gpu_backprop.backend.text_table import columns

WAYS = "end to end", "step only"
MEASURED = {"end to end": "epochs", "step only": "steps"}
"""The name of each in a worker's turn."""

PYTORCH = tuple(name for name in ON_CPU if name.startswith("PyTorch"))
JITTED = "JAX, jitted step"

LARGE = 512
"""From this batch and this width of every hidden layer on, a step should be little more than its products."""

LEVEL, BEHIND = 1.0, 0.95
"""Times as fast as the best peer: what is wanted, and what has to be explained."""

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One of ours beside the peers, in one task trained in one way.

    Attributes:
        ratios: how many times as fast as each peer ours is: the median of the rounds.
        floor: µs of its matrix products alone.
    """

    task: Results
    way: str
    ours: str
    us: float
    ratios: Mapping[str, float]
    floor: float

    def __str__(self) -> str:
        return f"{self.task['name']}, {self.way}"

    @property
    def best(self) -> str:
        """The fastest peer."""
        return min(self.ratios, key=lambda name: self.ratios[name])

    @property
    def ratio(self) -> float:
        """How many times as fast as the fastest peer ours is."""
        return self.ratios[self.best]

    @property
    def best_us(self) -> float:
        return float(self.task[self.way]["us"][self.best]["median"])

    @property
    def over_floor(self) -> float:
        return float(self.task[self.way]["ours / floor"][self.ours]["median"])

    @property
    def large(self) -> bool:
        hidden = map(int, self.task["network"].split("-")[1:-1])
        return self.task["batch"] >= LARGE and min(hidden) >= LARGE


def rows(results: Results, ours: str, way: str) -> list[Row]:
    """The rows of every task in which it and a peer were timed."""
    return [
        Row(
            task, way, ours, one["us"][ours]["median"],
            {peer: ratio["median"] for peer, ratio in one["others / ours"][ours].items()},
            task["floor_us"]["median"] if "floor_us" in task else math.nan,
        )
        for task in results["contests"]
        if (one := task.get(way)) and one["others / ours"].get(ours)
    ]  # fmt: skip


def geometric_mean(values: Sequence[float]) -> float:
    """NaN of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def mean_ratio(rows: Sequence[Row], peers: Sequence[str]) -> float:
    """The geometric mean over rows of how many times as fast ours is as the fastest of some peers."""
    here = [[row.ratios[peer] for peer in peers if peer in row.ratios] for row in rows]
    return geometric_mean([min(ratios) for ratios in here if ratios])


@dataclass(frozen=True)
class Summary:
    """One of ours over all tasks, trained in one way.

    Attributes:
        pytorch, jitted, best: geometric means of how many times as fast it is as PyTorch's better form, as JAX's jitted
            step, and as the fastest peer.
        over_floor: its time over that of its products, for each large task.
        behind: who is less than LEVEL times as fast as the fastest peer, the slowest first.
    """

    ours: str
    way: str
    rows: list[Row]
    pytorch: float
    jitted: float
    best: float
    over_floor: list[Row]
    behind: list[Row]

    @classmethod
    def of(cls, results: Results, ours: str, way: str) -> Summary:
        all_rows = rows(results, ours, way)
        means = mean_ratio(all_rows, PYTORCH), mean_ratio(all_rows, (JITTED,)), mean_ratio(all_rows, ON_CPU)
        behind = sorted((r for r in all_rows if r.ratio < LEVEL), key=lambda row: row.ratio)
        return cls(ours, way, all_rows, *means, [r for r in all_rows if r.large and r.floor > 0], behind)

    def lines(self) -> Iterator[str]:
        """Says all this in words."""
        level = len(self.rows) - len(self.behind)
        yield (
            f"{self.ours}, {self.way}: at least as fast as the fastest peer in {level} of {len(self.rows)} rows. In "
            f"the geometric mean it is {self.best:.2f} times as fast as the fastest peer, {self.pytorch:.2f} times as "
            f"fast as PyTorch in its better form and {self.jitted:.2f} times as fast as JAX's jitted step."
        )
        if self.over_floor:
            most = max(self.over_floor, key=lambda row: row.over_floor)
            mean = geometric_mean([row.over_floor for row in self.over_floor])
            yield (
                f"Where batch and width are {LARGE} or more, it takes {mean:.3f} times its products alone, at most "
                f"{most.over_floor:.3f} ({most.task['name']})."
            )
        for row in self.behind:
            yield (
                f"{'Behind' if row.ratio < BEHIND else 'Just behind'}: {row.task['name']}: {row.ratio:.3f} "
                f"times as fast as {row.best} ({row.us:,.1f} µs, it {row.best_us:,.1f}, our products alone "
                f"{row.floor:,.1f})."
            )


def summaries(results: Results) -> list[Summary]:
    return [Summary.of(results, ours, way) for way in WAYS for ours in (OURS, NUMPY_ALONE)]


def text(results: Results) -> Iterator[str]:
    """Prints everything for a terminal."""
    for way in WAYS:
        timed = {name for task in results["contests"] if way in task for name in task[way]["us"]}
        heads = ("", *(name for name in (OURS, NUMPY_ALONE, *ON_CPU) if name in timed), "products", "times best")
        cells = [
            (task["name"], *(median_of(task[way]["us"].get(name)) for name in heads[1:-2]), *ends(task, way))
            for task in results["contests"]
            if way in task
        ]
        yield f"{way}: µs a step, median of the rounds"
        yield from columns([heads, *cells], 1)
        yield ""
    for summary in summaries(results):
        if summary.rows:
            yield from (*summary.lines(), "")
    yield from before_and_now(results)
    yield disturbances(results)


def before_and_now(results: Results) -> Iterator[str]:
    """Compares this checkout with another one, where both trained: a line a task, and the slowest."""
    for way in WAYS:
        changes = [
            (task["name"], ours, task[way]["now / before"][ours])
            for task in results["contests"] if way in task for ours in task[way].get("now / before", ())
        ]  # fmt: skip
        if changes:
            yield f"{way}: time now / time before"
            yield from columns([(name, ours, ranged(ratio, 3)) for name, ours, ratio in changes], 2)
            name, ours, worst = max(changes, key=lambda change: change[2]["median"])
            mean = geometric_mean([ratio["median"] for _, _, ratio in changes])
            slower = sum(ratio["least"] > 1 for _, _, ratio in changes)
            yield f"geometric mean {mean:.3f}; {slower} of {len(changes)} rows slower in every round"
            yield f"worst: {name}, {ours}: {ranged(worst, 3)}"
            yield ""


def disturbances(results: Results) -> str:
    counts = [task["rounds"] for task in results["contests"]]
    measured, busy, repeated = (sum(c[name] for c in counts) for name in ("measured", "disturbed", "repeated"))
    return (
        f"Of {measured} rounds {busy} were disturbed by something else and are kept so; {repeated} times a disturbed "
        "round was measured again."
    )


def ends(task: Results, way: str) -> tuple[str, str]:
    """Gives its floor, and how many times as fast as the fastest peer we are."""
    mine = rows({"contests": [task]}, OURS, way)
    return median_of(task.get("floor_us")), f"{mine[0].ratio:.2f}" if mine else "-"


def median_of(spread: Mapping[str, float] | None) -> str:
    return f"{spread['median']:,.{1 if spread['median'] < 1000 else 0}f}" if spread else "-"
