"""The operations of kernels/cpu under AddressSanitizer and UBSan, in a process of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from gpu_backprop.training.optimizers import RULES

pytestmark = pytest.mark.long

PROGRAM = """
import itertools
import os
import numpy as np
from gpu_backprop.backend.compiled import ops as compiled_ops, compiler, program
from gpu_backprop.backend.compiled.device import CpuDevice
from gpu_backprop.backend.compiled.library import CpuLibrary
from gpu_backprop.backend.device import ALIGNMENT
from gpu_backprop.backend.formula import IDENTITY
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import LOSSES, CrossEntropy
from gpu_backprop.training.optimizers import RULES

if os.environ.get("GPU_BACKPROP_PROOF") != "1":  # the sanitizers' checks take three times as long to optimize with -O2
    compiler.OPTIONS = ["-O1" if option == "-O2" else option for option in compiler.OPTIONS]
program.SPLIT_NS = program.PARALLEL_NS = 0
device = CpuDevice("", CpuLibrary(compiler.find(), 3), compiled_ops)
device.empty = lambda shape, dtype="float32": np.empty(shape, dtype)  # nothing behind its end
ran = 0

def a(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)

def run(name, *arguments):
    global ran
    for step in getattr(compiled_ops, name)(device, *arguments):
        assert isinstance(step, program.KernelCall)
        step()
        ran += 1

for models, rows, cols in itertools.product([(), (2,), (3,)], [1, 5, 37], [1, 3, 17, 128, 513]):
    z, y, b, flat = a(*models, rows, cols), a(*models, rows, cols), a(*models, cols), a(*models, cols)
    labels = np.arange(z[..., 0].size).reshape(z.shape[:-1]) % cols
    labels[..., 0] = -5
    total, weights, scales = np.zeros((*models, 3)), abs(a(*models, rows)), np.ones(models)
    run("add_bias", z, b, y)
    run("bias_activate", z, b, ACTIVATIONS["gelu"], y)
    run("bias_activate", z, None, IDENTITY, y)
    run("activation_gradient", z, y, ACTIVATIONS["tanh"], z, flat)
    run("column_sum", z, flat)
    run("multiply", z, y, y)
    run("dropout", z, np.full((*models, 2), 0.5), np.full((*models, 3), 7, np.uint64), y.copy(), y.copy(), 5)
    run("scale_columns", z, b, y)
    run("scale_columns_gradient", z, y, b, y, flat)
    run("scale_columns_gradient", z, y, None, None, flat)
    numbers = (cols + 1) // 2
    weight, bias, wide = a(*models, numbers, 2, 6), a(*models, numbers, 7), a(*models, rows, cols + numbers * 5)
    run("periodic", z, weight, bias, wide)
    run("periodic_gradient", z, weight, bias, wide, weight.copy(), bias.copy())
    run("periodic_gradient_x", z, weight, bias, wide, y)
    smoothed, huber = CrossEntropy(label_smoothing=0.1), LOSSES["huber"]
    cross, binary = (smoothed.formula, smoothed.rows(models)), LOSSES["binary_cross_entropy"].formula
    run("loss_gradient", y, labels, weights, *cross, 1.0, scales, z, total)
    run("loss_gradient", y, y.copy(), None, huber.formula, huber.rows(models), 1.0, None, z, total)
    run("sigmoid_cross_entropy", z, b, y, weights, binary, np.zeros((*models, 1)), 1.0, scales, z, total)
    run("softmax_cross_entropy", z, b, labels, weights, *cross, 1.0, scales, z, total)
    run("softmax_cross_entropy", z, None, y, None, *cross, 1.0, None, z, total)
    focal = LOSSES["focal"]
    run("softmax_focal", z, b, labels, weights, focal.formula, focal.rows(models), 1.0, scales, z, total)
    run("softmax_focal", z, None, y, None, focal.formula, focal.rows(models), 1.0, None, z, total)
    run("residual_sums", z, y, weights, np.zeros((*models, 2, cols)))
    run("bias_activate", z, b, ACTIVATIONS["softmax"], y)
    run("activation_gradient", z, y, ACTIVATIONS["softmax"], z, None)
