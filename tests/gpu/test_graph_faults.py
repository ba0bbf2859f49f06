"""CUDA graphs that cannot be, or are wrong: the training goes on eagerly and right, or stops after a whole step."""

from __future__ import annotations

import gc
import re
import threading
import warnings
from functools import partial

import pytest
from graph_cases import EVERYTHING, ROWS, TAIL, Case, fed, run, same, state, steps
from tracing import TRACE, traced

import gpu_backprop as gb
from gpu_backprop.backend.errors import DeviceError
from gpu_backprop.training import replay as replay_module
from gpu_backprop.training.replay import Replay
from gpu_backprop.training.step import TrainingStep

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    """Every test hears its warning anew."""
    monkeypatch.setattr(replay_module, "_said", set())


class Planted:
    """A call that does nothing when it is called, and something when it is captured."""

    def __init__(self, there):
        self.there = there

    def __call__(self):
        pass

    def on(self, stream):
        return partial(self.there, stream)


def product(stream):
    import cupy

    a = ARRAYS[0]
    cupy.dot(a, a, out=ARRAYS[1])


def more_than_eager(stream):
    import cupy

    cupy.add(PARAMETERS[0], 1, out=PARAMETERS[0])


def allocated(stream):
    import cupy

    cupy.empty(1000)


def reserved(stream):
    import cupy

    cupy.cuda.runtime.malloc(1000)


def pinned(stream):
    import cupy

    cupy.cuda.runtime.hostAlloc(1000, 0)


def synchronized(stream):
    stream.synchronize()


def read(stream):
    PARAMETERS[0].get()


ARRAYS, PARAMETERS = [], []
FAULTS = {
    "an allocation": (
        allocated,
        r"planted \(nothing\) cannot be captured: it allocates 8,\d\d\d bytes of device",
    ),
    "an allocation past the pool": (reserved, "operation not permitted when stream is capturing"),
    "an allocation on the host": (pinned, "operation not permitted when stream is capturing"),
    "a wait": (synchronized, "capturing"),
    "a read": (read, "captur"),
    "a product of CuPy's": (product, "cuBLAS API during stream capture"),
    "another result": (more_than_eager, r"a replay gives other values than a run in parameters"),
    "no launch": (None, r"planted \(nothing\) is more than launches that can go to another stream"),
}


@pytest.fixture
def plant(monkeypatch):
    """Puts one more operation at the end of every step."""
    import cupy

    original = TrainingStep.build
    ARRAYS[:] = [cupy.ones((4, 4), "float32"), cupy.empty((4, 4), "float32")]
    cupy.dot(ARRAYS[0], ARRAYS[0], out=ARRAYS[1])
    cupy.add(ARRAYS[0], 1, out=ARRAYS[1])  # what is compiled in a capture breaks it, and a later fault is not seen

    def plant(there):
        def build(self, *args, **more):
            plan = original(self, *args, **more)
            PARAMETERS[:] = [self.network.parameters]
            call = Planted(there) if there else lambda: None
            plan.append(gb.Operation("planted", "nothing", {}, {}, 0, 0, 1, plan.phase, lambda: (call,)))
            return plan

        monkeypatch.setattr(TrainingStep, "build", build)

    yield plant
    ARRAYS.clear()
    PARAMETERS.clear()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_training_right(fault, plant, captured):
    """Under "auto" one warning, and the same bits as without graphs; under True an error, after one step."""
    there, said = FAULTS[fault]
    case = Case(*EVERYTHING)
    eager, one = case.fit(False), steps(case, False, 1)
    plant(there)
    with pytest.warns(RuntimeWarning, match="not replayed as CUDA graphs") as warned:
        assert case.fit("auto") == eager
    assert len(warned) == 1
    assert re.search(said, str(warned[0].message)), str(warned[0].message)
    assert not captured()
    trainer = case.trainer(True)
    x, y, _ = case.data(3)
    with pytest.raises(DeviceError, match="a step of 3 rows cannot be replayed as a CUDA graph") as raised:
        trainer.step(x[:TAIL], y[:TAIL])
    assert re.search(said, str(raised.value))
    assert {k: v for k, v in one.items() if k != "losses"} == state(trainer)


def test_after_a_fault_the_device_captures_again(plant, monkeypatch, captured):
    case = Case()
    eager = case.fit(False)
    with monkeypatch.context() as patch:
        original = TrainingStep.build
        plant(synchronized)
        with pytest.warns(RuntimeWarning):
            case.fit("auto")
        patch.setattr(TrainingStep, "build", original)
        assert case.fit(True) == eager
    assert len(captured()) == 2


def test_garbage_is_not_collected_while_capturing(plant):
    """What frees memory past the pool would break the capture, whoever left it."""
    import cupy

    def much(stream):
        garbage = [cupy_memory.pop()]
        garbage.append(garbage)
        del garbage
        assert len([[] for _ in range(100_000)]) == 100_000  # enough for Python to look for cycles, were it allowed

    case = Case(count=ROWS)
    eager = case.fit(False)
    cupy_memory = [cupy.cuda.Memory(1000)]  # with no pool behind it
    plant(much)
    assert case.fit(True) == eager
    assert not cupy_memory
    assert gc.isenabled()


