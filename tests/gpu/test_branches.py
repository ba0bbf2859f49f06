"""The branches of a captured graph: nothing runs beside what shares memory with it, and the device sees what is told.

What an emulated device shows only where it is asked before it starts, a process of its own is asked for: the shape of a
graph, an order of its nodes that their waits allow, and work that is done as late as it may be.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from graph_cases import EVERYTHING, ROWS, STEPPING, TAIL, Case, fed, run
from test_audit import CASES, training_step
from tracing import TRACE, traced

import gpu_backprop as gb
from gpu_backprop.backend.branches import BRANCHES, RANKS, in_a_row, longest_path
from gpu_backprop.backend.signatures import heads
from gpu_backprop.training.replay import STEPS_AT_ONCE

pytestmark = pytest.mark.gpu

TWO = 2
"""Runs in a graph: what the first leaves the second may not take too early."""


# What is written beside what ------------------------------------------------------------------------------------------


def on_host(array):
    """A NumPy array at the same address, to be compared with others by address and not to be read."""
    place = {"shape": array.shape, "strides": array.strides, "typestr": f"|V{array.itemsize}", "version": 3}
    return np.asarray(SimpleNamespace(__array_interface__=place | {"data": (array.data.ptr, False)}))


def touched(call):
    """What a bound launch reads, and what it writes, by its kernel's head; or of a product, with its workspace."""
    if hasattr(call, "kernel"):
        *_, slots, arrays = call.holds
        pointers = heads()[call.kernel.partition("<")[0]].parameters
        given = [p for p, slot in zip(pointers, slots, strict=True) if p.pointer and slot.any()]
        pairs = list(zip(given, map(on_host, arrays), strict=True))
        return [a for p, a in pairs if p.constant], [a for p, a in pairs if not p.constant]
    if hasattr(call, "holds"):  # of cuBLASLt: bias and aux are read or written, as the epilogue has it
        a, b, *rest = (on_host(array) for array in call.holds if array is not None)
        return [a, b], rest
    handle, *arguments = call.args
    a, b, out = (on_host(argument.array) for argument in arguments if hasattr(argument, "array"))
    return [a, b], [out, on_host(handle.workspace)]


def unordered(nodes):
    """The pairs of nodes that no path connects."""
    before, last = [], {}
    for k, node in enumerate(nodes):
        awaited = {w for w in (last.get(node.branch), *node.after) if w is not None}
        before.append(awaited.union(*(before[w] for w in awaited)))
        last[node.branch] = k
    return [(a, b) for a, b in itertools.combinations(range(len(nodes)), 2) if a not in before[b]]


def clashes(plan, nodes):
    """The operations that could disturb each other, by name."""
    streams = plan.device._shared.graphs._streams
    found = [[touched(call.on(streams[n.branch])) for call in n.operation.calls] for n in nodes]
    reads, writes = ([[a for call in calls for a in call[k]] for calls in found] for k in range(2))
    return {
        (nodes[a].operation.name, nodes[b].operation.name)
        for a, b in unordered(nodes)
        for one, other in [*itertools.product(writes[a], writes[b] + reads[b]), *itertools.product(reads[a], writes[b])]
        if np.shares_memory(one, other)
    }


@pytest.mark.parametrize("case", CASES)
def test_no_launch_writes_what_one_beside_it_touches(case):
    plan = CASES[case]().plan
    nodes = plan.nodes(TWO)
    assert clashes(plan, nodes) == set()
    if plan.training and not case.startswith("one_launch"):
        assert unordered(nodes)


@pytest.mark.parametrize("shared", ["the scratch memory", "the workspace"])
def test_what_is_shared_by_branches_is_found(shared, monkeypatch):
    if shared == "the scratch memory":
        monkeypatch.setattr("gpu_backprop.backend.cuda.device.CudaDevice.on_branch", lambda self, _: self)
    plan = training_step(
        gb.Dense(8, "relu"), gb.Dense(40, "softmax")
    ).plan  # too many outputs for one launch of the head
    if shared == "the workspace":
        streams = plan.device._shared.graphs._streams
        monkeypatch.setattr(plan.device._shared.graphs, "_streams", [streams[0]] * 2)
    expected = {("column_sum", "activation_gradient"), ("activation_gradient", "column_sum")}
    found = clashes(plan, plan.nodes(TWO))
    assert found & (expected if shared == "the scratch memory" else {("matmul", "matmul")})