for models, n in itertools.product([(), (2,), (3,)], [1, 15, 1025, 5000]):
    w, g, blocks = a(*models, n), a(*models, n), -(-4 * n // ALIGNMENT)
    groups = np.resize(np.float32([0, 1, 2]), (3, blocks))
    for rule in RULES:
        hyper = np.full((*models, 1 + len(rule.settings)), 0.5)
        moments = abs(a(len(rule.moments), *models, n)) if rule.moments else None
        run("update", w, g, moments, rule, hyper, None, None, None)
        run("update", w, g, moments, rule, hyper, np.ones(models), groups, None)
    run("sum_of_squares", w, np.zeros(models))
    run("blend", g, np.ones((*models, 2)), np.ones(models), w)
    run("clip_factor", np.ones(models), np.ones(models), np.ones(models), np.zeros(models))
    run("limit_norms", a(*models, 5, n), np.ones(models), np.ones(models), None)
    run("copy", w, g)
    device.shuffle(np.random.default_rng(n), np.empty(n, np.int64))
    order, outs = np.full((*models, 20), 99), [a(*models, 9, n), np.zeros((*models, 9), int), a(*models, 9)]
    order[..., 16] = -1
    run("gather", [a(20, n), np.arange(20), a(20)], order, np.array([15]), outs)
    run("gather", [a(20, n)], order, np.array([15]), outs[:1])
    for kind in "?bhiqefdg":
        run("gather", [a(20, 2 * n)[::-1, ::2].astype(kind)], order, np.array([15]), outs[:1])
        run("gather", [a(20, 2 * n).astype(kind)[::-1, ::2]], order, np.array([15]), outs[:1])
    sums = [np.ones(models) for _ in range(3)]
    run("normalize_weights", a(*models, n), None, *sums, np.ones((*models, 3)))
    run("advance", np.zeros(3, int), 1, None, None, np.zeros(models), np.ones(models))
    for rows in (4, 40):
        run("matmul", a(*models, rows, 5), a(*models, n % 37, 5).swapaxes(-1, -2), a(*models, rows, n % 37))
        run("matmul", a(*models, 5, rows).swapaxes(-1, -2), a(*models, 5, n % 37), a(*models, rows, n % 37))
for models, rows, units, k in itertools.product([(), (2,)], [1, 6, 47], [32, 50, 83, 131], [2, 7, 64, 256]):
    x, weight, z = a(*models, rows, k), a(*models, k, units), a(*models, rows, units)
    run("matmul", x, weight, z)
    run("matmul", x.swapaxes(-1, -2), z, weight)
    run("matmul", z, weight.swapaxes(-1, -2), x)
    run("matmul", x, a(*models, units, k).swapaxes(-1, -2), z)
print("ran", ran)
"""


def test_memory_and_arithmetic_are_in_order(made_by, tmp_path):
    clang_s = f"libclang_rt.asan-{platform.machine()}.so"
    for name in clang_s, "libasan.so":
        asked = [*made_by.command, f"-print-file-name={name}"]
        library = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if os.path.isabs(library):
            break
    else:
        pytest.skip("there is no AddressSanitizer")
    sanitized = f"{' '.join(made_by.command)} -fsanitize=address,undefined -fno-sanitize-recover=all"
    sanitized += " -shared-libasan" * (name == clang_s)
    environment = {
        **os.environ, "GPU_BACKPROP_COMPILER": sanitized, "XDG_CACHE_HOME": str(tmp_path), "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"ran {9 * 5 * 23 + 12 * (2 * len(RULES) + 35) + 96 * 4}\n", done.stderr[-3000:]
