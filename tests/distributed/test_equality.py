"""Several ranks come to what one comes to, each of them to the same bits as the others, and every time to the same."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from rank_cases import CASES, PROOF, rows_of_steps
from ranks import TIMEOUT, needs_mpi, results

import gpu_backprop as gb

pytestmark = needs_mpi

JOBS = {
    **{f"{ranks} ranks": (ranks, {}) for ranks in (2, 3, 4)},
    "2 ranks, NumPy alone": (2, {"GPU_BACKPROP_COMPILER": "none"}),
    "2 ranks by sockets": (2, {"sockets": True}),
}
"""How many ranks a job has, and how it is started."""

SMALL = {
    "2 ranks, NumPy alone": ("dropout", "a rank", "members, ", "diverges: raise", "one row", "few rows", "float32"),
    "3 ranks": (
        "optimizer", "weight", "members", "drawn", "diverges", "early", "scores", "clip", " a", "hand", "windows",
    ),
    "4 ranks": (
        " rows by ", "few rows", "members, weights of each", "by hand", "evaluation", "windows", " range", " trace",
    ),
}  # fmt: skip
"""The jobs that run where not all is to be proved, and parts of the names of their cases."""

AGAIN = "dropout", "members, folds", "scores of classes", "windows", "steps by hand"
"""Cases that ranks go through twice."""

WAYS = "plain", "in order", "members", "members in order", "members, rows of each", "windows", "windows of members"


def cases_of(job):
    return [name for name in CASES if PROOF or any(part in name for part in SMALL[job])]


PAIRS = [(job, name) for job in (JOBS if PROOF else SMALL) for name in cases_of(job)]


def work(names, again):
    """What each of some cases comes to on this rank, some of them once more; and the rows that it has of steps."""
    warnings.simplefilter("ignore")
    communicator = gb.distributed()
    found = {}
    for number, name in enumerate([*names, *(name for name in again if name in names)]):
        more = "again: " if number >= len(names) else ""
        found |= {f"{more}{name} | {part}": value for part, value in CASES[name](communicator).items()}
    for which in WAYS:
        found |= {f"rows: {which} | {step}": rows for step, rows in rows_of_steps(which, communicator).items()}
    return found


@cache
def alone(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {part: np.asarray(value) for part, value in CASES[name](None).items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the ranks of a job find, each of them by case. It runs once, also where it fails."""

    @cache
    def run(job):
        ranks, how = JOBS[job]
        folder, timeout = tmp_path_factory.mktemp("ranks") / "all", 1800 if PROOF else TIMEOUT
        try:
            return results(ranks, "test_equality:work", folder, cases_of(job), AGAIN, timeout=timeout, **how)
        except pytest.fail.Exception as failure:
            return failure

    def by_rank(job):
        if isinstance(every := run(job), BaseException):
            raise every
        return [by_case(one) for one in every]

    return by_rank


def by_case(arrays):
    cases = {}
    for name, value in arrays.items():
        case, _, part = name.partition(" | ")
        cases.setdefault(case, {})[part] = value
    return cases


def check_same_bits(name, some, others):
    assert some.keys() == others.keys()
    for part, value in some.items():
        np.testing.assert_array_equal(value, others[part], f"{part} of {name}")


def check_equal(name, mine, one):
    assert mine.keys() == one.keys()
    rtol, atol = (1e-3, 1e-4) if "float32" in name else (1e-9, 1e-11)
    for part, value in one.items():
        assert mine[part].shape == value.shape, part
        if value.dtype.kind == "f":
            np.testing.assert_allclose(mine[part], value, rtol, atol, err_msg=f"{part} of {name}")
        else:
            np.testing.assert_array_equal(mine[part], value, f"{part} of {name}")


@pytest.mark.parametrize(("job", "name"), PAIRS)
def test_several_ranks_come_to_what_one_comes_to(found, job, name):
    check_equal(name, found(job)[0][name], alone(name))


@pytest.mark.parametrize("job", dict(PAIRS))
def test_all_ranks_have_the_same_bits(found, job):
    first, *others = found(job)
    for other in others:
        for name, mine in first.items():
            if not name.startswith("rows: "):
                check_same_bits(name, mine, other[name])


@pytest.mark.parametrize("job", dict(PAIRS))
def test_as_many_ranks_come_to_the_same_bits_again(found, job):
    mine = found(job)[0]
    twice = [name for name in mine if f"again: {name}" in mine]
    assert twice
    for name in twice:
        check_same_bits(name, mine[name], mine[f"again: {name}"])


@pytest.mark.parametrize("job", dict(PAIRS))
@pytest.mark.parametrize("which", WAYS)
def test_ranks_share_the_rows_of_each_minibatch_in_their_order(found, job, which):
    """So an epoch has each row once, whosever it is."""
    every = found(job)
    for step, rows in rows_of_steps(which, None).items():
        shares = [one[f"rows: {which}"][step] for one in every]
        np.testing.assert_array_equal(np.concatenate(shares, axis=-1), rows, step)
        counts = [share.shape[-1] for share in shares]
        assert max(counts) - min(counts) <= 1