# Several steps at once ------------------------------------------------------------------------------------------------

MANY = ROWS * 20 + TAIL
LONG = {
    "plain": Case(count=MANY),
    "everything, members": Case(*EVERYTHING, count=MANY, seed=[1, 2], weighted=True),
    "float16, in parts, clipped and averaged": Case(count=MANY, dtype="float16", options=STEPPING),
    "a schedule": Case(count=MANY, optimizer=gb.Adam(schedule="cosine")),
}


@pytest.mark.parametrize("case", LONG.values(), ids=LONG)
def test_several_steps_at_once_give_what_one_after_another_gives(case, captured):
    eager = case.fit(False)
    assert case.fit("auto") == eager
    assert case.fit(True) == eager
    several = [line for line in captured() if f"{STEPS_AT_ONCE} steps of" in line]
    assert len(several) == 2


@pytest.mark.parametrize("why", ["on_step", "loss_every", "a short epoch"])
def test_where_each_step_is_waited_for_it_is_a_graph_of_its_own(why, captured):
    case = Case(count=ROWS * 2 * STEPS_AT_ONCE if why == "a short epoch" else MANY)
    trainer, (x, y, _), seen = case.trainer(True), case.data(3), []
    follower = SimpleNamespace(on_step=lambda state: seen.append(state.step))
    options = {"on_step": {"callbacks": [follower]}, "loss_every": {"loss_every": 7}}.get(why, {})
    trainer.fit(x, y, 2, progress=False, **options)
    assert seen == ([*range(1, 22)] * 2 if why == "on_step" else [])
    assert captured() and not [line for line in captured() if "steps" in line]


@traced
def test_the_graphs_of_a_long_epoch():
    """Eight steps twice, and the others one by one; the first of an epoch that another follows is one of these, since
    its order is drawn meanwhile. What is checked is replayed as well."""
    trainer = Case(count=MANY).trainer(True)
    x, y, _ = Case(count=MANY).data(3)
    events = TRACE.of(lambda: trainer.fit(x, y, 2, progress=False))
    each = trainer.plan(ROWS).cost()["launches"] + 1  # and in fit, the rows are gathered
    graphs = [e.number for e in events if e.what == "graph"]
    eight = [each * STEPS_AT_ONCE] * 2
    assert graphs == [each, *eight, *[each] * 4, *eight, *[each] * 5]


# What another process sees --------------------------------------------------------------------------------------------


