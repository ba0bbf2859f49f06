"""The same training by others, for bench/compare.py and bench/gpu_check.py, and by gpu_backprop itself, `Ours`.

Each library does as its own documentation advises for speed. Its file needs NumPy and the library, and nothing of this
project; ours.py alone needs that. A library is imported when its class is asked for.
"""

from __future__ import annotations

from importlib import import_module

from comparison.peers.task import Missing, Peer, Task

OURS, NUMPY_ALONE = "gpu_backprop", "gpu_backprop, NumPy alone"
OUR_OWN = OURS, NUMPY_ALONE

CLASSES = {
    OURS: ("ours", "Ours"),
    NUMPY_ALONE: ("ours", "Ours"),
    "PyTorch, eager": ("pytorch", "TorchEager"),
    "PyTorch, torch.compile": ("pytorch", "TorchCompiled"),
    "PyTorch, CUDA graph": ("pytorch", "TorchGraph"),
    "JAX, jitted step": ("in_jax", "JaxStep"),
    "JAX, epoch in lax.scan": ("in_jax", "JaxScan"),
    "scikit-learn, partial_fit": ("scikit", "ScikitLearn"),
    "Keras, model.fit": ("in_keras", "KerasFit"),
    "MLX, compiled step": ("in_mlx", "MlxStep"),
    "onnxruntime": ("in_onnxruntime", "OnnxRuntime"),
}
"""By the name, the module of this package that has its class, and the class."""

POPULATIONS = {
    "Population": ("populations", "Population"),
    "our solo loop": ("populations", "SoloLoop"),
    "PyTorch, vmap": ("stacked_pytorch", "TorchVmap"),
    "JAX, vmap and lax.scan": ("stacked_jax", "JaxVmap"),
}
"""The same of those that train many networks at once, for bench/population.py."""

PEERS = tuple(name for name in CLASSES if name not in OUR_OWN)
ON_CUDA = tuple(name for name in PEERS if name.startswith(("PyTorch", "JAX")))
ON_CPU = tuple(name for name in PEERS if "CUDA" not in name)


def load(name: str, task: Task) -> Peer:
    """Gives the one of that name, ready to train.

    Raises:
        Missing: what it needs is not here.
    """
    module, cls = {**CLASSES, **POPULATIONS}[name]
    try:
        found: type[Peer] = getattr(import_module(f"comparison.peers.{module}"), cls)
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed") from None
    return found(task)


__all__ = [
    "CLASSES", "NUMPY_ALONE", "ON_CPU", "ON_CUDA", "OURS", "OUR_OWN", "PEERS", "POPULATIONS", "Missing", "Peer", "Task",
    "load",
]  # fmt: skip
