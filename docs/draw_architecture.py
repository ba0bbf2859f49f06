"""Draw docs/architecture.svg from the imports that the package really has: python docs/draw_architecture.py.

A box is a part of the package, an arrow an import. An arrow that a longer way implies is
left out: whoever imports training/ reaches network/ too. The dashed one is an import by name, at run time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

PARTS = {
    "cli": (1, "the command line"),
    "explanation": (2, "a step, line by line"),
    "arguments": (0, "its options"),
    "commands": (1, "train, evaluate, predict"),
    "training": (1, "step, trainer, run"),
    "report": (2, "scores, and tables of them"),
    "network": (1, "the mathematics"),
    "data": (0, "files to arrays"),
    "backend.open_device": (1, "auto, cpu, cuda"),
    "backend.compiled": (1, "C++ for the CPU"),
    "backend.cuda": (2, "CuPy, cuBLAS, NVRTC"),
    "backend.numpy_ops": (1, "the specification"),
    "backend": (1, "the plan, the contract"),
}
"""By part, its column and what a reader finds there. A module belongs to the longest name that it begins with."""

BY_NAME = ("backend.open_device", "backend.cuda")
"""An import at run time, by name: without CUDA the folder need not be there."""

WIDTH, HEIGHT, GAP, RISE = 180, 46, 40, 40


def modules() -> Iterator[tuple[str, Path]]:
    """The modules of the package below its own name, and their files."""
    package = ROOT / "gpu_backprop"
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        yield name, path


def part_of(module: str) -> str | None:
    """The part that a module belongs to; None for the package's own front door."""
    found = [part for part in PARTS if f"{module}.".startswith(f"{part}.")]
    return max(found, key=len, default=None)


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gpu_backprop."):
            yield from (f"{node.module}.{alias.name}".removeprefix("gpu_backprop.") for alias in node.names)


def arrows() -> set[tuple[str, str]]:
    """Which part imports which."""
    found = set()
    for module, path in modules():
        here = part_of(module)
        found |= {(here, there) for name in imported(path) if (there := part_of(name)) not in (here, None) and here}
    return found


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges that no longer way implies."""

    @cache
    def below(part: str) -> frozenset[str]:
        nexts = {b for a, b in edges if a == part}
        return frozenset(nexts.union(*(below(b) for b in nexts)))

    return {(a, b) for a, b in edges if not any(b in below(c) for d, c in edges if d == a and c != b)}


def floors(edges: set[tuple[str, str]]) -> dict[str, int]:
    """The floor of each part, counted from the top: below all who import it."""

    @cache
    def floor(part: str) -> int:
        return max((1 + floor(a) for a, b in edges if b == part), default=0)

    return {part: floor(part) for part in PARTS}


def draw() -> str:
    """The picture, as SVG."""
    edges = arrows() | {BY_NAME}
    below = floors(edges)
    columns = 1 + max(column for column, _ in PARTS.values())
    width, height = columns * (WIDTH + GAP) + GAP, (1 + max(below.values())) * (HEIGHT + RISE) + RISE
    place = {
        part: (GAP + column * (WIDTH + GAP), RISE + below[part] * (HEIGHT + RISE))
        for part, (column, _) in PARTS.items()
    }
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="sans-serif">',
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for a, b in sorted(reduced(edges)):
        (ax, ay), (bx, by) = place[a], place[b]
        dashed = ' stroke-dasharray="4 3"' if (a, b) == BY_NAME else ""
        drawn.append(
            f'<path d="M{ax + WIDTH / 2:g} {ay + HEIGHT}L{bx + WIDTH / 2:g} {by}" stroke="#555" fill="none"{dashed} '
            'marker-end="url(#tip)"/>'
        )
    for part, (x, y) in place.items():
        drawn += [
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef3fa" stroke="#345"/>',
            f'<text x="{x + WIDTH / 2:g}" y="{y + 19:g}" font-size="13" font-weight="bold" text-anchor="middle">'
            f"{part.replace('.', '/')}</text>",
            f'<text x="{x + WIDTH / 2:g}" y="{y + 36:g}" font-size="11" text-anchor="middle">{PARTS[part][1]}</text>',
        ]
    return "\n".join([*drawn, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
