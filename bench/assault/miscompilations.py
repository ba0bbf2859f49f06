"""Mistakes in the machine code of the CPU's kernels: are all of them found before a network is trained with them?

Each is planted into the text that is compiled: a wrong sign, a term that is left out, an element too few, a setting
that is ignored. The machine's own compiler makes a library of it, and the comparison that comes before its use has to
say that an operation does not give what NumPy gives.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

from verdict import asked_quick, report

import gpu_backprop as gb
from gpu_backprop.backend.compiled import compiler
from gpu_backprop.backend.compiled import library as cpu_library
from gpu_backprop.backend.compiled import ops as compiled_ops
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.operations_text import OperationsText, Unit, operations_text
from gpu_backprop.backend.compiled.self_test import FILES, compare
from gpu_backprop.network.losses import LOSSES
from gpu_backprop.training.optimizers import RULES

ROWS = {name: f for name, f in gb.ACTIVATIONS.items() if f.cuda_value} | {n: loss.formula for n, loss in LOSSES.items()}
ROWS |= {rule.name: rule for rule in RULES}


class Mistake(NamedTuple):
    """What stands in a text, what takes its place, everywhere, and the activation, loss or rule in whose library."""

    right: str
    wrong: str
    row: str = ""

    def planted(self, unit: Unit, dtype: str) -> OperationsText:
        """The text of a unit, with the mistake where it is in that one."""
        made, row = operations_text(unit, dtype), ROWS.get(self.row)
        there = isinstance(unit, str) if row is None else unit == row
        return made._replace(text=made.text.replace(self.right, self.wrong)) if there else made

    def spoilt(self) -> list[str]:
        """The texts that have it."""
        units: list[Unit] = [ROWS[self.row]] if self.row else [*FILES]
        both = [(operations_text(unit, "float32").text, self.planted(unit, "float32").text) for unit in units]
        if not (spoilt := [text for sound, text in both if text != sound]):
            raise SystemExit(f"the text of {self.row or 'all kernels'} no longer has {self.right!r}")
        return spoilt


MISTAKES = {
    # layers
    "a bias with the wrong sign": Mistake("x[i] + bias", "x[i] - bias"),
    "the bias of the first model for all": Mistake("with_bias(r, cols, b + m * b_step", "with_bias(r, cols, b"),
    "a sum that forgets": Mistake("sums[i] += of(first + i)", "sums[i] = of(first + i)"),
    "a sum without the last part": Mistake("for (i64 p = 1; p < parts; p++)", "for (i64 p = 1; p + 1 < parts; p++)"),
    "a ticket that stays": Mistake("*ticket = 0;", ""),
    "a product that is a sum": Mistake("a[i] * b[i]", "a[i] + b[i]"),
    "a bias of the activation that is not kept": Mistake("z[i] = a, y[i]", "y[i]", "tanh"),
    "an activation without its bias": Mistake("F::value(z[i] + bias)", "F::value(z[i])", "relu"),
    "a slope without the gradient": Mistake("grad_y[i] * F::slope(s[i])", "F::slope(s[i])", "sigmoid"),
    # formulas and functions
    "relu: the slope turned round": Mistake("s > A(0) ? A(1) : A(0)", "s > A(0) ? A(0) : A(1)", "relu"),
    "tanh: a coefficient": Mistake("0.133826858f", "0.143826858f", "tanh"),
    "tanh without its limit": Mistake("(fabs(x) > 9.02f) | (fabs(y) > 1.0f)", "false", "tanh"),
    "relu turned round": Mistake("z < A(0)", "z > A(0)", "relu"),
    "relu that swallows NaN": Mistake("z < A(0) ? A(0) : z", "z > A(0) ? z : A(0)", "relu"),
    "leaky_relu: another slope": Mistake("A(0.01) * z", "A(0.1) * z", "leaky_relu"),
    "exp: a coefficient": Mistake("0.1666654348f", "0.1766654348f", "sigmoid"),
    "exp without its upper limit": Mistake("x > 89.0f ? 89.0f : x", "x", "exp"),
    "exp without its lower limit": Mistake("x < -86.9f ? 0.0f : y", "y", "exp"),
    "expm1: the 1 is left out": Mistake("fma(e.half, e.rest, e.half - 0.5f)", "fma(e.half, e.rest, e.half)", "elu"),
    "log1p: what was lost": Mistake("(x - (one - 1.0f)) / one", "1e-3f", "softplus"),
    "log: a coefficient": Mistake("0.3333333135f", "0.3433333135f", "softplus"),
    # losses
    "a loss with its sign turned": Mistake("return y - t", "return t - y", "half_squared_error"),
    "a mean that is a sum": Mistake(": scale) * share", ": scale)", "mean_squared_error"),
    "a gradient that is the loss": Mistake("loss.slope(a", "loss.value(a", "huber"),
    "weights that the loss ignores": Mistake("e[row] *= weights[row];", ";", "squared_error"),
    "weights that the gradient ignores": Mistake("+ c] *= weights[row]", "+ c]", "absolute_error"),
    "the target of the first row for all": Mistake("smooth.of(t[i])", "smooth.of(t[0])", "poisson"),
    "smoothing of nothing": Mistake("even(share / real(cols))", "even(share)"),
    "a label that is ignored": Mistake("v[targets.clamped(row + k) * LANES + k] -=", "v[k] -="),
    "a bad label that goes unnoticed": Mistake('e[row] = real(__builtin_nan(""));', ";"),
    "a bad label with a gradient": Mistake("grad[row * targets.cols + c] = real(0.0)", ";"),
    "softmax without its largest": Mistake("below = v[i + k] - top[k]", "below = v[i + k]"),
    "softmax: wrong answers that count": Mistake("right += place[k] ==", "right += place[k] !="),
    "scales that are ignored": Mistake("scale * real(scales[m]) : scale", "scale : scale"),
    "the numbers of the first model for all": Mistake("own = numbers + m * count", "own = numbers", "huber"),
    "the smoothing of the first model for all": Mistake("numbers[m * count])", "numbers[0])"),
    "sigmoid: the target added": Mistake("u, real(1.0)) * q - t", "u, real(1.0)) * q + t"),
    "sigmoid: the loss without a term": Mistake("- a * t + log1p(u)", "+ log1p(u)"),
    "sides that are all right": Mistake("right += wrong == 0", "right += 1"),
    "a total that forgets": Mistake("total[m * 3 + LOSS] +=", "total[m * 3 + LOSS] ="),
    "a row without its last output": Mistake("for (; i < n; i++) sum += v[i];", "for (; i + 1 < n; i++) sum += v[i];"),
    "many outputs: a label that is ignored": Mistake("to[label] -=", "to[0] -="),
    "many outputs: the last of the largest": Mistake("from[k] + k < place", "from[k] + k > place"),
    "many outputs: a place without its lane": Mistake("place = from[k] + k, best", "place = from[k], best"),
    "softmax that does not add up to 1": Mistake("row.v[c] * share; }", "row.v[c]; }"),
    "softmax: a bias that is not kept": Mistake("if (store_z && b) row.store", "if (false) row.store"),
    "softmax side by side that does not add up to 1": Mistake("share[k] = real(1) / share[k];", ""),
    "softmax side by side: a bias that is not kept": Mistake("if (store_z) v.store(z);", ""),
    "softmax side by side: a sum that leaves one out": Mistake("= half; c < least", "= half + 1; c < least"),
    "softmax: a gradient without its product": Mistake("(g[c] - dot)", "g[c]"),
    "focal: what is right already counts": Mistake("exp(gamma *", "exp(real(0) *"),
    "focal: a slope without its second term": Mistake("real(1) + gamma * ratio", "real(1)"),
    "focal: a wrong answer that counts": Mistake("right += place == targets", "right += place != targets"),
    "residuals that cancel": Mistake("(d < real(0) ? -d : d)", "d"),
    "residuals: squares without weights": Mistake("double(d * d * w)", "double(d * d)"),
    # optimizers
    "uphill": Mistake("change = rate * g", "change = -rate * g", "sgd"),
    "a momentum that is skipped": Mistake("velocity = mu * velocity + g", "velocity = g", "momentum"),
    "no look ahead": Mistake("rate * (mu * velocity + g)", "rate * velocity", "nesterov"),
    "rmsprop without its rest": Mistake("C(1.0 - decay)", "1", "rmsprop"),
    "adagrad without epsilon": Mistake("(sqrt(v) + eps)", "sqrt(v)", "adagrad"),
    "adamw without decay": Mistake("rule.weight_keep * w", "w", "adamw"),
    "adam without the correction of its mean": Mistake("/ correction(C(1.0 - beta1), step)", "", "adam"),
    "adam with one beta": Mistake("b2 = A(C(beta2))", "b2 = A(C(beta1))", "adam"),
    "adam without epsilon": Mistake("(sqrt(v) + eps)", "sqrt(v)", "adam"),
    "gradients that are not scaled": Mistake("factor * g[i]", "g[i]", "adam"),
    "a step that is not skipped": Mistake("gradient_factor[m] == 0", "false", "momentum"),
    "a step that is not skipped and counts": Mistake("counted[model] == 0", "false"),
    "a group that is not frozen": Mistake("if (group.rate == real(0.0)) continue;", "", "rmsprop"),
    "the decay of another group": Mistake("groups[blocks + block]", "groups[blocks]", "adamw"),
    "the second moment in place of the first": Mistake("moments[m * apart + i] =", "moments[i] =", "adam"),
    "a step that counts twice": Mistake("step[model * step_step] += 1", "step[model * step_step] += 2"),
    "squares without the last": Mistake("for (; i < count; i++) rest +=", "for (; i + 1 < count; i++) rest +="),
    "squares of one block": Mistake("for (i64 l = 0; l < blocks; l++) sum +=", "for (i64 l = 0; l < 1; l++) sum +="),
    # minibatches, products, and how all of it is run
    "a cursor that is ignored": Mistake("cursor[0] + k, samples", "k, samples"),
    "the first sample for a bad place": Mistake("order[place] : samples - 1", "order[place] : 0"),
    "a converted sample of another row": Mistake("source + sample * sample_bytes", "source + sample"),
    "bytes that are not swapped": Mistake("swapped ? size - 1 - b : b", "b"),
    "half precision without its small numbers": Mistake("size < 0x0400u ? small", "false ? small"),
    "a counter that goes by ones": Mistake("counter_step] += by", "counter_step] += 1"),
    "a copy without its last byte": Mistake("u64(r.end - r.begin)", "u64(r.end - r.begin - 1)"),
    "a product without its last term": Mistake("for (; k > 0; k--)", "for (; k > 1; k--)"),
    "a sum that begins anew": Mistake("if (!begins)", "if (false)"),
    "a row that no tile has": Mistake("if (m > 0) multiply_panel", "if (m > 1) multiply_panel"),
    "a lane that is left out": Mistake("l < int(lanes)", "l + 1 < int(lanes)"),
    "a block of the first rows": Mistake("block + r * length", "block"),
    "columns that are transposed twice": Mistake("BP_SHUFFLE(a, c, 2, 3, 6, 7)", "BP_SHUFFLE(a, c, 0, 1, 4, 5)"),
    "rows that are not transposed": Mistake("row + rows - 4, from", "row, from"),
    "the first matrix for all models": Mistake("a += a_step, b += b_step, c", "a += a_step, c"),
    "a thread that does nothing": Mistake("me < call->parts", "me + 1 < call->parts"),
    "a part that nobody does": Mistake("part < call->parts; part++", "part + 1 < call->parts; part++"),
}  # fmt: skip

FEW = (
    "a bias of the activation that is not kept", "tanh: a coefficient", "relu that swallows NaN",
    "weights that the loss ignores", "a momentum that is skipped",
)  # fmt: skip
"""What --quick does."""


def found(made_by: compiler.Compiler, mistake: Mistake) -> str:
    """What the comparison with NumPy says of a library with a mistake."""
    row = ROWS[mistake.row] if mistake.row else None
    with mock.patch.object(cpu_library, "operations_text", mistake.planted):
        device = CpuDevice("", cpu_library.CpuLibrary(made_by, 2), compiled_ops)
        try:
            compare(device, row)
        except gb.DeviceError as error:
            return str(error)
    return ""


def missed(made_by: compiler.Compiler, names: list[str]) -> Iterator[str]:
    """The mistakes that are not found."""
    made_by.load([text for name in names for text in MISTAKES[name].spoilt()])  # several at once
    for name in names:
        if not found(made_by, MISTAKES[name]):
            yield name


def main() -> int:
    names = list(FEW if asked_quick(__doc__) else MISTAKES)
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, XDG_CACHE_HOME=cache):
        try:
            made_by = compiler.find()
        except compiler.NoCompilerError as error:
            return report(f"no mistakes planted, since {error}", [])
        device = CpuDevice("", cpu_library.CpuLibrary(made_by, 2), compiled_ops)
        compare(device)  # which finds nothing where nothing is planted
        failures = list(missed(made_by, names))
        return report(f"{len(names)} miscompilations: {len(names) - len(failures)} found before use", failures)


if __name__ == "__main__":
    sys.exit(main())
