"""CONTRIBUTING.md is enough: in a copy of the checkout an activation, a loss and an optimizer are added in the files
that it names and in no other, and the tests that it names pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "dist", "runs")

Addition = dict[str, list[tuple[str, str]]]
"""By file: texts, and what each of them is put in front of."""

ACTIVATION: Addition = {
    "gpu_backprop/network/activations.py": [
        ("def _softmax(", '''\
def _relu6(z: Array, y: Array, work: Work) -> Formula:
    """y = min(max(z, 0), 6) (Howard et al. 2017)"""
    yield call(np.clip, z, 0.0, 6.0, out=y)


def _relu6_gradient(grad_y: Array, y: Array, grad_z: Array, work: Work) -> Formula:
    """f′ = 1 where 0 < y < 6, else 0"""
    inside = work.full()
    yield call(np.less, y, 6.0, out=inside)
    yield call(np.multiply, grad_y, inside, out=grad_z)
    yield from _above_zero(y, inside, work)
    yield call(np.multiply, grad_z, inside, out=grad_z)


'''),
        ('        Activation("exp"', '''\
        Activation(
            "relu6", "y", _relu6, _relu6_gradient,
            "z > A(0) ? (z < A(6) ? z : A(6)) : z < A(0) ? A(0) : z", "s > A(0) && s < A(6) ? A(1) : A(0)",
        ),
'''),
    ],
    "docs/derivation.md": [
        ("| `exp` | $e^z$", "| `relu6` | $\\min(\\max(z, 0), 6)$ | $1$ for $0 < y < 6$ | $y$ | here |\n"),
    ],
    "gpu_backprop/explanation/rules.py": [
        ('    "softsign": (', '''\
    "relu6": (
        Rule("min(max({z}, 0), 6)", lambda z: min(max(z, 0.0), 6.0)),
        Rule("[0 < {y} < 6]", lambda y: float(0 < y < 6)),
    ),
'''),
    ],
    "gpu_backprop/interop/onnx_graph.py": [
        ('    "exp": lambda g', '    "relu6": lambda g, z: g.Min(g.Relu(z), 6.0),\n'),
    ],
    "tests/network/test_activations.py": [
        ('    "exp": (math.exp', '    "relu6": (lambda z: min(max(z, 0.0), 6.0), lambda z: float(0 < z < 6)),\n'),
        ('    "exp": (0, math.inf', '    "relu6": (0, 6, 0, 0),\n'),
    ],
    "tests/sweep.py": [
        ('    "exp": lambda z', '    "relu6": lambda z: (np.clip(z, 0, 6),),\n'),
        ('    "exp": lambda y', '    "relu6": lambda y: (np.where((y > 0) & (y < 6), L(1), 0),),\n'),
    ],
}  # fmt: skip

LOSS: Addition = {
    "gpu_backprop/network/losses.py": [
        ("class Poisson", '''\
class CubedError(Loss):
    """e = Σ ⅓|d|³ with d = y − y*, ∂e/∂y = d·|d|: large errors count for more than in squares."""

    name: ClassVar[str] = "cubed_error"

    @property
    def formula(self) -> LossFormula:
        e = "(y - t) * (y - t) * fabs(y - t) * A(1.0 / 3)"
        return LossFormula(self.name, self._numpy, e, "(y - t) * fabs(y - t)")

    @staticmethod
    def _numpy(y: Array, target: Array, grad_y: Array | None, e: Array, work: Work) -> Formula:
        difference, slope, term = (work.full(k) for k in range(3))
        yield call(np.subtract, y, target, out=difference)
        yield call(np.absolute, difference, out=term)
        yield call(np.multiply, difference, term, out=slope)
        yield call(np.multiply, slope, difference, out=term)
        yield row_sum(term, e)
        yield call(np.multiply, e, 1 / 3, out=e)
        if grad_y is not None:
            yield partial(np.copyto, grad_y, slope)


'''),
        ("        Quantile, Poisson,", "        CubedError,\n"),
    ],
    "docs/derivation.md": [
        ("| `absolute_error` |", "| `cubed_error` | $\\sum_j d_j^3 / 3$ | $d_j^2$ | here |\n"),
    ],
    "gpu_backprop/explanation/rules.py": [
        ('    "cross_entropy": LossRule(', '''\
    "cubed_error": LossRule(
        Rule("|{y} − {t}|³/3", lambda y, t: abs(y - t) ** 3 / 3),
        Rule("({y} − {t})·|{y} − {t}|", lambda y, t: (y - t) * abs(y - t)),
    ),
'''),
    ],
    "tests/network/test_losses.py": [
        ('    "poisson": (gb.Poisson', '    "cubed_error": (type(gb.LOSSES["cubed_error"]), {}, "identity"),\n'),
        ('        case "poisson":\n            terms', '''\
        case "cubed_error":
            terms, slopes = [abs(a - b) ** 3 / 3 for a, b in pairs], [(a - b) * abs(a - b) for a, b in pairs]
'''),
    ],
    "tests/sweep.py": [
        ('    "cross_entropy": (gb', '''\
    "cubed_error": (
        gb.LOSSES["cubed_error"],
        lambda y, t: (abs(y - t) ** 3 / 3,), lambda y, t: ((y - t) * abs(y - t),),
    ),
'''),
    ],
}  # fmt: skip


OPTIMIZER: Addition = {
    "gpu_backprop/training/optimizers.py": [
        ("OPTIMIZERS: dict", '''\
def _signum(w: Array, g: Array, change: Array, work: Work, m: Array, rate: Array, beta: Array, rest: Array) -> Calls:
    yield call(np.multiply, g, rest, out=change)
    yield call(np.multiply, m, beta, out=m)
    yield call(np.add, m, change, out=m)
    yield call(np.sign, m, out=change)
    yield call(np.multiply, change, rate, out=change)


SIGNUM = UpdateRule(  # Bernstein et al. 2018, algorithm 2
    "signum", {"learning_rate": 0.001, "momentum": 0.9}, {"m": "1"},
    {"rate": "learning_rate", "beta": "momentum", "rest": "1 - momentum"}, _signum,
    "m = beta * m + rest * g; change = rate * sign(m);",
    (("m", "{momentum}·{m} + (1 − {momentum})·{g}"), ("w", "{w} − {learning_rate}·sign({m})")),
)  # fmt: skip

'''),
        ('    "adam": Adam,', '    "signum": partial(Optimizer, SIGNUM),\n'),
        ("from typing import Any, ClassVar", "from functools import partial\n"),
    ],
}  # fmt: skip


def add(copy: Path, addition: Addition) -> None:
    """Puts an addition into a copy of the checkout."""
    for file, texts in addition.items():
        path = copy / file
        text = path.read_text(encoding="utf-8")
        for before, new in texts:
            assert text.count(before) == 1, f"{file} has {text.count(before)} times {before!r}"
            text = text.replace(before, new + before)
        path.write_text(text, encoding="utf-8")


def section(kind: str) -> str:
    """What the guide says under the heading "To add an …"."""
    found = re.search(rf"^### An? {kind}$(.*?)(?=^#)", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, f"CONTRIBUTING.md has no heading for {kind}"
    return found[1]


def command(kind: str) -> str:
    """Which tests prove such an addition, in the words of pytest."""
    [found] = re.findall(r"^    make test ARGS=\"-k '(.*)'\"$", section(kind), re.MULTILINE)
    return found


ADDITIONS = {
    "activation": ("relu6", ACTIVATION),
    "loss": ("cubed_error", LOSS),
    "optimizer": ("signum", OPTIMIZER),
}


@pytest.mark.parametrize("kind", ADDITIONS)
def test_the_guide_lists_what_an_addition_touches(kind):
    listed = re.findall(r"^\d+\. \[[^\]]+\]\(([^)#]+)\)", section(kind), re.MULTILINE)
    assert sorted(listed) == sorted(ADDITIONS[kind][1])
    assert command(kind).startswith("NAME or test_docs")


def test_what_the_guide_says_is_enough(tmp_path):
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=NOT_COPIED)
    for _, addition in ADDITIONS.values():
        add(copy, addition)
    # a run of its own, which shares no folder with the workers of this one
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = {**kept, "PYTHONPATH": str(copy)}
    for told in (["docs/list_optimizers.py"], ["tests/public_api.py", "--write"]):
        subprocess.run([sys.executable, *told], cwd=copy, env=environment, check=True)
    public = (copy / "tests" / "public_api.txt").read_text(encoding="utf-8")
    assert all(f"['{name}']" in public for name, _ in ADDITIONS.values())
    chosen = " or ".join(command(kind).replace("NAME", name) for kind, (name, _) in ADDITIONS.items())
    parts = "network", "training", "explanation", "backend", "docs/test_docs.py", "kernels_on_host/test_kernels.py"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *(f"tests/{p}" for p in parts)],
        cwd=copy, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed and int(passed[1]) > 100
