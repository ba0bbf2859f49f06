"""Compiles the kernels of `kernels/` and binds their launches.

The texts are in kernel_text, the kernels' heads in signatures, templates and their arguments in kernel_instance, the
checks of a launch in kernel_arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from gpu_backprop.backend.cuda.kernel_arguments import SLOT, Arguments, address, launch_shape
from gpu_backprop.backend.cuda.kernel_instance import VECTOR, Instance, Key, instance
from gpu_backprop.backend.cuda.setup import SHARED_MEMORY
from gpu_backprop.backend.dry_run import refuse
from gpu_backprop.backend.errors import DeviceError, InputError, install
from gpu_backprop.backend.formula import Array, Call
from gpu_backprop.backend.threads import threads

OPTIONS = ("--std=c++17",)
"""Options of the compiler; CuPy adds the device's architecture, its include folders and -ftz=true."""

VARIABLES = 1024
"""Bytes that are kept for the __shared__ variables of a kernel with dynamic shared memory."""


class KernelLibrary:
    """The kernels of CUDA device `index`, compiled when they are first asked for, and launched on `stream`."""

    def __init__(self, cupy: ModuleType, index: int, stream: Any) -> None:
        self.cupy, self.index, self.stream = cupy, index, stream
        self.functions: dict[Key, Any] = {}  # by Instance.key
        self._compiling: dict[Key, Lock] = {}  # one for each, since the compiler works on several at once
        self._lock = Lock()

    @property
    def compiled(self) -> tuple[str, ...]:
        """The names of the instances compiled so far."""
        return tuple(name for name, _ in list(self.functions))

    def launch(
        self, name: str, arguments: Sequence[Any], grid: tuple[int, ...], block: tuple[int, ...], shared: int = 0, /,
        **parameters: Any,
    ) -> Call:  # fmt: skip
        """Binds a launch of kernel `name` with the template's `arguments`: calling it queues the kernel on the stream.

        The call holds on to its arrays, and has the name of the instance as `.kernel`; `.on(stream)` binds the same
        launch to another stream. The device has to be the current one when it is called.

        Args:
            shared: bytes of dynamic shared memory of a block, at most `block_memory`.
            parameters: all that the kernel's head lists, by name, except NAME_step and NAME_stride.

        Raises:
            InputError: an argument does not agree with the kernel's head.
            DeviceError: the kernel cannot be compiled.
        """
        made = instance(name, *arguments)
        where = f"kernel {made.name}"
        grid, block = launch_shape(grid, block, where)
        packed = Arguments(made, grid, parameters, self.cupy.ndarray, self.index)
        function = self._function(made)
        if shared:
            self._allow(function, shared, where)
        places = packed.slots.ctypes.data + SLOT * np.arange(len(packed.slots), dtype=np.uint64)
        # This is what Function.__call__ does after it has inspected every argument again.
        launch = self.cupy.cuda.driver.launchKernel

        def on(stream: Any) -> Call:
            call: Call = partial(launch, function.ptr, *grid, *block, shared, stream.ptr, places.ctypes.data, 0)
            vars(call).update(kernel=made.name, holds=(function, stream, places, packed.slots, packed.arrays))
            return call

        call = on(self.stream)
        vars(call)["on"] = on  # set here: if `on` knew itself, its arrays would live until Python looks for cycles
        return call

    def compile(self, kernels: Iterable[Instance]) -> int:
        """Compiles several instances at once, one on each of the CPU's threads, and returns how many were not compiled
        before. (A module of several would save little: most of the time goes into the instances. It would be compiled
        anew, and not found in CuPy's cache on disk, wherever another one is among them.)

        Raises:
            DeviceError: the first of them that cannot be compiled.
        """
        new = {made.key: made for made in kernels if made.key not in self.functions}
        if new:
            with ThreadPoolExecutor(min(len(new), threads())) as pool:
                for _ in pool.map(self._function, new.values()):  # in order, and on an error the rest is not begun
                    pass
        return len(new)

    @cached_property
    def block_memory(self) -> int:
        """The most bytes of dynamic shared memory that a launch can give a block."""
        return int(self.cupy.cuda.runtime.deviceGetAttribute(SHARED_MEMORY, self.index)) - VARIABLES

    def _allow(self, function: Any, shared: int, where: str) -> None:
        """Raises a function's limit of dynamic shared memory, without which a launch gets at most 48 KB a block."""
        if shared > self.block_memory:
            raise InputError(f"{where}: a block can have {self.block_memory:,} bytes of memory, got {shared:,}.")
        driver = self.cupy.cuda.driver
        most = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        with self._lock, self.cupy.cuda.Device(self.index):
            if driver.funcGetAttribute(most, function.ptr) < shared:
                driver.funcSetAttribute(function.ptr, most, shared)

    @staticmethod
    def width(dtype: Any, cols: int, *arrays: Array | None) -> int:
        """Returns V for a kernel over T = dtype: 16 bytes, where `cols` is a multiple and every array (None aside) and
        each of its models begins at a multiple of V of its own elements; 1 otherwise."""
        width: int = VECTOR // np.dtype(dtype).itemsize
        if cols % width:
            return 1
        for array in arrays:
            if array is None:
                continue
            step = array.strides[0] if array.ndim > 1 and array.shape[0] > 1 and not array.flags.c_contiguous else 0
            if address(array) % (width * array.itemsize) or step % (width * array.itemsize):
                return 1
        return width

    def _function(self, made: Instance) -> Any:
        key = made.key
        if key not in self.functions:
            with self._compiling.setdefault(key, Lock()):
                if key not in self.functions:
                    self.functions[key] = self._compile(made)
        return self.functions[key]

    def _compile(self, made: Instance) -> Any:
        try:
            with self.cupy.cuda.Device(self.index) as device:
                device.use()  # a new thread has no context, which loading needs
                module = self.cupy.RawModule(code=made.text, options=OPTIONS, name_expressions=(made.name,))
                return module.get_function(made.name).kernel
        except Exception as error:  # of CuPy, of NVRTC, of the driver, of the loader of libraries
            raise self._failure(made.name, error) from error

    def _failure(self, name: str, error: Exception) -> DeviceError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if isinstance(error, self.cupy.cuda.compiler.CompileException):
            said = next((line for line in lines if "error" in line), lines[0])
            return DeviceError(f"CUDA kernel {name} does not compile on cuda:{self.index}: {said}")
        if isinstance(error, (self.cupy.cuda.driver.CUDADriverError, self.cupy.cuda.runtime.CUDARuntimeError)):
            return DeviceError(f"CUDA kernel {name} cannot be loaded on cuda:{self.index}: {lines[0]}")
        extra = "cuda12" if self.cupy.cuda.driver.get_build_version() < 13000 else "cuda13"
        return DeviceError(
            f"CUDA kernel {name} cannot be compiled ({' '.join(lines)}). That takes NVRTC and the CUDA headers; "
            f"this CuPy gets them by: {install(extra)}."
        )


class NeededKernels(KernelLibrary):
    """Stands for a library where it is only to be known which kernels something needs.

    Attributes:
        instances: those whose launches were bound.
    """

    def __init__(self, library: KernelLibrary) -> None:
        super().__init__(library.cupy, library.index, library.stream)
        self.instances: dict[Key, Instance] = {}

    def launch(
        self, name: str, arguments: Sequence[Any], grid: tuple[int, ...], block: tuple[int, ...], shared: int = 0, /,
        **parameters: Any,
    ) -> Call:  # fmt: skip
        """Notes the instance, and binds nothing."""
        made = instance(name, *arguments)
        self.instances[made.key] = made
        return refuse
