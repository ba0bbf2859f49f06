"""What bench/busy_machine.py found, in Markdown; from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from lib.markdown import table as markdown_table

from comparison.peers import OURS

PEERS = OURS, "PyTorch, eager", "JAX, epoch in lax.scan"
TROUBLES = QUIET, TWO, COMPILE, QUOTA, AFTER = (
    "quiet", "two fits at once", "beside a compiler", "a quota of half a core", "after NumPy's products"
)  # fmt: skip

Results = dict[str, Any]
table = partial(markdown_table, numbers="---:")


def table_of(results: Results) -> str:
    """Makes the table: µs a step in each trouble, how many times as long as on a quiet machine, and how many times as
    fast as the faster peer we are."""
    heads = "", *(f"{name}, µs a step (times quiet)" for name in PEERS), "times the fastest peer"
    return table(heads, [row for one in results["networks"] for row in _rows(one)])


def _rows(network: Results) -> Iterator[tuple[str, ...]]:
    for trouble, us in network["us"].items():
        cells = [_cell(us.get(name), network["times quiet"][trouble].get(name)) for name in PEERS]
        others = [us[name]["median"] for name in PEERS[1:] if name in us]
        fastest = f"{min(others) / us[OURS]['median']:.2f}" if others and OURS in us else "-"
        yield f"{network['name']}: {trouble}", *cells, fastest


def _cell(us: Results | None, times: Results | None) -> str:
    return f"{us['median']:,.0f} ({times['median']:.2f})" if us and times else "-"


def page(results: Results) -> str:
    """Makes the part of docs/performance.md."""
    where = f"Measured on {results['processor']}, medians of {results['rounds']} rounds; the quota is "
    return "\n\n".join([f"{where}{results['quota']}.", table_of(results)])
