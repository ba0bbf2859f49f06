"""The machinery of the proofs: what it has to find in a kernel, it finds in these."""

from __future__ import annotations

import struct

import pytest
from kernel_program import FORWARD, KINDS, MIXED, RANDOM, REVERSE, Fault, Launch, Program, compile_host

KERNELS = """
#include "host.hpp"
__global__ void meet_half(int* out) { if (threadIdx.x < 32) __syncthreads(); *out = 1; }
__global__ void shuffle_half(int* out) { if (threadIdx.x % 32 < 16) *out = __shfl_xor_sync(~0u, 1, 1); }
__global__ void outside(int* out) { if (threadIdx.x == 0) out[1] = 1; }
__global__ void before(int* out) { if (threadIdx.x == 0) out[-1] = 1; }
__global__ void shared_as_found(int* out) { __shared__ int s; out[0] = s; s = 7; }
__global__ void last_thread(int* out) { out[0] = int(threadIdx.x + 100 * threadIdx.y); }
__global__ void own_shared(int* out) {
  __shared__ int s;
  if (threadIdx.x == 0) s = int(blockIdx.x);
  __syncthreads();
  if (s != int(blockIdx.x)) out[0] = 1;
}
#include "program.hpp"
const Body kernels[] = {Launch<&meet_half>::run, Launch<&shuffle_half>::run, Launch<&outside>::run,
  Launch<&before>::run, Launch<&shared_as_found>::run, Launch<&last_thread>::run, Launch<&own_shared>::run};
int main(int argc, char** argv) { return program(kernels, argc, argv); }
"""
MEET_HALF, SHUFFLE_HALF, OUTSIDE, BEFORE, SHARED_AS_FOUND, LAST_THREAD, OWN_SHARED = range(7)


class Named:
    """As much of an instance as errors tell."""

    name = "a kernel"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    program = object.__new__(Program)
    program.instances, program.kind = [Named] * 7, "plain"
    program.path = compile_host(tmp_path_factory.mktemp("small"), "small", KERNELS, KINDS["plain"])

    def run(kernel, order=(FORWARD, FORWARD), grid=1):
        launch = Launch(kernel, (grid, 1, 1), (64, 2, 1), (*order, 5), [(4, struct.pack("<i", 0))], [(0, bytes(8))])
        return struct.unpack("<i", program.run([launch])[0][0])[0]

    return run


@pytest.mark.parametrize("kernel", [MEET_HALF, SHUFFLE_HALF])
@pytest.mark.parametrize("threads", [FORWARD, REVERSE, RANDOM])
def test_a_barrier_that_not_all_reach_is_an_error(small, kernel, threads):
    with pytest.raises(Fault, match=r"\d+ of 128 threads wait"):
        small(kernel, (threads, FORWARD))


@pytest.mark.parametrize("kernel", [OUTSIDE, BEFORE])
def test_writing_around_a_buffer_is_an_error(small, kernel):
    with pytest.raises(Fault, match="around buffer 0"):
        small(kernel)


def test_shared_memory_is_poisoned_in_each_block(small):
    assert small(SHARED_AS_FOUND, (REVERSE, FORWARD)) == 7  # the second thread finds what the first left
    assert small(OWN_SHARED, (FORWARD, MIXED), grid=5) == 0


def test_threads_run_in_the_order_asked_for(small):
    assert small(LAST_THREAD) == 163
    assert small(LAST_THREAD, (REVERSE, FORWARD)) == 0
    assert small(LAST_THREAD, (RANDOM, FORWARD)) not in (0, 163)
