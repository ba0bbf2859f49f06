"""How contenders stand to each other, from what bench/compare.py has measured and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comparison.peers import NUMPY_ALONE, ON_CPU, OURS

from gpu_backprop.backend.text_table import columns

WAYS = "end to end", "step only"
MEASURED = {"end to end": "epochs", "step only": "steps"}
"""What a contender times for each of them."""

PYTORCH = tuple(name for name in ON_CPU if name.startswith("PyTorch"))
JITTED = "JAX, jitted step"

LARGE = 512
"""From this batch and this width of every hidden layer on, a step should be little more than its products."""

LEVEL, BEHIND = 1.0, 0.95
"""Times as fast as the best peer: what is wanted, and what has to be explained."""

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A contest, trained in one way, as one of ours stands in it.

    Attributes:
        ratios: how many times as fast as each peer ours is: the median of the rounds.
        floor: µs of its matrix products alone.
    """

    contest: Found
    way: str
    ours: str
    us: float
    ratios: Mapping[str, float]
    floor: float

    def __str__(self) -> str:
        return f"{self.contest['name']}, {self.way}"

    @property
    def best(self) -> str:
        """The fastest peer."""
        return min(self.ratios, key=lambda name: self.ratios[name])

    @property
    def standing(self) -> float:
        """How many times as fast as the fastest peer ours is."""
        return self.ratios[self.best]

    @property
    def best_us(self) -> float:
        return float(self.contest[self.way]["us"][self.best]["median"])

    @property
    def over_floor(self) -> float:
        return float(self.contest[self.way]["ours / floor"][self.ours]["median"])

    @property
    def large(self) -> bool:
        hidden = map(int, self.contest["network"].split("-")[1:-1])
        return self.contest["batch"] >= LARGE and min(hidden) >= LARGE


def rows(found: Found, ours: str, way: str) -> list[Row]:
    """Of every contest in which it was timed, and a peer was."""
    return [
        Row(
            contest, way, ours, one["us"][ours]["median"],
            {peer: ratio["median"] for peer, ratio in one["others / ours"][ours].items()},
            contest["floor_us"]["median"] if "floor_us" in contest else math.nan,
        )
        for contest in found["contests"]
        if (one := contest.get(way)) and one["others / ours"].get(ours)
    ]  # fmt: skip


def geometric_mean(values: Sequence[float]) -> float:
    """NaN of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def against(rows: Sequence[Row], peers: Sequence[str]) -> float:
    """The geometric mean over rows of how many times as fast ours is as the fastest of some peers."""
    here = [[row.ratios[peer] for peer in peers if peer in row.ratios] for row in rows]
    return geometric_mean([min(ratios) for ratios in here if ratios])


@dataclass(frozen=True)
class Summary:
    """One of ours over all contests, trained in one way.

    Attributes:
        pytorch, jitted, best: geometric means of how many times as fast it is as PyTorch's better form, as JAX's jitted
            step, and as the fastest peer.
        over_floor: its time over that of its products, for each large contest.
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
    def of(cls, found: Found, ours: str, way: str) -> Summary:
        all_rows = rows(found, ours, way)
        means = against(all_rows, PYTORCH), against(all_rows, (JITTED,)), against(all_rows, ON_CPU)
        behind = sorted((r for r in all_rows if r.standing < LEVEL), key=lambda row: row.standing)
        return cls(ours, way, all_rows, *means, [r for r in all_rows if r.large and r.floor > 0], behind)

    def lines(self) -> Iterator[str]:
        """What it comes to, in words."""
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
                f"{most.over_floor:.3f} ({most.contest['name']})."
            )
        for row in self.behind:
            yield (
                f"{'Behind' if row.standing < BEHIND else 'Just behind'}: {row.contest['name']}: {row.standing:.3f} "
                f"times as fast as {row.best} ({row.us:,.1f} µs, it {row.best_us:,.1f}, our products alone "
                f"{row.floor:,.1f})."
            )


def summaries(found: Found) -> list[Summary]:
    return [Summary.of(found, ours, way) for way in WAYS for ours in (OURS, NUMPY_ALONE)]


def text(found: Found) -> Iterator[str]:
    """Everything as a terminal shows it."""
    for way in WAYS:
        heads = ("", OURS, NUMPY_ALONE, *ON_CPU, "products", "times best")
        cells = [
            (contest["name"], *(told(contest[way]["us"].get(name)) for name in heads[1:-2]), *ends(contest, way))
            for contest in found["contests"]
            if way in contest
        ]
        yield f"{way}: µs a step, median of the rounds"
        yield from columns([heads, *cells], 1)
        yield ""
    for summary in summaries(found):
        if summary.rows:
            yield from (*summary.lines(), "")
    yield disturbances(found)


def disturbances(found: Found) -> str:
    counts = [contest["rounds"] for contest in found["contests"]]
    measured, busy, repeated = (sum(c[name] for c in counts) for name in ("measured", "disturbed", "repeated"))
    return (
        f"Of {measured} rounds {busy} were disturbed by something else and are kept so; {repeated} times a disturbed "
        "round was measured again."
    )


def ends(contest: Found, way: str) -> tuple[str, str]:
    """Its floor, and how many times as fast as the fastest peer we are."""
    mine = rows({"contests": [contest]}, OURS, way)
    return told(contest.get("floor_us")), f"{mine[0].standing:.2f}" if mine else "-"


def told(spread: Mapping[str, float] | None) -> str:
    return f"{spread['median']:,.{1 if spread['median'] < 1000 else 0}f}" if spread else "-"