def test_products_that_are_not_cublas_itself(monkeypatch):
    case = Case()
    eager = case.fit(False)
    shared = case.trainer(False).device._shared
    monkeypatch.setattr(shared, "_graphs", None)
    monkeypatch.setattr(shared.products, "direct", False)
    monkeypatch.setattr(shared.products, "reason", "CuPy's matrix product is used")
    with pytest.warns(RuntimeWarning, match="matrix products cannot be captured: CuPy's matrix product is used"):
        assert case.fit("auto") == eager
    with pytest.raises(DeviceError, match="matrix products cannot be captured"):
        case.fit(True)


def test_a_capture_that_cuda_refuses(monkeypatch):
    case = Case()
    eager = case.fit(False)

    def refuse(self, operations):
        raise DeviceError("CUDA refuses the graph: not today")

    monkeypatch.setattr(type(case.trainer(False).device), "capture", refuse)
    with pytest.warns(RuntimeWarning, match="not today") as warned:
        assert case.fit("auto", validation=True)["parameters"] == eager["parameters"]
    assert len(warned) == 1
    with pytest.raises(DeviceError, match="not today"):
        case.fit(True)


def test_a_warning_is_given_once_for_each_reason(plant):
    plant(synchronized)
    with pytest.warns(RuntimeWarning):
        Case().fit("auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Case().fit("auto")
    plant(allocated)
    with pytest.warns(RuntimeWarning, match="allocates"):
        Case().fit("auto")


def test_no_memory_for_the_copies():
    import cupy

    case = Case(gb.Dense(3000, "relu"), gb.Dense(3, "softmax"))
    twin, _ = fed(case)
    for _ in range(2):
        run(twin)
    plan, device = fed(case)
    full = cupy.cuda.MemoryPool()  # of its own: the usual one may have pieces left that serve
    full.set_limit(size=1024)
    for graph in ("auto", True):
        replay = Replay(plan, graph)
        with device.computing():
            if graph == "auto":
                replay.run()
                with cupy.cuda.using_allocator(full.malloc), pytest.warns(RuntimeWarning, match="no memory to compare"):
                    replay.run()
            else:
                with cupy.cuda.using_allocator(full.malloc), pytest.raises(DeviceError, match="no memory to compare"):
                    replay.run()
                run(twin)
        assert same(plan, twin)


@pytest.mark.parametrize("moment", ["copying", "running", "binding", "capturing", "launching", "comparing"])
def test_an_interrupt_leaves_the_state_of_a_step(moment, monkeypatch):
    """Before the checked step, where it had not begun, or after it; and the next run is checked."""
    plan, device = fed(Case(*EVERYTHING))
    twin, _ = fed(Case(*EVERYTHING))

    def interrupt(*args, **more):
        raise KeyboardInterrupt

    replay = Replay(plan, True)
    with monkeypatch.context() as patch:
        if moment == "copying":
            patch.setattr(type(device), "copy", interrupt)
        elif moment == "running":
            patch.setattr(replay, "_eagerly", interrupt)
        elif moment == "launching":
            patch.setattr(type(device), "capture", lambda self, operations: interrupt)
        elif moment == "comparing":
            patch.setattr(type(device), "differing", interrupt)
        else:
            call = plan.operations[-1].calls[0]
            where = interrupt if moment == "binding" else lambda stream: interrupt
            patch.setitem(vars(call), "on", where)
        with device.computing(), pytest.raises(KeyboardInterrupt):
            replay.run()
    if moment not in ("copying", "running"):
        run(twin)
    assert same(plan, twin)
    with device.computing():
        for _ in range(2):
            replay.run()
    run(twin)
    run(twin)
    assert replay.replays
    assert same(plan, twin)


@traced
def test_other_threads_go_on_while_a_step_is_captured():
    """What they ask of the device meanwhile, also on the stream of the plans and on the default stream, is done."""
    import cupy

    other, device = fed(Case())
    twin, _ = fed(Case())
    run(other)
    run(twin)
    run(twin)
    plan, _ = fed(Case())
    run(plan)
    ones, failed = cupy.zeros(4), []

    def work():
        try:
            with device.computing():
                other.run()
            ones[...] = 1
            device.synchronize()
        except BaseException as error:
            failed.append(error)

    def meanwhile(stream):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    plan.append(gb.Operation("planted", "nothing", {}, {}, 0, 0, 0, plan.phase, lambda: (Planted(meanwhile),)))
    replay = Replay(plan, True)
    with device.computing():
        replay.run()
        events = TRACE.of(replay.run)
    assert failed == []
    assert [e.number for e in events if e.what == "graph"] == [plan.cost()["launches"]]
    assert ones.get().tolist() == [1] * 4
    assert same(other, twin)


def test_trainers_in_threads_of_their_own():
    """Each gives what it gives alone, however their launches on the one stream take turns."""
    case = Case(*EVERYTHING, weighted=True)
    alone = [case.fit(graph, epochs=6) for graph in (True, "auto", False)]
    together = [None] * 3

    def train(k, graph):
        together[k] = case.fit(graph, epochs=6)

    threads = [threading.Thread(target=train, args=form) for form in enumerate((True, "auto", False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
