"""A plan as one call: where its threads wait for each other, and what else lives in a process beside them."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
from ctypes import c_void_p

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.compiled.operations_text import operations_text
from gpu_backprop.backend.compiled.program import (
    FIELDS,
    SURELY_PARALLEL_NS,
    KernelCall,
    UnsupportedArguments,
    at_once,
    segments,
    sequence,
)
from gpu_backprop.backend.errors import OutOfMemoryError
from gpu_backprop.backend.kernel_text import source
from gpu_backprop.backend.numpy_blas import numpy_blas
from gpu_backprop.backend.operations import Operations
from gpu_backprop.backend.plan import Plan
from gpu_backprop.backend.signatures import without_comments

LONG = 1e6
"""Nanoseconds of work, enough for all threads to take part."""

LEVEL, TRIALS, DUE, FEWER = 5, 6, 7, 10
"""Where struct Program has these."""


def advance(device, counter, by=1, work=LONG):
    return KernelCall(device, "advance", work, counter=counter, models=counter.size, by=by)


def add_bias(device, x, b, z, work=LONG):
    return KernelCall(device, "add_bias", work, x=x, b=b, z=z, models=1, rows=len(x), cols=x.shape[1])


def arrays(*shapes):
    return [np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for shape in shapes]


# Barriers -------------------------------------------------------------------------------------------------------------


def test_a_barrier_stands_where_another_threads_work_is_needed(on_threads):
    device = on_threads(2)
    counter, other = np.zeros(64, np.int64), np.zeros(64, np.int64)
    same = [advance(device, counter), advance(device, counter), advance(device, other)]
    assert segments(same) == [0, 1, 0]
    assert segments([advance(device, a, work=1) for a in (counter, counter)]) == [0, 0]  # one thread does both
    assert segments([advance(device, counter), advance(device, counter, work=1)]) == [0, 1]
    overlapping = [advance(device, counter[:40]), advance(device, counter[32:])]
    assert segments(overlapping) == [0, 1]
    assert segments([advance(device, counter[:32]), advance(device, counter[32:])]) == [0, 0]


def test_what_is_done_by_rows_needs_none(on_threads):
    device = on_threads(2)
    x, z, y, b = arrays((40, 8), (40, 8), (40, 8), (8,))
    assert segments([add_bias(device, x, b, z), add_bias(device, z, b, y), add_bias(device, x, b, z)]) == [0] * 3
    assert segments([add_bias(device, x, b, z), add_bias(device, z[4:], b, y[4:])]) == [0, 1]  # other rows
    reshaped = add_bias(device, z.reshape(20, 16), np.tile(b, 2), x.reshape(20, 16))
    assert segments([add_bias(device, x, b, z), reshaped]) == [0, 1]
    whole = KernelCall(device, "copy", LONG, source=z, destination=y, size=z.nbytes)
    assert segments([add_bias(device, x, b, z), whole]) == [0, 1]
    assert segments([add_bias(device, x, b, z), add_bias(device, z, b, y, work=1)]) == [0, 1]  # in other parts


def test_reading_needs_none(on_threads):
    device = on_threads(2)
    x, y, z = arrays((40, 8), (40, 8), (40, 8))
    steps = [KernelCall(device, "copy", LONG, source=x, destination=to, size=x.nbytes) for to in (y, z)]
    assert segments(steps) == [0, 0]


def test_views_of_one_flat_buffer_lie_between_each_other(on_threads):
    """Weights and biases of two models: their ranges overlap, they do not."""
    device = on_threads(2)
    flat = np.zeros((2, 64), np.float32)
    weights, bias = flat[:, :32].reshape(2, 4, 8), flat[:, 32:40]
    x, z = np.ones((2, 40, 8), np.float32), np.ones((2, 40, 4), np.float32)

    def sums(out):
        return next(iter(device.ops.column_sum(device, x, out)))

    product = KernelCall(
        device, "matmul", LONG,
        a=z, b=x, c=weights, models=2, m=4, n=8, k=40, a_transposed=True, b_transposed=False, ours=True,
    )  # fmt: skip
    assert segments([product, sums(bias)]) == [0, 0]
    assert segments([product, sums(flat[:, 24:32])]) == [0, 1]


def test_a_step_of_training_has_few(networks_on):
    """Forward, loss and ∇x go on by rows. What adds up over rows waits for them, and the optimizer for all."""
    networks_on(2)
    net = gb.Network(64, [gb.Dense(64, "tanh"), gb.Dense(64, "relu"), gb.Dense(64, "softmax")], device="cpu")
    trainer = gb.Trainer(net)
    trainer.step(np.ones((64, 64)), np.zeros(64, int))
    (replay,) = trainer.manual_steps._replays.values()
    steps = [call for operation in replay.plan.operations for call in operation.calls]
    assert all(isinstance(step, KernelCall) for step in steps)
    numbers = segments(steps)
    assert [step.name for step, number in zip(steps, numbers, strict=True) if number == 2] == ["update"]
    assert {step.name for step, number in zip(steps, numbers, strict=True) if number == 1} == {"matmul"}


def test_the_fields_of_a_program_are_those_of_its_struct():
    (struct,) = re.findall(r"struct Program \{(.*?)\n\};", without_comments(source("cpu/program.cpp")), re.DOTALL)
    assert tuple(re.findall(r"(\w+);", struct)) == FIELDS


# Steps ----------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_the_head(on_threads):
    device = on_threads(2)
    x, b, z = arrays((6, 8), (8,), (6, 8))
    add_bias(device, x, b, z)()
    for wrong in (
        {"x": x.astype(np.float64)}, {"x": x.astype(">f4")}, {"x": x[:, ::-1]}, {"x": x[:5]}, {"x": x.T.copy().T},
        {"b": b[:7]}, {"b": np.tile(b, 2)[::2]}, {"b": None}, {"b": 3.0},
        {"x": np.frombuffer(b"-" + x.tobytes(), np.float32, offset=1).reshape(6, 8)},
    ):  # fmt: skip
        with pytest.raises(UnsupportedArguments):
            KernelCall(
                device, "add_bias", LONG, **({"x": x, "b": b, "z": z, "models": 1, "rows": 6, "cols": 8} | wrong)
            )
    z.flags.writeable = False
    with pytest.raises(UnsupportedArguments):
        add_bias(device, x, b, z)
    with pytest.raises(TypeError, match="advance takes .'by', 'counter', 'models'., got .'counter', 'models'."):
        KernelCall(device, "advance", LONG, counter=np.zeros(1, np.int64), models=1)


def test_memory_that_is_not_there_is_no_reason_to_take_numpy(on_threads, monkeypatch):
    device, (z,) = on_threads(2), arrays((6, 8))

    def empty(shape, dtype=None):
        raise OutOfMemoryError("there is none", needs={})

    monkeypatch.setattr(device, "empty", empty)
    with pytest.raises(OutOfMemoryError):
        tuple(device.ops.sum_of_squares(device, z, np.zeros(6)))


# Programs -------------------------------------------------------------------------------------------------------------


def test_neighbours_become_one_call(on_threads):
    device = on_threads(2)
    counter, order = np.zeros(64, np.int64), []
    calls = [advance(device, counter), advance(device, counter, 2), lambda: order.append(counter[63])]
    joined = sequence([*calls, advance(device, counter, 3)])
    assert len(joined) == 3 and joined[1] is calls[2]
    for call in joined:
        call()
    assert order == [3] and (counter == 6).all()
    assert sequence([]) == ()


def test_a_program_holds_on_to_its_arrays(on_threads):
    (call,) = sequence([advance(on_threads(2), np.zeros(1 << 16, np.int64)) for _ in range(4)])
    held = [array for step in vars(call)["holds"][2] for array in step]
    for _ in range(3):
        call()
    assert [array.sum() for array in held] == [3 << 16] * 4


def test_many_barriers(device):
    """Parts of different sizes, each in need of what other threads have just done."""
    counter = np.zeros(1000, np.int64)
    steps = []
    for shift in range(200):
        steps.append(advance(device, counter[shift:], 1))
        steps.append(KernelCall(device, "copy", LONG, source=counter[:400], destination=counter[500:900], size=3200))
    (call,) = sequence(steps)
    for _ in range(20):
        call()
    expected = np.zeros(1000, np.int64)
    for _ in range(20):
        for shift in range(200):
            expected[shift:] += 1
            expected[500:900] = expected[:400]
    np.testing.assert_array_equal(counter, expected)


def test_a_small_program_finds_out_at_once_whether_its_threads_are_worth_it(on_threads):
    (call,) = sequence([advance(on_threads(2), np.zeros(64, np.int64), work=2e4)])
    trials, fewer = (vars(call)["holds"][0][at : at + 1] for at in (TRIALS, FEWER))
    for left, known in ((2, False), (1, False), (0, True)):
        call()
        assert trials == left and (fewer > 0) == known


def test_numbers_too_small_to_be_normal_become_0(device):
    x = np.full((64, 8), 1e-39, np.float32)
    z = np.ones_like(x)
    (call,) = sequence([add_bias(device, x, np.zeros(8, np.float32), z)])
    call()
    assert (z == 0).all()
    assert (x * np.float32(0.5) > 0).all()  # nothing of it stays in this thread


@pytest.fixture
def blas_threads(made_by):
    """A function that tells how many threads the BLAS has: 2, where tests/conftest.py leaves it one."""
    blas = numpy_blas()
    told, tell = (
        ctypes.CFUNCTYPE(ctypes.c_int)(blas.get_threads),
        ctypes.CFUNCTYPE(None, ctypes.c_int)(blas.set_threads),
    )
    before = told()
    tell(2)
    yield told
    tell(before)


def test_the_blas_has_its_threads_again_afterwards(on_threads, blas_threads):
    device = on_threads(3)
    (call,) = sequence([advance(device, np.zeros(64, np.int64))])
    threads = [threading.Thread(target=lambda: [call() for _ in range(200)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blas_threads() == 2


def test_the_blas_has_one_thread_while_plans_run(on_threads, blas_threads):
    device = on_threads(3)
    (call,) = sequence([advance(device, np.zeros(64, np.int64))])
    with device.computing(), device.computing():
        call()
        assert blas_threads() == 1
    assert blas_threads() == 2


@pytest.mark.parametrize("late", [False, True], ids=["before the BLAS is told to rest", "right after it"])
def test_ctrl_c_leaves_the_blas_its_threads(on_threads, blas_threads, monkeypatch, late):
    device = on_threads(3)
    limit_blas_threads = device.library.limit_blas_threads

    def interrupted(*arguments):
        monkeypatch.setattr(device.library, "limit_blas_threads", limit_blas_threads)
        if late:
            limit_blas_threads(*arguments)
        raise KeyboardInterrupt

    with device.computing():
        monkeypatch.setattr(device.library, "limit_blas_threads", interrupted)
        with pytest.raises(KeyboardInterrupt), device.computing():
            pass
        assert blas_threads() == 1
    assert blas_threads() == 2


def test_two_threads_of_python_at_once(on_threads):
    """One of them has the pool, the other does all parts itself; both get what each would get alone."""
    device = on_threads(2)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 80), np.float32), rng.standard_normal((80, 48), np.float32)
    outs = [np.empty((64, 48), np.float32) for _ in range(5)]
    calls = [sequence(device.ops.matmul(device, x, w, out)) for out in outs]
    (alone, *others), wrong = list(outs), []
    calls[0][0]()

    def work(call, out):
        for _ in range(300):
            out[...] = 0
            call()
            wrong.append(not np.array_equal(out, alone))

    threads = [threading.Thread(target=work, args=(calls[k + 1][0], out)) for k, out in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 1200 and not any(wrong)


def test_who_does_a_part_changes_no_bit(on_threads):
    """Programs of many sizes, on two and three threads and on fewer than they might, from several threads of Python."""
    rng, wrong = np.random.default_rng(0), []

    def program(threads, rows):
        device = on_threads(threads)
        x, w = rng.standard_normal((rows, 40), np.float32), rng.standard_normal((40, 24), np.float32)
        z, sums = np.empty((rows, 24), np.float32), np.empty(24, np.float32)
        calls = [*device.ops.matmul(device, x, w, z), *device.ops.column_sum(device, z, sums)]
        (call,) = sequence([*calls, *device.ops.matmul(device, x, w, z)], 3)
        return call, vars(call)["holds"][0], (z, sums), threads

    def work(call, fields, outs, threads):
        expected = []
        for k in range(120):
            fields[LEVEL] = 1 + k % threads
            for out in outs:
                out[...] = 0
            call()
            expected = expected or [out.copy() for out in outs]  # on one thread
            wrong.append(not all(map(np.array_equal, outs, expected)))

    programs = [program(threads, rows) for threads in (2, 3) for rows in (3, 60, 1000)]
    workers = [threading.Thread(target=work, args=one) for one in programs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(wrong) == 120 * len(programs) and not any(wrong)


FORK = """
import os, sys, threading
import numpy as np
from gpu_backprop.backend.compiled import compiler, ops as compiled_ops
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.compiled.program import KernelCall, sequence

