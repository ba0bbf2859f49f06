"""Tables and ratios of what bench/compare.py has measured, from its results alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.timing import ranged

from comparison.peers import ON_CPU, OUR_OWN, OURS
from comparison.tasks import MEASURED, SIZES
from gpu_backprop.backend.text_table import columns

WAYS = "end to end", "step only"
"""Those in which the first tasks are timed."""

PYTORCH = tuple(name for name in ON_CPU if name.startswith("PyTorch"))
JITTED = "JAX, jitted step"

KINDS = {
    **dict.fromkeys(SIZES, ""),
    "online": "1 or 8 rows a step",
    "dropout": "dropout 0.2 and 0.5",
    "float64": "in float64",
    "weights": "rows with weights",
    "by hand": "steps by hand",
    "fit": "fits, validation after each epoch",
    "predict": "predictions",
}
"""The kinds of tasks, in the order in which they are told of, and in words; the first are told by their networks."""

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One of ours beside the peers, in one task trained in one way.

    Attributes:
        ratios: how many times as fast as each peer ours is: the median of the rounds.
        floor: µs of its matrix products alone; NaN where they are not timed.
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
    def behind(self) -> bool:
        """Whether the fastest peer was faster in every round."""
        return bool(self.task[self.way]["others / ours"][self.ours][self.best]["most"] < 1)

    @property
    def share(self) -> float:
        """Of the peak of the cores that they run on, what the products alone reach; NaN where that is not known."""
        return float(self.task.get("share of the peak", math.nan))

    @property
    def best_us(self) -> float:
        return float(self.task[self.way]["us"][self.best]["median"])

    @property
    def over_floor(self) -> float:
        return float(self.task[self.way]["ours / floor"][self.ours]["median"])


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


def parts(results: Results, ours: str) -> dict[str, list[Row]]:
    """The rows that are summed up together, and in which words: the first tasks in each of WAYS, and the further ones
    each in the first of its ways."""
    first, further = ([t for t in results["contests"] if (t["kind"] in SIZES) is it_is] for it_is in (True, False))
    found = {f"the first {len(first)} tasks, {way}": rows({"contests": first}, ours, way) for way in WAYS}
    found[f"the {len(further)} further tasks"] = [row for task in further for row in first_way(task, ours)]
    return {words: those for words, those in found.items() if those}


def first_way(task: Results, ours: str) -> list[Row]:
    """The row of a task in the first of its ways, if anybody was timed."""
    return rows({"contests": [task]}, ours, task["ways"][0])


def by_kind(results: Results, ours: str) -> dict[str, list[Row]]:
    """The rows of all tasks, each in the first of its ways, by kind."""
    found = {
        kind: [row for task in results["contests"] if task["kind"] == kind for row in first_way(task, ours)]
        for kind in KINDS
    }
    return {kind: those for kind, those in found.items() if those}


@dataclass(frozen=True)
class Standing:
    """How some rows of one of ours stand.

    Attributes:
        below: those that are not as fast as the fastest peer, the slowest first.
        best, pytorch, jitted: geometric means of how many times as fast it is as the fastest peer, as PyTorch's better
            form, and as JAX's jitted step.
    """

    rows: Sequence[Row]
    below: Sequence[Row]
    best: float
    pytorch: float
    jitted: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Standing:
        below = sorted((row for row in rows if row.ratio < 1), key=lambda row: row.ratio)
        return cls(rows, below, *(mean_ratio(rows, peers) for peers in (ON_CPU, PYTORCH, (JITTED,))))

    @property
    def level(self) -> str:
        return f"{len(self.rows) - len(self.below)} of {len(self.rows)}"

    @property
    def behind(self) -> int:
        """How many are below 1 in every round."""
        return sum(row.behind for row in self.below)


def summed_up(words: str, rows: Sequence[Row]) -> Iterator[str]:
    """Says in words how some rows of one of ours stand: on the whole, and which are below 1."""
    one = Standing.of(rows)
    best, pytorch, jitted = map(times_as_fast, (one.best, one.pytorch, one.jitted))
    yield (
        f"{rows[0].ours}, {words}: at least as fast as the fastest peer in {one.level} rows, behind it in every round "
        f"of {one.behind}. In the geometric mean it is {best} times as fast as it, {pytorch} times as fast as "
        f"PyTorch in its better form and {jitted} times as fast as JAX's jitted step."
    )
    large = [row for row in rows if row.task["kind"] == "large" and row.floor > 0]
    if large:
        most = max(large, key=lambda row: row.over_floor)
        mean = geometric_mean([row.over_floor for row in large])
        yield (
            f"Where networks are large, it takes {mean:.3f} times its products alone, at most {most.over_floor:.3f} "
            f"({most.task['name']})."
        )
    for row in one.below:
        spread = row.task[row.way]["others / ours"][row.ours][row.best]
        products = "" if math.isnan(row.floor) else f", our products alone {row.floor:,.1f}"
        yield (
            f"{'Behind' if row.behind else 'Level within its rounds'}: {row.task['name']}: {ranged(spread)} times as "
            f"fast as {row.best} ({row.us:,.1f} µs, it {row.best_us:,.1f}{products})."
        )


def summaries(results: Results) -> Iterator[list[str]]:
    """The lines of each of `parts`, of each of ours."""
    for ours in OUR_OWN:
        for words, those in parts(results, ours).items():
            yield list(summed_up(words, those))


def text(results: Results) -> Iterator[str]:
    """Prints everything for a terminal."""
    for way in MEASURED:
        timed = {name for task in results["contests"] if way in task for name in task[way]["us"]}
        if not timed:
            continue
        heads = ("", *(name for name in (*OUR_OWN, *ON_CPU) if name in timed), "products", "times best")
        cells = [
            (task["name"], *(median_of(task[way]["us"].get(name)) for name in heads[1:-2]), *ends(task, way))
            for task in results["contests"]
            if way in task
        ]
        yield f"{way}: µs a {unit(way)}, median of the rounds"
        yield from columns([heads, *cells], 1)
        yield ""
    for lines in summaries(results):
        yield from (*lines, "")
    yield from before_and_now(results)
    yield disturbances(results)


def unit(way: str) -> str:
    return "prediction" if way == "predict" else "step"


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


def times_as_fast(mean: float) -> str:
    return "-" if math.isnan(mean) else f"{mean:.2f}"


def median_of(spread: Mapping[str, float] | None) -> str:
    return f"{spread['median']:,.{1 if spread['median'] < 1000 else 0}f}" if spread else "-"
