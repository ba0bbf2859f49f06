"""What ranks do together, all of it built on an exchange of bytes: here between threads."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings

import numpy as np
import pytest
from thread_ranks import on_threads

import gpu_backprop as gb
from gpu_backprop.backend.communicator import ALONE
from gpu_backprop.backend.errors import InputError, MissingExtraError

RANKS = 2, 3, 5


def caught(call):
    """What it raises; None: nothing."""
    try:
        call()
    except Exception as error:
        return error
    return None


def test_gpu_backprop_imports_no_mpi():
    code = "import sys, gpu_backprop; assert not {'mpi4py', 'cupy', 'nccl'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_mpi4py_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(MissingExtraError, match=r"mpi4py.*gpu_backprop\[mpi\]|mpi4py.*mpi"):
        gb.mpi()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "60", None, True])
def test_a_timeout_that_is_no_number_above_0_is_refused(timeout, monkeypatch):
    with pytest.raises(InputError, match="timeout must be a number of seconds above 0"):
        gb.mpi(timeout)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="timeout must be a number of seconds above 0"):
        gb.distributed(timeout)


# The rows of a minibatch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, *RANKS])
def test_shares_follow_each_other_and_are_as_large_as_each_other_or_by_one_larger(ranks):
    for rows in range(12):
        shares = on_threads(ranks, lambda rank, rows=rows: rank.share(rows))
        assert [row for share in shares for row in share] == list(range(rows))
        counts = [len(share) for share in shares]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("batches", [[], [0], [1], [7], [4, 4, 4, 1], [32, 3, 9], [2, 0, 2]])
def test_the_places_of_a_rank_are_its_shares_of_all_minibatches(ranks, batches):
    def places(rank):
        starts, shares = np.cumsum([0, *batches]), [rank.share(rows) for rows in batches]
        expected = [start + row for start, share in zip(starts.tolist(), shares, strict=False) for row in share]
        assert rank.places(batches).tolist() == expected
        return [rank.places(batches, other).tolist() for other in range(ranks)]

    first, *others = on_threads(ranks, places)
    assert all(other == first for other in others)
    assert sorted(place for one in first for place in one) == list(range(sum(batches)))


def test_one_rank_has_all_rows():
    assert list(ALONE.share(5)) == [0, 1, 2, 3, 4]
    assert ALONE.places([3, 2]) is None


# What is built on exchange --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", RANKS)
def test_all_ranks_get_the_values_of_all_or_of_the_first(ranks):
    def work(rank):
        value = {"rank": rank.rank, "none": None, "numbers": [1.5, float("inf")], "text": "∇"}
        return rank.gather(value), rank.agree(value), rank.gather(rank.rank)

    for gathered, agreed, numbers in on_threads(ranks, work):
        assert [one["rank"] for one in gathered] == numbers == list(range(ranks))
        assert agreed == gathered[0] == {"rank": 0, "none": None, "numbers": [1.5, float("inf")], "text": "∇"}


@pytest.mark.parametrize("ranks", RANKS)
def test_any_is_so_where_one_says_it(ranks):
    assert on_threads(ranks, lambda rank: rank.any(False)) == [False] * ranks
    for one in range(ranks):
        assert on_threads(ranks, lambda rank, one=one: rank.any(rank.rank == one)) == [True] * ranks


def test_sums_are_added_in_the_order_of_ranks():
    """1e16 + 1 is 1e16: in another order the sum would be 1."""
    values = np.array([1e16, 1.0, -1e16])
    assert on_threads(3, lambda rank: rank.add_up(values[rank.rank : rank.rank + 1]).tolist()) == [[0.0]] * 3


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_sums_have_the_shape_and_dtype_of_what_is_summed_up_which_stays(dtype):
    def work(rank):
        some = np.arange(24, dtype=dtype).reshape(4, 6)[:, ::2] * (rank.rank + 1)
        before = some.copy()
        total, scalar = rank.add_up(some), rank.add_up(np.array(rank.rank, dtype))
        np.testing.assert_array_equal(some, before)
        total += 1  # it is the rank's own
        return total - 1, scalar

    for total, scalar in on_threads(3, work):
        assert total.dtype == scalar.dtype == dtype and scalar.shape == () and scalar == 3
        np.testing.assert_array_equal(total, 6 * np.arange(24, dtype=dtype).reshape(4, 6)[:, ::2])


def test_the_first_reason_is_told_with_its_rank():
    assert on_threads(3, lambda rank: rank.first_reason(None)) == [None] * 3
    reasons = on_threads(3, lambda rank: rank.first_reason(f"no {rank.rank}" if rank.rank else None))
    assert reasons == ["rank 1: no 1"] * 3


def test_what_fails_on_one_rank_fails_on_all():
    def work(error):
        def fail(rank):
            with rank.alike():
                if rank.rank == 1:
                    raise error
            return "done"

        return on_threads(3, lambda rank: caught(lambda: fail(rank)))

    first, own, last = work(FileNotFoundError(errno.ENOENT, "No such file"))
    assert own.strerror == "No such file"
    assert type(first) is type(last) is FileNotFoundError and first.strerror == last.strerror == "rank 1: No such file"
    first, own, last = work(ValueError("no number"))
    assert type(own) is ValueError and type(first) is InputError and "rank 1: no number" in str(first)


def test_what_is_the_same_is_not_told():
    facts = {"batch_size": 8, "optimizer": {"name": "adam", "rate": 0.1}, "none": None}
    assert on_threads(3, lambda rank: caught(lambda: rank.check_same(facts))) == [None] * 3


def test_what_differs_is_told_on_every_rank():
    def facts(rank):
        return {"batch_size": 8 + rank.rank // 2, "loss": {"name": "huber", "numbers": {"delta": 1 + rank.rank % 2}}}

    errors = on_threads(3, lambda rank: caught(lambda: rank.check_same(facts(rank))))
    assert len({str(error) for error in errors}) == 1
    assert all(isinstance(error, InputError) for error in errors)
    assert "loss numbers delta is 2 on rank 1 and 1 on rank 0" in str(errors[0])
    assert "batch_size is 9 on rank 2 and 8 on rank 0" in str(errors[0])


def test_what_a_rank_lacks_is_told():
    errors = on_threads(2, lambda rank: caught(lambda: rank.check_same({} if rank.rank else {"weights": "some"})))
    assert "weights is None on rank 1 and 'some' on rank 0" in str(errors[1])


def test_of_much_that_differs_six_are_told_and_long_values_in_short():
    errors = on_threads(
        2, lambda rank: caught(lambda: rank.check_same({f"of {k}": f"{rank.rank}" * 500 for k in range(9)}))
    )
    assert "and 3 more" in str(errors[0]) and len(str(errors[0])) < 1500


def test_where_a_rank_has_failed_already_the_others_are_told_why():
    def work(rank):
        return caught(lambda: rank.check_same({}, InputError("no such layer") if rank.rank == 1 else None))

    first, own, last = on_threads(3, work)
    assert own is None  # which raises its own
    assert str(first) == str(last) == "another rank cannot begin: rank 1: no such layer"


def test_the_first_rank_alone_warns():
    def work(rank):
        with rank.quiet():
            warnings.warn(f"from {rank.rank}", RuntimeWarning, stacklevel=1)

    ranks = on_threads(2, lambda rank: rank)
    with pytest.warns(RuntimeWarning, match="from 0"):
        work(ranks[0])
    work(ranks[1])  # which would be an error here


def test_alone_nothing_is_exchanged():
    array = np.ones(3)
    assert ALONE.gather([1]) == [[1]] and ALONE.agree("a") == "a" and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.add_up(array) is array and ALONE.first_reason("no") == "no"
    assert list(ALONE.all_reduce(None, array)) == [] and not ALONE.leaves_alone()
    ALONE.check_same({"a": 1}, ValueError("no"))
    with ALONE.alike(), ALONE.waiting("nobody"), ALONE.quiet():
        ALONE.abort(1)
