"""The kernels on aarch64, emulated: a cross compiler and qemu-user run them against sums and functions in double."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import gpu_backprop as gb
from gpu_backprop.backend.compiled.compiler import OPTIONS
from gpu_backprop.backend.compiled.operations_text import operations_text

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CLOSE = {"float32": 1e-5, "float64": 1e-13}

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"{COMPILER} and {EMULATOR} are not there (Debian: g++-aarch64-linux-gnu, qemu-user)",
)

PRODUCTS = """
int main() {
  static real a[90000], b[90000], c[90000];
  for (int i = 0; i < 90000; i++) a[i] = real((i * 37 % 101 - 50) * 0.01), b[i] = real((i * 53 % 97 - 48) * 0.01);
  const i64 shapes[][3] = {{37, 19, 5}, {45, 270, 300}, {1, 1, 1}, {3, 33, 40},
                           {128, 64, 64}, {7, 3, 9}, {1, 100, 300}, {300, 17, 1}};
  double worst = 0;
  for (auto& shape : shapes)
    for (int form = 0; form < 8; form++) {
      const i64 m = shape[0], n = shape[1], k = shape[2], ta = form & 1, tb = form >> 1 & 1, parts = form & 4 ? 3 : 1;
      for (real& number : c) number = -99;
      for (i64 part = 0; part < parts; part++) matmul(a, b, c, 0, 0, 0, 1, m, n, k, ta, tb, 1, part, parts);
      for (i64 i = 0; i < m; i++)
        for (i64 j = 0; j < n; j++) {
          double sum = -double(c[i * n + j]);
          for (i64 l = 0; l < k; l++)
            sum += double(ta ? a[l * m + i] : a[i * k + l]) * double(tb ? b[j * k + l] : b[l * n + j]);
          worst = __builtin_fmax(worst, __builtin_fabs(sum));
        }
    }
  return __builtin_printf("%g", worst) < 0;
}
"""

ACTIVATION = """
int main() {
  static real z[40000], y[40000];
  for (int i = 0; i < 40000; i++) z[i] = real((i - 20000) * 0.0005);
  Slot s[29] = {};
  s[0].pointer = z, s[2].pointer = y, s[4].integer = 1, s[5].integer = 400, s[6].integer = 100;
  for (int part = 0; part < 3; part++) bp_bias_activate(s, part, 3);
  double worst = 0;
  for (int i = 0; i < 40000; i++) {
    const double v = z[i];
    worst = __builtin_fmax(worst, __builtin_fabs(double(y[i]) - (VALUE)));
  }
  return __builtin_printf("%g", worst) < 0;
}
"""

MAIN = {
    "products": PRODUCTS,
    "tanh": ACTIVATION.replace("VALUE", "__builtin_tanh(v)"),
    "gelu": ACTIVATION.replace("VALUE", "0.5 * v * __builtin_erfc(-v * 0.70710678118654752440)"),
    "softplus": ACTIVATION.replace("VALUE", "__builtin_log1p(__builtin_exp(v))"),
}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", MAIN)
def test_the_same_as_in_double(tmp_path, name, dtype):
    text, program = operations_text(gb.ACTIVATIONS.get(name, name), dtype).text, tmp_path / "program"
    (tmp_path / "text.cpp").write_text(text + MAIN[name], encoding="utf-8")
    options = [option for option in OPTIONS if option not in ("-shared", "-fPIC")]
    subprocess.run([COMPILER, *options, "-static", "text.cpp", "-o", program], cwd=tmp_path, check=True)
    done = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < CLOSE[dtype]