device = CpuDevice("", CpuLibrary(compiler.find(), 2), compiled_ops)
counter = np.zeros(64, np.int64)
add, kept = KernelCall(device, "advance", 1e6, counter=counter, models=64, by=1), np.zeros(64, np.int64)
(call,) = sequence([add, add, KernelCall(device, "copy", 1e6, source=counter, destination=kept, size=512), add])
stop = False
def busy():
    other = np.zeros(64, np.int64)
    (work,) = sequence([KernelCall(device, "advance", 1e6, counter=other, models=64, by=1) for _ in range(50)])
    while not stop:
        work()
thread = threading.Thread(target=busy)
thread.start()
for _ in range(20):
    call()
    child = os.fork()
    if child == 0:
        for _ in range(10):
            call()
        os._exit(int(counter[0]) % 256)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (int(counter[63]) + 30) % 256
stop = True
thread.join()
print("done", int(counter.min()), int(counter.max()))
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_child_of_a_fork_has_threads_of_its_own(made_by):
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("done 60 60\n", 0), done.stderr


def test_a_process_ends_with_threads_asleep_and_awake(made_by):
    program = FORK.partition("stop = False")[0] + "call()\nimport time; time.sleep(float(sys.argv[1])); call()"
    for pause in ("0", "0.01"):
        assert subprocess.run([sys.executable, "-c", program, pause], timeout=60, check=False).returncode == 0


