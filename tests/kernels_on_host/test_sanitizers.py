"""The cases of test_kernels under AddressSanitizer and UBSan, and small ones on real threads under ThreadSanitizer."""

from __future__ import annotations

import pytest
from kernel_cases import run
from kernel_draws import FULL

from gpu_backprop.backend.signatures import heads

pytestmark = pytest.mark.long

KERNELS = sorted(heads())


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_and_arithmetic_are_in_order(kernel, cases, program):
    run(program(kernel, "address"), cases(kernel, "address", "once" if FULL else "fewer"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_threads_do_not_race(kernel, cases, program):
    run(program(kernel, "thread"), cases(kernel, "thread", "threads"))
