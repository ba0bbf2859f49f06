"""Which operations of a plan a captured graph may run side by side: what each waits for, and the longest path.

An operation waits for those before it that wrote what it reads or writes, or read what it writes. Only this is asked of
the memory itself, byte by byte, so that views, and buffers that take each other's place, are what they are.

There are two branches. The main one has a longest path: in a training step forward, then backward to the first layer,
then the update. What does not lie on it goes aside: the gradients of the weights above the first layer, the rows of the
next minibatch. What one branch needs of the other it waits for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from gpu_backprop.backend.formula import Array
from gpu_backprop.backend.operation import Operation

MAIN, ASIDE = range(2)

Span = tuple[int, int]
"""Where a piece of memory begins, and where it ends."""

MOST_PIECES = 1024
"""Of one array, such as the parts of as many models. With more of them, as rows of data with gaps may be, what lies
between counts as its own too, so that operations may wait for each other needlessly."""

Address = Callable[[Array], int]


class Node(NamedTuple):
    """An operation in a graph.

    Attributes:
        after: the node of the other branch that it waits for, by its place in the graph; None: none that the operations
            before it on its own branch have not waited for.
    """

    operation: Operation
    branch: int = MAIN
    after: int | None = None


def assign_branches(operations: Sequence[Operation], address: Address) -> list[int]:
    """Returns the branch of each operation. The longest path is that of a run among others: the minibatch, for which
    only the first one has to wait, does not lie on it. Of two that are as long it is the one that moves more bytes."""
    count = len(operations)
    waits = _dependencies(operations, address, 3)
    depth = _depths(operations, waits)
    branches, place = [ASIDE] * count, max(range(2 * count, 3 * count), key=lambda p: depth[p], default=-1)
    while place >= count:
        if place < 2 * count:
            branches[place % count] = MAIN
        place = max(waits[place], key=lambda p: (depth[p], operations[p % count].bytes), default=-1)
    return branches


def arrange(operations: Sequence[Operation], address: Address, repeats: int = 1) -> list[Node]:
    """Returns the nodes of a graph that does all operations so often, in the order in which they are to be captured.
    What lies aside goes by how soon it could begin. Where both branches could go on, the main one comes first: a graph
    keeps to the stream of what follows first."""
    waits = _dependencies(operations, address, repeats)
    main = [p for p in range(len(waits)) if operations[p % len(operations)].branch == MAIN]
    for before, place in pairwise(main):
        waits[place].add(before)
    depth, in_main, order = _depths(operations, waits), set(main), list[int]()
    aside = deque(sorted(set(range(len(waits))) - in_main, key=lambda p: (depth[p], p)))
    for place in main:
        while not waits[place].isdisjoint(aside):
            order.append(aside.popleft())
        order.append(place)
        while aside and all(p < place for p in waits[aside[0]] & in_main):
            order.append(aside.popleft())
    order += aside
    nodes, position = list[Node](), {place: k for k, place in enumerate(order)}
    waited = [-1, -1]  # the last node of the other branch that each branch has waited for
    for place in order:
        operation = operations[place % len(operations)]
        branch = operation.branch
        others = (p for p in waits[place] if operations[p % len(operations)].branch != branch)
        last = max((position[p] for p in others), default=-1)
        nodes.append(Node(operation, branch, last if last > waited[branch] else None))
        waited[branch] = max(waited[branch], last)
    return nodes


def in_a_row(nodes: Sequence[Node]) -> list[Node]:
    """Returns the same nodes, all on the main branch."""
    return [Node(node.operation) for node in nodes]


def longest_path(nodes: Sequence[Node]) -> int:
    """Returns how many launches a graph of these nodes does one after another at least."""
    done, ends = list[int](), [0, 0]
    for operation, branch, after in nodes:
        ends[branch] = max(ends[branch], 0 if after is None else done[after]) + operation.launches
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
