"""gpu-backprop search: train networks with many settings side by side, and then one with the best of them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial

from gpu_backprop.backend.errors import DivergedError, InputError
from gpu_backprop.commands.building import build, choose_encoding, read_design
from gpu_backprop.commands.candidates import RecipeCandidates, build_candidates, draw
from gpu_backprop.commands.datasets import load_train_test
from gpu_backprop.commands.errors import Misuse, RunError
from gpu_backprop.commands.interrupt import StopOnSignal
from gpu_backprop.commands.runs import SEARCH, SEARCH_PLOT, TRIALS, RunFolder, claim, find_folder, run_name
from gpu_backprop.commands.search_display import SearchDisplay, tell_trials
from gpu_backprop.commands.train import before_training, reason, run_to_end, train_in, written_or_said
from gpu_backprop.data.messages import counted
from gpu_backprop.html_report.search_page import write_search_report
from gpu_backprop.recipes import PLATEAU
from gpu_backprop.training.search import Halving, search_candidates
from gpu_backprop.training.search_result import SearchResult
from gpu_backprop.training.search_space import FACTOR, HALVING

FLATTERED = (
    "The best of many scores is flattered by the rows that chose it; what the network scores on rows that were held "
    "out is not."
)


def search(options: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    words = options.train_words(options.given[1:])
    base = _parse(options, words)
    _refuse(options, base, words)
    drawn, design, ranks = draw(options), read_design(base), options.ranks
    with before_training(), ranks.alike():
        data = load_train_test(base, design.any_number, choose_encoding(base))
    if data.windows:
        raise InputError(
            f"{base.data} takes more memory than it may, and a search needs all rows there; give a larger "
            "--memory-limit, or fewer rows"
        )
    asked = [[*words, *(word for one in options.grid for word in one.words(values[one.name]))] for values in drawn]
    parsed = [_parse(options, one) for one in asked]
    candidates = build_candidates(drawn, parsed, design, data, options)
    with before_training():
        folder = find_folder(ranks, lambda: claim(options.out, options.overwrite, run_name(options.data)))
    with folder.lock:
        found, code = _search_in(folder, candidates, options)
        best = found.trials[0]["number"]
        if code:
            elsewhere = ", with another --out" if options.out else ""
            print(f"to train with the best settings{elsewhere}: {shlex.join(['gpu-backprop', 'train', *asked[best]])}")
            return code
        recipe, trainer = build(parsed[best], design, data.preprocessing, data.training.x)
        return train_in(folder, parsed[best], recipe, trainer, data)


def _parse(options: argparse.Namespace, words: Sequence[str]) -> argparse.Namespace:
    """Read words as train does, of the same ranks."""
    parsed: argparse.Namespace = options.parse(["train", *words])
    parsed.ranks = options.ranks
    return parsed


def _refuse(options: argparse.Namespace, base: argparse.Namespace, words: Sequence[str]) -> None:
    """Refuse what cannot be searched."""
    names = [one.name for one in options.grid]
    if not names:
        raise Misuse("--grid is missing, a setting with its candidates, as in --grid learning_rate=0.01,0.03,0.1")
    if twice := [name for name in names if names.count(name) > 1]:
        raise Misuse(f"--grid {twice[0]} is given more than once; write all candidates with commas between them")
    given = {word.partition("=")[0] for word in words}
    if fixed := [option for name in names if (option := f"--{name.replace('_', '-')}") in given]:
        raise Misuse(f"{fixed[0]} is given, and --grid searches it; leave one of them out")
    if PLATEAU in (base.schedule, dict(base.set).get("schedule")):
        raise Misuse(f"--schedule {PLATEAU} follows what is measured while one network trains; choose another")


class _Stop:
    """What a signal asks to end: a callback of the search."""

    stopped = False

    def stop(self) -> None:
        """End it after this epoch."""
        self.stopped = True

    def __call__(self, result: SearchResult) -> bool:
        return self.stopped


def _search_in(
    folder: RunFolder, candidates: RecipeCandidates, options: argparse.Namespace
) -> tuple[SearchResult, int]:
    """Search, and write what was found, the first of several ranks; return it, and the exit code that a signal asks
    for, or 0."""
    data, recipe, base, ranks = candidates.data, candidates.recipes[0], candidates.asked[0], options.ranks
    members = len(candidates.settings) * options.folds * options.seeds
    if not options.quiet:
        groups = counted(len(candidates.groups()), "group")
        print(
            f"{len(candidates.settings):,} candidates, {members:,} networks, side by side in {groups}; each learns "
            f"from all but one of {options.folds} folds of {len(data.training):,} {data.things}, for at most "
            f"{counted(recipe.epochs, 'epoch')}\n"
        )
    early = None if base.no_early_stopping else recipe.fit_options(len(data.training), options.folds)["early_stopping"]
    prune = Halving(FACTOR, recipe.epochs, len(candidates.settings)) if options.strategy == HALVING else None
    display, stop = SearchDisplay(recipe.epochs, members, options.quiet), _Stop()
    with StopOnSignal(stop, ranks) as signals:
        with display:
            failure = run_to_end(signals, lambda: search_candidates(
                candidates, data.training.x, candidates.y, metric=candidates.score, folds=options.folds,
                seeds=options.seeds, validation=None, seed=base.seed, callbacks=[display, stop], prune=prune,
                epochs=recipe.epochs, early_stopping=early, progress=False,
            ))  # fmt: skip
        found, alone = display.result, failure is not None and ranks.leaves_alone()
        if not alone:
            signals.agree()
        if found is None or isinstance(failure, DivergedError):
            folder.discard()
            raise failure or RunError("the search ended before its first epoch")
        folder.begun = True  # so that it is kept, should the training of the best one fail
        command = shlex.join(["gpu-backprop", *options.given])
        title = f"{run_name(options.data)}: search"
        page = partial(write_search_report, result=found, title=title, command=command, remarks=[FLATTERED])
        written: list[str] = []
        with nullcontext() if alone else ranks.alike():  # they wait until it is written
            if ranks.rank == 0:
                written += written_or_said(TRIALS, lambda: found.to_csv(folder.place / TRIALS))
                written += written_or_said(SEARCH, lambda: page(folder.place / SEARCH))
                written += written_or_said(SEARCH_PLOT, lambda: found.plot(folder.place / SEARCH_PLOT))
        if failure is not None and not signals.code:
            kept = f"what was found until then is in {folder.place}"
            raise RunError(f"the search ended early: {reason(failure)}; {kept}") from failure
        with suppress(OSError) if signals.code else nullcontext():
            print("\n".join([*tell_trials(found), f"written to {folder.place}: {', '.join(written)}\n"]))
    return found, signals.code
