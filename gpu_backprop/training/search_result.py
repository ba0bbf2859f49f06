"""What a search found: the candidates, best first, and the training of the best one on all rows."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_backprop.backend.attributes import FixedAttributes
from gpu_backprop.backend.errors import StateError
from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.suggestions import explain_arguments
from gpu_backprop.backend.whole_file import new_file
from gpu_backprop.display.html import cell_output, table, tag
from gpu_backprop.display.parallel import columns_that_differ, parallel_coordinates
from gpu_backprop.network.layer import Layer
from gpu_backprop.network.layers import Dense
from gpu_backprop.network.network import Network
from gpu_backprop.training.figures import WIDE, draw_parallel, new_figure, spans_decades
from gpu_backprop.training.history import FEW, THICK, THIN, History, csv_lines, explained, member_scores
from gpu_backprop.training.history import number as write_number
from gpu_backprop.training.population import Population
from gpu_backprop.training.search_space import Candidate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
"""Candidates that a notebook shows."""

Trial = dict[str, Any]


def brief(value: object) -> Any:
    """Returns a value of a setting as it is shown: of layers, the units of those that are dense, as 64:10."""
    if isinstance(value, Sequence) and value and isinstance(value[0], Layer):
        return ":".join(str(layer.outputs) for layer in value if isinstance(layer, Dense))
    return value


def in_words(value: object) -> str:
    """Writes a value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(brief(value))


def trial_cells(trial: Trial) -> list[str]:
    """Writes the settings of a candidate as they were asked for, its score, how far that scatters, and the epochs."""
    settings = [str(value) for value in trial["settings"].values()]
    return [*settings, write_number(trial["score"]), write_number(trial["std"]), str(trial["epochs"])]


def _alike(value: Any) -> Hashable:
    """Returns what is equal for values that make the same shape."""
    if isinstance(value, (list, tuple)) and all(isinstance(layer, Layer) for layer in value):
        return repr([layer.describe() for layer in value])
    return value if isinstance(value, (int, str)) else id(value)


@dataclass(frozen=True)
class Candidates:
    """What is tried, and how populations are made of it.

    Attributes:
        settings: of each candidate.
        shared: arguments of Population that a space may have too, by name: all members of one share them.
        options: its other arguments.
    """

    settings: Sequence[Candidate]
    shared: Mapping[str, Any]
    options: Mapping[str, Any]

    def shared_by(self, number: int) -> dict[str, Any]:
        """Returns what a candidate has of what is shared."""
        own = self.settings[number]
        return {name: own.get(name, value) for name, value in self.shared.items()}

    def members(self, numbers: Sequence[int]) -> list[Candidate]:
        """Returns what candidates have besides."""
        return [
            {name: value for name, value in self.settings[number].items() if name not in self.shared}
            for number in numbers
        ]

    def groups(self) -> list[list[int]]:
        """Divides the candidates into those that agree in what is shared."""
        found: dict[Hashable, list[int]] = {}
        for place in range(len(self.settings)):
            shared = self.shared_by(place).values()
            found.setdefault(tuple(map(_alike, shared)), []).append(place)
        return list(found.values())

    def population(self, numbers: Sequence[int], seeds: Sequence[int]) -> Population:
        """Makes a population of some candidates of a group, with a member for each seed."""
        settings = [own | {"seed": seed} for own in self.members(numbers) for seed in seeds]
        return Population(settings=settings, **self.shared_by(numbers[0]), **self.options)


@dataclass
class Part:
    """Candidates that train side by side, in one population.

    Attributes:
        numbers: of the candidates.
        members: how many each candidate has.
        history: of the population.
        stopped: after which epoch successive halving stopped each, int (candidates,); 0: it did not.
    """

    numbers: Sequence[int]
    members: int
    history: History
    stopped: Array

    def values(self, column: str) -> Array:
        """Returns a column after each epoch, float64 (epochs, candidates, members of a candidate)."""
        values = np.array(self.history[column], np.float64)
        return values.reshape(len(values), len(self.numbers), self.members)

    def epochs(self) -> Array:
        """Returns the epoch whose parameters each member has, int (candidates, members of a candidate)."""
        last = np.where(self.stopped, self.stopped, len(self.history))[:, None]
        shape, best = (len(self.numbers), self.members), self.history.best_epoch
        return np.broadcast_to(last if best is None else np.clip(np.reshape(best, shape), 1, last), shape)

    def scores(self, column: str) -> Array:
        """Returns a column as `member_scores` does, (candidates, members of a candidate)."""
        if not len(self.history):  # all have diverged in the first epoch
            return np.full((len(self.numbers), self.members), np.nan)
        return member_scores(self.history, column).reshape(len(self.numbers), self.members)