def test_ctrl_c_ends_a_run_between_two_calls(made_by):
    program = FORK.partition("stop = False")[0] + (
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "try:\n    while True: call()\nexcept KeyboardInterrupt: print(counter.min() == counter.max())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


# Members --------------------------------------------------------------------------------------------------------------


def goes_by_members(calls):
    (call,) = sequence(calls)
    return vars(call)["holds"][3] is not None


@pytest.mark.parametrize("between", [False, True], ids=["one program", "two, and NumPy between them"])
def test_members_share_what_they_count(device, between):
    """Each of them adds up rows in an order of its own, which a cursor goes through, many at once."""
    (source,), order = arrays((10, 8)), np.stack([np.arange(10), np.arange(10)[::-1], [3] * 10])
    cursor, row, z = np.zeros(1, np.int64), np.zeros((3, 1, 8), np.float32), np.zeros((3, 40, 8), np.float32)
    add = KernelCall(device, "add_bias", LONG, x=z, b=row[:, 0], z=z, models=3, rows=40, cols=8)
    calls = [*device.ops.gather(device, [source], order, cursor, [row]), add]
    calls += [*[lambda: None] * between, *device.ops.advance(device, cursor, 1)]
    assert between or goes_by_members(calls)
    assert (at_once(calls) == 1) == between and at_once([]) == 1
    for repeats, done in ((1, 1), (4, 5), (5, 10)):
        together = sequence(calls, repeats)
        assert len(together) == (3 * repeats if between else 1)
        for call in together:
            call()
        assert cursor == done
        for member in range(3):
            np.testing.assert_array_equal(z[member], np.tile(source[order[member, :done]].sum(0), (40, 1)))


def test_how_many_times_a_program_is_run_at_once(on_threads):
    """A short one often, a long one once; one of members a few times, however long."""
    device, counter = on_threads(2), np.zeros(4, np.int64)
    assert [at_once([advance(device, counter[:1], work=w)]) for w in (1, 1e8, 1e9)] == [8, 2, 1]
    assert [at_once([advance(device, counter, work=w)]) for w in (1, 1e7, 1e8, 1e9)] == [64, 20, 4, 4]


def test_where_members_are_not_taken_one_by_one(on_threads):
    """Where they are few, and where one would read what another writes."""
    device = on_threads(3)
    flat, other, numbers = np.zeros((5, 1000), np.float32), np.zeros((4, 1000), np.float32), np.ones((4, 2))

    def blend(source, destination):
        return next(iter(device.ops.blend(device, source, numbers[: len(source)], None, destination)))

    assert goes_by_members([blend(flat[:4], other), blend(other, flat[:4])])
    assert not goes_by_members([blend(flat[:2], other[:2])])
    assert not goes_by_members([blend(flat[1:], flat[:4])])
    assert not goes_by_members([blend(flat[:4], other), blend(flat[:3], other[:3])])
    assert not goes_by_members([blend(flat[:4], other), *device.ops.copy(device, flat[:4], other)])


# A plan ---------------------------------------------------------------------------------------------------------------


def test_the_run_of_a_plan_is_one_call(on_threads):
    device = on_threads(2)
    plan = Plan(device)
    x, w = plan.named("x", np.ones((64, 32), np.float32)), plan.named("W", np.ones((32, 16), np.float32))
    b, z, y = plan.named("b", np.ones(16, np.float32)), plan.empty("z", (64, 16)), plan.empty("y", (64, 16))
    plan.add(Operations.matmul, "z = x@W", {}, x, w, z)
    plan.add(Operations.add_bias, "y = z + b", {}, z, b, y)
    plan.run()
    assert (y == 33).all() and len(plan._runs[(), 1]) == 1
    assert [o.name for o, _ in plan.trace()] == ["matmul", "add_bias"]


def test_an_address_is_a_function(on_threads):
    head, address = on_threads(1).library.operation("advance")
    assert head.name == "advance" and c_void_p(address).value


RACES = """
#include <stdio.h>
static KernelCall steps[256];
static Segment segments[256];
int main() {
  static i64 counter[1000], expected[1000];
  const i64 rounds = 30;
  i64 count = 0, parts = 0;
  for (i64 k = 0; k < 100; k++) {
    if (RIGHT) segments[parts++] = {count, count + 1, k % 3 ? 3 : 1};
    KernelCall& add = steps[count++];
    add.run = bp_advance, add.parts = k % 3 ? 3 : 1;
    add.slots[0].pointer = counter + k, add.slots[1].integer = add.slots[3].integer = 1;
    add.slots[2].integer = 1000 - k;
    if (RIGHT) segments[parts++] = {count, count + 1, 3};
    KernelCall& copy = steps[count++];
    copy.run = bp_copy, copy.parts = 3;
    copy.slots[0].pointer = counter, copy.slots[1].pointer = counter + 500, copy.slots[2].integer = 3200;
  }
  if (!RIGHT) segments[parts++] = {0, count, 3};
  Program all = {steps, count, segments, parts, 3, 3, 0, 1 << 30, 0, 0, 0, 0, 0, 1};
  for (i64 k = 0; k < rounds; k++) all.level = 3 - k % 2, all.lost = 0, bp_run(&all);
  for (i64 k = 0; k < rounds; k++)
    for (i64 shift = 0; shift < 100; shift++) {
      for (i64 i = shift; i < 1000; i++) expected[i]++;
      for (i64 i = 0; i < 400; i++) expected[500 + i] = expected[i];
    }
  for (i64 i = 0; i < 1000; i++)
    if (counter[i] != expected[i]) return puts("wrong"), 3;
  return puts("right"), 0;
}
"""


RACES_OF_MEMBERS = """
#include <stdio.h>
int main() {
  static i64 counters[40][20], copies[40][20], shared = 7, counts[4 * 32];
  static KernelCall own[3][3];
  KernelCall calls[3] = {{bp_advance, 3}, {bp_copy, 3}, {bp_advance, 1}};
  calls[0].slots[0].pointer = counters, calls[0].slots[1].integer = 1;
  calls[0].slots[2].integer = 20, calls[0].slots[3].integer = 1;
  calls[1].slots[0].pointer = counters, calls[1].slots[1].pointer = copies, calls[1].slots[2].integer = 160;
  calls[2] = calls[0], calls[2].slots[2].integer = 1;
  for (i64 thread = 0; thread < 3; thread++) {
    for (i64 k = 0; k < 3; k++) own[thread][k] = calls[k];
    own[thread][2].slots[0].pointer = counts + (1 + thread) * 32;
  }
  const Pointer pointers[] = {{2, 160}, {32 + 2, 160}, {32 + 3, 160 * RIGHT}};
  i64* const all_count[] = {&shared};
  Program all = {
      calls, 3, nullptr, 1, 3, 3, 0, 1 << 30, 0, 0, 0, 0, 0, 50, 40, 0, own[0], pointers, 3, all_count, 1, counts, 32};
  const i64 rounds = RIGHT ? 10 : 1000;  // until two threads have taken part
  for (i64 k = 0; k < rounds; k++) all.level = 3, all.lost = 0, bp_run(&all);
  for (i64 m = 0; m < 40; m++)
    for (i64 i = 0; i < 20; i++)
      if (counters[m][i] != 50 * rounds || copies[m][i] != 50 * rounds) return puts("wrong"), 3;
  return puts(shared == 7 + 50 * rounds ? "right" : "wrong"), 0;
}
"""


@pytest.mark.parametrize("right", [1, 0])
@pytest.mark.parametrize("text", [RACES, RACES_OF_MEMBERS], ids=["parts of operations", "members"])
def test_threads_do_not_race(made_by, tmp_path, text, right):
    """By the thread sanitizer, which finds the race where a barrier is missing, or members write to the same memory."""
    programs = operations_text("program", "float32").text.replace(source("cpu/port.hpp"), "")
    operations = operations_text("minibatch", "float32").text
    (tmp_path / "races.cpp").write_text(operations + programs + text.replace("RIGHT", str(right)))
    command = [*made_by.command, "-std=c++17", "-g", "-O1", "-fsanitize=thread", "-pthread", "races.cpp", "-o", "races"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "tsan" in made.stderr:
        pytest.skip("the compiler has no thread sanitizer")
    assert made.returncode == 0, made.stderr
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(
        [tmp_path / "races"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if right:
        assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr
    else:
        assert "data race" in done.stderr


def test_what_threads_wait_for_is_a_step_and_not_several(on_threads):
    """Whether threads that share rows are worth it does not depend on how often a program is run at once."""
    device, counter = on_threads(2), np.zeros(4, np.int64)
    work = 0.9 * SURELY_PARALLEL_NS
    of_rows, of_members = (sequence([advance(device, of, work=work)], 8)[0] for of in (counter[:1], counter))
    assert [vars(call)["holds"][0][DUE] > 0 for call in (of_rows, of_members)] == [False, True]
