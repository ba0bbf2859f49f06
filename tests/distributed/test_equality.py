"""Several ranks come to what one comes to, each of them to the same bits as the others, and every time to the same."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from rank_cases import CASES, PROOF, rows_of_steps
from ranks import needs_mpi, results

import gpu_backprop as gb

pytestmark = needs_mpi

RANKS = 2, 3, 4
SMALL = {
    2: ("dropout", "a rank", "members, ", "diverges: raise", "diverges: in one row", "few rows", "float32"),
    3: ("optimizer", "weight", "members", "drawn", "diverges", "early", "scores", "clip", " a", "hand", "windows"),
    4: (" rows by ", "few rows", "members, weights of each", "by hand", "evaluation", "windows"),
}
"""Parts of the names of the cases that so many ranks go through, where not all of them do."""


def cases_of(ranks):
    return [name for name in CASES if PROOF or any(part in name for part in SMALL[ranks])]


def work(names):
    """What each of some cases comes to, on this rank."""
    warnings.simplefilter("ignore")
    communicator = gb.mpi()
    return {f"{name} | {part}": value for name in names for part, value in CASES[name](communicator).items()}


@cache
def alone(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {part: np.asarray(value) for part, value in CASES[name](None).items()}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What so many ranks find, each of them by case; they are started once."""

    @cache
    def found(ranks):
        every = results(ranks, "test_equality:work", tmp_path_factory.mktemp("ranks") / "all", cases_of(ranks))
        return [by_case(one) for one in every]

    return found


def by_case(found):
    cases = {}
    for name, value in found.items():
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


@pytest.mark.parametrize(("ranks", "name"), [(ranks, name) for ranks in RANKS for name in cases_of(ranks)])
def test_several_ranks_come_to_what_one_comes_to(job, ranks, name):
    check_equal(name, job(ranks)[0][name], alone(name))


@pytest.mark.parametrize("ranks", RANKS)
def test_all_ranks_have_the_same_bits(job, ranks):
    first, *others = job(ranks)
    for other in others:
        for name, mine in first.items():
            check_same_bits(name, mine, other[name])


def test_as_many_ranks_come_to_the_same_bits_again(job, tmp_path):
    names = cases_of(2)
    again = by_case(results(2, "test_equality:work", tmp_path / "again", names)[0])
    for name in names:
        check_same_bits(name, job(2)[0][name], again[name])


def test_on_numpy_alone_they_come_to_the_same(tmp_path):
    names = cases_of(2)
    found = results(3, "test_equality:work", tmp_path / "numpy", names, GPU_BACKPROP_COMPILER="none")
    for name, mine in by_case(found[0]).items():
        check_equal(name, mine, alone(name))


WAYS = "plain", "in order", "members", "members in order", "members, rows of each", "windows", "windows of members"


def note_rows(ways):
    communicator = gb.mpi()
    return {name: rows for which in ways for name, rows in rows_of_steps(which, communicator).items()}


def test_ranks_share_the_rows_of_each_minibatch_in_their_order(tmp_path):
    """So an epoch has each row once, whosever it is."""
    found = results(4, "test_equality:note_rows", tmp_path / "rows", WAYS)
    for which in WAYS:
        for name, rows in rows_of_steps(which, None).items():
            shares = [one[name] for one in found]
            np.testing.assert_array_equal(np.concatenate(shares, axis=-1), rows, name)
            counts = [share.shape[-1] for share in shares]
            assert max(counts) - min(counts) <= 1