def elsewhere(code, **settings):
    """What a process of its own prints as JSON, on an emulated device that is set otherwise."""
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if k != "CUDASIM_TRACE"} | settings
    environment["PYTHONPATH"] = os.pathsep.join([str(here), environment.get("PYTHONPATH", ""), str(here.parents[1])])
    command = [sys.executable, "-W", "error", "-c", f"from test_branches import *\n{code}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def shapes():
    """Of some plans, captured for one run and for two, side by side and in a row: their paths as they are told and as
    the device sees them."""
    told, seen = [], []
    for case in (Case(), Case(*EVERYTHING, weighted=True, seed=[1, 2]), Case(options=STEPPING), Case(dtype="float16")):
        plan, device = fed(case)
        run(plan)
        for repeats, device.side_by_side in itertools.product((1, TWO), (True, False)):
            nodes = plan.nodes(repeats)
            told.append(longest_path(nodes if device.side_by_side else in_a_row(nodes)))
            (event,) = [e for e in TRACE.of(lambda n=nodes, d=device: d.capture(n)) if e.event == "instantiate"]
            seen.append(int(event.what.partition("path=")[2].split()[0]))
    print(json.dumps([told, seen]))


@traced
def test_the_longest_path_is_the_one_that_is_told():
    told, seen = elsewhere("shapes()", CUDASIM_GRAPH="shape")
    assert told == seen
    assert told[0] < told[1] < told[3] and told[2] < told[3]


def forgotten():
    """How many waits of a step there are, and how many of them can be left out without being noticed."""
    plan, device = fed(Case(gb.Dense(8, "relu"), gb.Dense(8, "tanh"), gb.Dense(3, "softmax")))
    run(plan)
    nodes, outputs = plan.nodes(TWO), plan.outputs()
    before = {name: device.copy(array) for name, array in outputs.items()}

    def left(nodes):
        graph, found = device.capture(nodes), set()
        for _ in range(30):
            for name, array in outputs.items():
                device.copy_in(array, before[name])
            with device.computing():
                graph()
            found.add(b"".join(device.to_host(array).tobytes() for array in outputs.values()))
        return found

    right = left(nodes)
    awaited = [k for k, node in enumerate(nodes) if node.after]
    without = [[n._replace(after=()) if k == a else n for k, n in enumerate(nodes)] for a in awaited]
    print(json.dumps([len(right), len(awaited), sum(left(nodes) == right for nodes in without)]))


@traced
def test_a_wait_that_is_forgotten_gives_other_numbers():
    ways, waits, unnoticed = elsewhere("forgotten()", CUDASIM_GRAPH="shuffle")
    assert ways == 1 < waits
    assert unnoticed == 0


def prepared(late):
    """The first product on a capturing stream, done before what was queued on the stream of the plans (`late` False),
    or after what is queued there next: the numbers that there are for those."""
    import cupy

    from gpu_backprop.backend.cuda.graph import GraphCapture

    device = gb.Network(2, [gb.Dense(2)], device="cuda").device
    products, stream, size = device.blas, device.stream, (8, 8)
    capturing = [cupy.cuda.Stream(non_blocking=True) for _ in BRANCHES]
    with device.computing():
        for one in capturing[:RANKS]:
            products._backend._handle(one.ptr)  # there already, since making it would wait for all
        out = cupy.empty(size, "float32")  # memory of three matrices, as the preparation takes it
        x, more = cupy.empty(size, "float32"), cupy.empty(size, "float32")
        places = {x.data.ptr, more.data.ptr}
        x.fill(7)
        more.fill(7)
        stream.synchronize()
        if not late:
            cupy.add(x, more, out=out)  # which has yet to be done when the preparation gets x and more
        del x, more
        cuda = SimpleNamespace(Stream=lambda **_: capturing.pop(0), Event=cupy.cuda.Event)
        capture = GraphCapture(
            SimpleNamespace(cuda=cuda, zeros=cupy.zeros, empty_like=cupy.empty_like), stream, products
        )
        if late:
            x, more = cupy.empty(size, "float32"), cupy.empty(size, "float32")
            assert {x.data.ptr, more.data.ptr} == places
            x.fill(7)
            more.fill(7)
            stream.synchronize()
        for prepared in capture._streams:
            prepared.synchronize()
        stream.synchronize()
        print(json.dumps(((x + more) if late else out).get().ravel().tolist()))


@traced
@pytest.mark.parametrize("late", [False, True])
def test_the_first_product_of_a_capture_disturbs_nothing(late):
    assert elsewhere(f"prepared({late})", CUDASIM_STREAMS="lazy") == [14.0] * 64


# Threads that multiply ------------------------------------------------------------------------------------------------


def test_no_other_thread_runs_while_a_product_is_queued():
    """A product may be several launches, which pass results on in the workspace that all threads share."""
    import cupy

    device = gb.Network(2, [gb.Dense(2)], device="cuda").device
    with device.computing():
        a = cupy.ones((300, 300), "float64")
        (product,) = device.blas.matmul(a, a, cupy.empty_like(a))
        product()
    ran, ended, interval = [0], threading.Event(), sys.getswitchinterval()

    def count():
        while not ended.is_set():
            ran[0] += 1
            time.sleep(1e-5)  # lets others run, and runs again as soon as they let it

    thread = threading.Thread(target=count)
    sys.setswitchinterval(1000)
    try:
        thread.start()
        with device.computing():
            before = ran[0]
            for _ in range(20):
                product()
            after = ran[0]
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()
    assert before == after
    assert product.func._flags_ & ctypes._FUNCFLAG_PYTHONAPI
