"""Ranks on CUDA devices, whose sums are NCCL's, come to what one comes to: eagerly and in graphs, in one sum or more.

The ranks are processes, each with an emulated device of its own, or a real one where there are as many.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import nccl_cases
import numpy as np
import pytest
from ranks import environment, needs_mpi, results, run_ranks

from gpu_backprop.backend.cuda import setup

pytestmark = [pytest.mark.gpu, needs_mpi]

HERE = Path(__file__).parent
OVERFLOW = "float16, an overflow on one rank"
FEW = ["many steps", "a tail of one row"]
BOTH = [False, True]


def settings(ranks):
    if "CUDASIM_BUILD" not in os.environ and setup.count_devices() < ranks:
        pytest.skip(f"this machine has fewer than {ranks} CUDA devices, and no emulator gives it more")
    path = os.pathsep.join([str(HERE), environment()["PYTHONPATH"]])
    return {"PYTHONPATH": path, "CUDASIM_DEVICES": str(ranks)}


def of_ranks(ranks, function, folder, *arguments):
    return results(ranks, f"nccl_cases:{function}", folder, *arguments, **settings(ranks))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What so many ranks find, each of them; they are started once."""

    @cache
    def found(ranks):
        names = [*nccl_cases.CASES] if ranks < 3 else FEW
        return of_ranks(ranks, "train", tmp_path_factory.mktemp("nccl") / "all", names, [True] if ranks == 1 else BOTH)

    return found


def of_case(found, name, graph=True):
    head = f"{name} | {graph} | "
    return {part.removeprefix(head): value for part, value in found.items() if part.startswith(head)}


def check_same_bits(some, others):
    assert some.keys() == others.keys()
    for name, value in some.items():
        np.testing.assert_array_equal(value, others[name], name)


def check_equal(some, others, rtol, atol):
    assert some.keys() == others.keys()
    for name, value in others.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(some[name], value, rtol, atol, err_msg=name)
        else:
            np.testing.assert_array_equal(some[name], value, name)


@pytest.mark.parametrize("name", nccl_cases.CASES)
def test_two_ranks_come_to_what_one_comes_to(job, name):
    rtol, atol = {"float16": (2e-2, 2e-3), "float32": (1e-3, 1e-4)}.get(name.partition(",")[0], (1e-9, 1e-11))
    check_equal(of_case(job(2)[0], name), of_case(job(1)[0], name), rtol, atol)


@pytest.mark.parametrize("name", FEW)
def test_three_ranks_come_to_what_one_comes_to(job, name):
    check_equal(of_case(job(3)[0], name), of_case(job(1)[0], name), 1e-9, 1e-11)


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_have_the_same_bits(job, ranks):
    first, *others = job(ranks)
    for other in others:
        check_same_bits(other, first)


@pytest.mark.parametrize("ranks", [2, 3])
def test_graphs_come_to_what_single_launches_come_to(job, ranks):
    for name in FEW if ranks == 3 else nccl_cases.CASES:
        check_same_bits(of_case(job(ranks)[0], name), of_case(job(ranks)[0], name, False))


def test_as_many_ranks_come_to_the_same_bits_again(job, tmp_path):
    """The second run of a plan is captured now, and not the first one."""
    again = of_ranks(2, "train", tmp_path / "again", [*FEW, OVERFLOW], ["auto"])[0]
    for name in (*FEW, OVERFLOW):
        check_same_bits(of_case(again, name, "auto"), of_case(job(2)[0], name))


def test_where_one_rank_overflows_all_skip_the_step(job):
    """The other rank's gradient alone would have been taken."""
    for rank in job(2):
        skipped = of_case(rank, OVERFLOW)["history skipped"]
        assert skipped[0] >= 1 and skipped[-1] == 0
    check_same_bits(*({"skipped": of_case(found, OVERFLOW)["history skipped"]} for found in (job(1)[0], job(2)[0])))


def test_buckets_come_to_what_one_sum_comes_to(job, tmp_path):
    """Of two ranks bit for bit: a sum of two has no order."""
    for rank, whole in enumerate(of_ranks(2, "train", tmp_path / "one", [*nccl_cases.CASES], [True], False)):
        check_same_bits(whole, {part: job(2)[rank][part] for part in whole})


def test_a_step_is_what_its_plan_says(tmp_path):
    for found in of_ranks(2, "audit", tmp_path / "audit"):
        sums = {name: int(count) for name, count in found.items()}
        assert sums["plain, False"] == 1 and sums["plain, True"] == sums["one row, True"] == 2
        assert sums["weights, False"] == sums["members, False"] == sums["members, True"] == 2  # with Σw
        assert sums["weights, True"] == 3 and sums["clipped, in parts, True"] == 2


def test_buckets_are_summed_up_beside_the_backward_pass(tmp_path):
    for found in of_ranks(2, "graph_shape", tmp_path / "shape"):
        assert found["formulas"].tolist() == [f"∇{k} = Σ∇{k} of all ranks" for k in (5, 4, 3, 2, 1)]
        assert found["aside"].tolist() == [True] * 4 + [False]
        (one, several), (path, parallel) = found["launches"], found["path"]
        assert several == one + 4 and parallel == path


def test_a_capture_refused_on_one_rank_is_given_up_on_all(tmp_path):
    found = of_ranks(2, "capture_fails_on_one", tmp_path / "capture")
    for rank in found:
        auto, eager = ({p: v for p, v in rank.items() if p.startswith(how)} for how in ("auto", "eager"))
        check_same_bits(
            {p.removeprefix("auto"): v for p, v in auto.items()}, {p.removeprefix("eager"): v for p, v in eager.items()}
        )
        assert "cannot be replayed as a CUDA graph" in str(rank["asked"])
    assert all("rank 1: it captures nothing today" in str(text) for text in [*found[0]["told"], found[0]["asked"]])
    assert len(found[0]["told"]) == 1 and not len(found[1]["told"])


def test_devices_that_ranks_cannot_have_together_are_told(tmp_path):
    for found in of_ranks(2, "refusals", tmp_path / "refusals"):
        assert "InputError: the networks of ranks 0 and 1 are both on cuda:0" in str(found["twice"])
        assert "InputError" in str(found["mixed"]) and "that of rank 1 on cpu" in str(found["mixed"])
        assert all("device=communicator.device" in str(found[which]) for which in ("twice", "mixed"))
        assert "DeviceError" in str(found["missing"]) and "rank 1: it is not installed" in str(found["missing"])
        assert found["then"] == "not refused"


@pytest.mark.parametrize(
    ("timeout", "patience", "told"),
    [
        (2, 100, "rank 0 of 2 has waited 2 s for the device"),
        (50, 2, "DeviceError: rank 0 of 2: the sum over the ranks"),
    ],
)
def test_a_sum_that_another_rank_does_not_come_to_ends_the_job(timeout, patience, told):
    """By the time that ranks give each other, or as soon as NCCL itself knows."""
    done = run_ranks(
        2, "-c", f"import nccl_cases\nnccl_cases.left_alone({timeout})", timeout=50, check=False,
        **settings(2), CUDASIM_NCCL_TIMEOUT_S=str(patience),
    )  # fmt: skip
    assert done.returncode and told in done.stderr, done.stderr
    assert "done" not in done.stdout
