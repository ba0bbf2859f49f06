"""Which operations of a plan a captured graph may run side by side: what each waits for, and the longest path.

An operation waits for those before it that wrote what it reads or writes, or read what it writes. Only this is asked of
the memory itself, byte by byte, so that views, and buffers that take each other's place, are what they are.

There are three branches. The main one has a longest path: in a training step forward, then backward to the first layer,
then the update. What does not lie on it goes aside: the gradients of the weights above the first layer, the rows of the
next minibatch. Sums over the ranks of a job that do not lie on it have a branch of their own, so that nothing of this
rank's waits behind them needlessly. What one branch needs of another it waits for.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operation import Operation

BRANCHES = MAIN, ASIDE, RANKS = range(3)

COLLECTIVE = -1
"""The piece of memory that all sums over the ranks write, as it were: every rank has to do them in the same order."""

Span = tuple[int, int]
"""Where a piece of memory begins, and where it ends."""

MOST_PIECES = 1024
"""Of one array, such as the parts of as many models. With more of them, as rows of data with gaps may be, what lies
between counts as its own too, so that operations may wait for each other needlessly."""

Address = Callable[[Array], int]


class Node(NamedTuple):
    """An operation in a graph.

    Attributes:
        after: the nodes of other branches that it waits for, by their places in the graph, but for those that the
            operations before it on its own branch have waited for.
    """

    operation: Operation
    branch: int = MAIN
    after: tuple[int, ...] = ()


def assign_branches(operations: Sequence[Operation], address: Address) -> list[int]:
    """Returns the branch of each operation. The longest path is that of a run among others: the minibatch, for which
    only the first one has to wait, does not lie on it. Of two that are as long it is the one that moves more bytes."""
    count = len(operations)
    waits = _dependencies(operations, address, 3)
    depth = _depths(operations, waits)
    branches = [RANKS if _is_collective(operation) else ASIDE for operation in operations]
    place = max(range(2 * count, 3 * count), key=lambda p: depth[p], default=-1)
    while place >= count:
        if place < 2 * count:
            branches[place % count] = MAIN
        place = max(waits[place], key=lambda p: (depth[p], operations[p % count].bytes), default=-1)
    return branches


def arrange(operations: Sequence[Operation], address: Address, repeats: int = 1) -> list[Node]:
    """Returns the nodes of a graph that does all operations so often, in the order in which they are to be captured.
    What lies on another branch than the main one goes by how soon it could begin. Where several could go on, the main
    one comes first: a graph keeps to the stream of what follows first."""
    waits = _dependencies(operations, address, repeats)
    branch_of = [operation.branch for operation in operations] * repeats
    main = [place for place, branch in enumerate(branch_of) if branch == MAIN]
    for before, place in pairwise(main):
        waits[place].add(before)
    depth, position = _depths(operations, waits), dict[int, int]()
    others = sorted((p for p, branch in enumerate(branch_of) if branch != MAIN), key=lambda p: (depth[p], p))
    queues = [deque(p for p in others if branch_of[p] == branch) for branch in BRANCHES if branch != MAIN]

    def put(place: int) -> None:
        """Puts an operation behind all that it waits for."""
        for queue in queues:
            while not waits[place].isdisjoint(queue):
                put(queue.popleft())
        position[place] = len(position)

    for place in main:
        put(place)
        for queue in queues:
            while queue and all(p in position and p != place for p in waits[queue[0]]):
                put(queue.popleft())
    for place in sorted(itertools.chain(*queues), key=lambda p: (depth[p], p)):
        put(place)
    nodes = list[Node]()
    waited = {branch: [-1] * len(BRANCHES) for branch in BRANCHES}  # by each branch: the last nodes of the others
    for place in position:
        branch, last = branch_of[place], [-1] * len(BRANCHES)
        for p in waits[place]:
            last[branch_of[p]] = max(last[branch_of[p]], position[p])
        known = waited[branch]
        after = tuple(last[other] for other in BRANCHES if other != branch and last[other] > known[other])
        nodes.append(Node(operations[place % len(operations)], branch, after))
        waited[branch] = [max(pair) for pair in zip(known, last, strict=True)]
    return nodes


def in_a_row(nodes: Sequence[Node]) -> list[Node]:
    """Returns the same nodes, all on the main branch."""
    return [Node(node.operation) for node in nodes]


def longest_path(nodes: Sequence[Node]) -> int:
    """Returns how many launches a graph of these nodes does one after another at least."""
    done, ends = list[int](), [0] * len(BRANCHES)
    for operation, branch, after in nodes:
        ends[branch] = max([ends[branch], *(done[place] for place in after)]) + operation.launches
        done.append(ends[branch])
    return max(ends)


def _depths(operations: Sequence[Operation], waits: Sequence[set[int]]) -> list[int]:
    """Returns for each operation of some runs how many launches the longest path has that ends with it."""
    depths = list[int]()
    for place, before in enumerate(waits):
        depths.append(operations[place % len(operations)].launches + max((depths[b] for b in before), default=0))
    return depths


def _dependencies(operations: Sequence[Operation], address: Address, repeats: int) -> list[set[int]]:
    """Returns for each operation of so many runs in turn the places of some before it that it must not overtake; those
    that these must not overtake may be left out."""
    accessed = [(o.reads.values(), o.writes.values()) for o in operations]
    spans = [[[span for a in arrays for span in _spans(a, address(a))] for arrays in both] for both in accessed]
    cuts = sorted({edge for both in spans for found in both for span in found for edge in span})
    pieces = [
        [{piece for a, b in found for piece in range(bisect_left(cuts, a), bisect_left(cuts, b))} for found in both]
        for both in spans
    ]
    for operation, (_, writes) in zip(operations, pieces, strict=True):
        if _is_collective(operation):
            writes.add(COLLECTIVE)
    written, read = dict[int, int](), defaultdict[int, list[int]](list)
    waits = []
    for place in range(repeats * len(operations)):
        reads, writes = pieces[place % len(operations)]
        before = {written[piece] for piece in reads | writes if piece in written}
        for piece in reads:
            read[piece].append(place)
        for piece in writes:
            before.update(read.pop(piece, ()))
            written[piece] = place
        waits.append(before - {place})
    return waits


def _is_collective(operation: Operation) -> bool:
    return "communicator" in operation.arguments


def _spans(array: Array, start: int) -> Iterator[Span]:
    """Yields the pieces of memory that an array takes: one a model where it is a part of a buffer with an axis of
    models in front. What lies between the rows of a part counts as its own."""
    if not array.size:
        return
    inner = sum((n - 1) * s for n, s in zip(array.shape[1:], array.strides[1:], strict=True)) + array.itemsize
    count, step = (array.shape[0], array.strides[0]) if array.ndim else (1, 0)
    if step <= inner or count > MOST_PIECES:
        yield start, start + (count - 1) * step + inner
    else:
        yield from ((start + k * step, start + k * step + inner) for k in range(count))