class SearchResult(FixedAttributes):
    """What `gb.search` found; while it runs, what it has found so far.

    Attributes:
        candidates: the settings of each, in the order in which they were made.
        metric: the column of the history that the score is.
        larger_is_better: whether the largest score is the best.
        running: how many members train at the moment; 0 at the end.
        parts: the candidates that have trained side by side, with the history of each such population.
    """

    settable = ("running",)

    def __init__(self, candidates: Candidates, metric: str, larger_is_better: bool, seed: int) -> None:
        self.candidates, self._made_of, self._seed = candidates.settings, candidates, seed
        self.metric, self.larger_is_better = metric, larger_is_better
        self.running = 0
        self.parts: list[Part] = []

    @property
    def trials(self) -> list[Trial]:
        """A dict for each candidate that was begun, best first: those that were stopped come behind those that trained
        longer, and a candidate of which a member diverged is the last.

        - number: as which of all it was begun, from 0.
        - settings: the dict of its settings.
        - score: the mean of `scores`.
        - std: their standard deviation.
        - scores: of each of its members, all seeds of the first fold, then those of the next. Each is the metric of the
          rows that were held out, after the last epoch, or the best one where early stopping chose it.
        - epochs: how many epochs that is, the mean over the members, rounded.
        - stopped: after which epoch successive halving stopped it; None: it did not.
        - diverged: whether the loss of a member became NaN or infinite.
        - curve: the mean of the metric after each epoch.
        """
        sign = -1.0 if self.larger_is_better else 1.0
        begun = [part for part in self.parts if len(part.history) or part.history.diverged]
        return sorted(
            (trial for part in begun for trial in self._trials(part)),
            key=lambda t: (t["diverged"], -(t["stopped"] or np.inf), sign * np.nan_to_num(t["score"]), t["number"]),
        )

    def _trials(self, part: Part) -> list[Trial]:
        scores, epochs, curves = part.scores(self.metric), part.epochs(), part.values(self.metric).mean(axis=-1)
        with np.errstate(invalid="ignore"):  # where a score is infinite
            spreads = scores.std(axis=-1)
        return [
            {
                "number": number,
                "settings": dict(self.candidates[number]),
                "score": float(scores[k].mean()),
                "std": float(spreads[k]),
                "scores": scores[k].tolist(),
                "epochs": round(float(epochs[k].mean())),
                "stopped": int(part.stopped[k]) or None,
                "diverged": not np.isfinite(scores[k]).all(),
                "curve": curves[: part.stopped[k] or None, k].tolist(),
            }
            for k, number in enumerate(part.numbers)
        ]

    @property
    def _best(self) -> Trial:
        for trial in self.trials:
            return trial
        raise StateError("the search has no results yet: no candidate has trained for an epoch.")

    @property
    def best(self) -> Candidate:
        """The settings of the best candidate.

        Raises:
            StateError: no candidate has trained for an epoch yet.
        """
        settings: Candidate = self._best["settings"]
        return settings

    @property
    def best_score(self) -> float:
        """Its score."""
        score: float = self._best["score"]
        return score

    @explain_arguments
    def fit_best(
        self, x: Any, y: Any = None, *, epochs: int | None = None, progress: bool = True, **options: Any
    ) -> Network:
        """Trains a network with the best settings on all rows.

        Args:
            x, y: all rows.
            epochs: None: as many as the score is of, see `trials`.
            progress: whether to show how it goes.
            options: what else `Population.fit` takes, such as weights.

        Returns:
            The network, of the first seed of the search.
        """
        trial = self._best
        population = self._made_of.population([trial["number"]], [self._seed])
        population.fit(x, y, trial["epochs"] if epochs is None else epochs, progress=progress, **options)
        return population.member(0)

    # Showing it -------------------------------------------------------------------------------------------------------

    @explain_arguments
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws the settings that differ and the score as parallel coordinates, a line a candidate, coloured by the
        rank of its score, and the mean of the metric over the epochs; the best candidate has thick lines.

        Args:
            path: as of `History.plot`.

        Raises:
            InputError: the image can't be written.
            StateError: no candidate has trained for an epoch yet.
            MissingExtraError: matplotlib is not installed.
        """
        best, trials = self._best, self.trials
        with new_figure(2, path, WIDE) as (figure, (left, right)):
            draw_parallel(left, *self._axes(trials))
            for trial in trials[::-1]:
                curve, width = trial["curve"], THICK if trial["number"] == best["number"] else THIN
                marker = "." if len(curve) <= FEW else None  # one epoch makes no line
                right.plot(range(1, len(curve) + 1), curve, color="C1", linewidth=width, marker=marker)
            if spans_decades([trial["curve"] for trial in trials]):
                right.set_yscale("log")
            right.set(xlabel="epoch", ylabel=self.metric.replace("_", " "))
        return figure

    def _axes(self, trials: Sequence[Trial]) -> tuple[dict[str, list[object]], Array, str, bool]:
        """Returns what parallel coordinates are drawn of."""
        settings = columns_that_differ([{k: brief(v) for k, v in trial["settings"].items()} for trial in trials])
        return settings, np.array([trial["score"] for trial in trials]), self.metric, self.larger_is_better

    def __repr__(self) -> str:
        trials = self.trials
        if not trials:
            return f"<SearchResult of {len(self.candidates):,} candidates: none has trained yet>"
        settings = ", ".join(f"{name}={in_words(value)}" for name, value in self.best.items())
        return (
            f"<SearchResult of {len(trials):,} candidates; best: {settings}, with {self.metric} "
            f"{write_number(trials[0]['score'])} ± {write_number(trials[0]['std'])}>"
        )

    def _repr_html_(self) -> str:
        trials = self.trials
        names = [*trials[0]["settings"]] if trials else []
        lines = [
            [
                *(in_words(trial["settings"][name]) for name in names),
                *(write_number(trial[of]) for of in ("score", "std", "epochs")),
            ]
            for trial in trials[:SHOWN]
        ]
        count = tag("p", f"The best of {len(self.candidates):,} candidates; {len(trials):,} have trained.")
        drawn = [parallel_coordinates(*self._axes(trials))] if len(trials) > 1 else []
        return cell_output(count, table(lines, [*names, self.metric, "±", "epochs"], left=len(names)), *drawn)

    @explain_arguments
    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `trials` to the file `path`, a line each, best first, under a line of column names; a file already
        there is replaced.

        Raises:
            InputError: the file can't be written.
        """
        lines = [
            {name: trial[name] for name in ("number", "score", "std", "epochs", "stopped", "diverged")}
            | trial["settings"]
            | {f"score_{k}": score for k, score in enumerate(trial["scores"])}
            for trial in self.trials
        ]
        with explained(path), new_file(path) as file:
            file.write(csv_lines(lines, [*lines[0]] if lines else [], header=True))
