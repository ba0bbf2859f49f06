"""Compile every kernel for every architecture with NVRTC, which needs no GPU, and tell what each takes of one.

    python bench/kernels.py                 every instance for every architecture; some minutes on two cores
    python bench/kernels.py --arch sm_70    for one architecture (V100: with CUDA 12, as CUDA 13 no longer knows it)
    python bench/kernels.py --quick         a few seconds that only show that it runs; writes no results

Needed: CuPy, ml_dtypes, NVRTC and the CUDA headers, all of them from PyPI; neither driver nor toolkit. Text and options
are those of a launch, CuPy's own among them, and machine code comes of it. What ptxas says of each instance goes into
bench/results/kernels.json: for each CUDA version, architecture, kernel and dtype the most registers and shared memory,
and the lowest bound of the occupancy, over all activations, losses, update rules, vector widths and other types. An
instance that spills, uses a stack or takes more than 128 registers is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import record
from lib.kernel_instances import instances, text_of

from gpu_backprop.backend.cuda.kernel_instance import Instance
from gpu_backprop.backend.cuda.kernel_library import OPTIONS
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import RULES

RESULTS = Path(__file__).parent / "results" / "kernels.json"
PROCESSES = 2
OLDEST = 70
"""The oldest architecture that is looked at, 10 × its compute capability."""

REGISTERS = 128
"""The most that an instance may take: of blocks of 256 threads, two then fit on any multiprocessor."""

THREADS, WARP = 256, 32
REGISTER_FILE = 65_536


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor holds at most: warps, blocks, KiB of shared memory."""

    warps: int
    blocks: int
    shared: int


SOURCE = "CUDA Programming Guide, Compute Capabilities; the units in which they are given out: cuda_occupancy.h"
LIMITS = {
    70: Limits(64, 32, 96),  # as in the guide of CUDA 12
    75: Limits(32, 16, 64),
    80: Limits(64, 32, 164),
    86: Limits(48, 16, 100),
    87: Limits(48, 16, 164),
    89: Limits(48, 24, 100),
    90: Limits(64, 32, 228),
    100: Limits(64, 32, 228),
    103: Limits(64, 32, 228),
    110: Limits(48, 24, 228),
    120: Limits(48, 24, 100),
    121: Limits(48, 24, 100),
}
"""By architecture. One that the guide does not list (8.8, 10.7) is not here, and gets no occupancy."""

ENTRY = re.compile(
    r"Compiling entry function '(?P<mangled>\S+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stored>\d+) bytes spill stores, (?P<loaded>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What one instance takes on one architecture."""

    kernel: str
    dtype: str
    instance: str
    architecture: int
    registers: int  # of a thread
    shared: int  # bytes of a block
    stack: int  # bytes of a thread
    spilled: int  # bytes

    @property
    def occupancy(self) -> float | None:
        """The share of a multiprocessor's warps that can be resident at once; None where its limits are not known."""
        limits = LIMITS.get(self.architecture)
        return None if limits is None else occupancy(limits, self.architecture, self.registers, self.shared)

    @property
    def fault(self) -> str:
        """Says what is wrong with it, or ""."""
        faults = {
            f"spills {self.spilled} bytes": self.spilled > 0,
            f"uses {self.stack} bytes of stack": self.stack > 0,
            f"takes {self.registers} registers, more than {REGISTERS}": self.registers > REGISTERS,
        }
        return ", ".join(fault for fault, found in faults.items() if found)


def occupancy(limits: Limits, architecture: int, registers: int, shared: int) -> float:
    """The bound for blocks of 256 threads, reckoned as cuda_occupancy.h does, which lies beside cuda_fp16.h.

    Each quarter of a multiprocessor gives registers to whole warps, 256 at a time. Shared memory is given to blocks,
    128 bytes at a time, before 8.0 it was 256; from 8.0 on the system takes 1 KiB a block for itself.
    """
    warps = THREADS // WARP
    of_warp = rounded_up(registers * WARP, 256)
    of_block = rounded_up(shared + 1024, 128) if architecture >= 80 else rounded_up(shared, 256)
    blocks = min(
        limits.blocks,
        limits.warps // warps,
        REGISTER_FILE // 4 // of_warp * 4 // warps,
        limits.shared * 1024 // max(of_block, 1),
    )
    return blocks * warps / limits.warps


def rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def every(quick: bool = False) -> Iterator[Instance]:
    """Every instance, or just enough of them to meet every kernel, every formula in each, every dtype and width."""
    met: set[object] = set()
    for made in instances(ACTIVATIONS.values(), FORMULAS, RULES):
        name = made.kernel.name
        new = {name, *((name, formula) for formula in made.functors), *map(str, made.arguments)} - met
        if new or not quick:
            met |= new
            yield made


def nvrtc() -> tuple[str, list[int]]:
    """The version of the installed NVRTC, and the architectures that it compiles for.

    Raises:
        ImportError: CuPy, or a library that it needs, is not installed.
    """
    import ml_dtypes  # noqa: F401  before CuPy, which otherwise does not learn of bfloat16
    from cupy_backends.cuda.libs import nvrtc

    found = [architecture for architecture in nvrtc.getSupportedArchs() if architecture >= OLDEST]
    return ".".join(map(str, nvrtc.getVersion())), found


def usages(made: Sequence[Instance], architecture: int, text: str = "") -> Iterator[Usage]:
    """Compiles instances of one file together, and gives what each takes; `text` is theirs unless another is given.

    Raises:
        RuntimeError: the CUDA headers are missing, or ptxas does not speak of an instance.
    """
    log, mangled = compiled(text or text_of(made), [m.name for m in made], architecture)
    entries = {entry["mangled"]: entry for entry in ENTRY.finditer(log)}
    for instance in made:
        entry = entries.get(mangled[instance.name])
        if entry is None:
            raise RuntimeError(f"the log of NVRTC does not tell what {instance.name} takes")
        stored = next((name for name in "TAI" if name in instance.chosen), "double")  # of a kernel that is no template
        yield Usage(
            instance.kernel.name, instance.dtype(stored).name, instance.name, architecture, int(entry["registers"]),
            int(entry["shared"] or 0), int(entry["stack"]), int(entry["stored"]) + int(entry["loaded"]),
        )  # fmt: skip


def compiled(text: str, names: Sequence[str], architecture: int) -> tuple[str, dict[str, str]]:
    """Machine code is made as CuPy makes it for a launch, which itself would ask the device for its architecture.
    Returns the log, with what ptxas has to say, and the mangled names.
    """
    from cupy._core.core import assemble_cupy_compiler_options
    from cupy.cuda.compiler import _NVRTCProgram

    program = _NVRTCProgram(text, "kernels.cu", name_expressions=tuple(names), method="cubin")
    last = "-ftz=true", f"-arch=sm_{architecture}", "--device-as-default-execution-space", "--ptxas-options=-v"
    log = io.StringIO()
    _, mangled = program.compile(assemble_cupy_compiler_options(OPTIONS) + last, log)
    return log.getvalue(), mangled


def usages_of_file(file: str, architecture: int, quick: bool) -> list[Usage]:
    """One job of a process: instances hold formulas, which cannot be sent to another one."""
    return list(usages([made for made in every(quick) if made.kernel.file == file], architecture))


def measure(architectures: Sequence[int], quick: bool = False, processes: int = PROCESSES) -> Iterator[list[Usage]]:
    """Measures every instance, an architecture at a time."""
    files = sorted({made.kernel.file for made in every(quick)})
    context = multiprocessing.get_context("spawn")  # a library that is loaded already may not survive a fork
    with ProcessPoolExecutor(processes, context) as pool:
        jobs = {a: [pool.submit(usages_of_file, file, a, quick) for file in files] for a in architectures}
        for of_architecture in jobs.values():
            yield [usage for job in of_architecture for usage in job.result()]


def summary(found: Sequence[Usage]) -> dict[str, dict[str, Any]]:
    """By kernel and dtype: the most that any instance takes, and which one takes the most registers."""
    groups: dict[str, dict[str, list[Usage]]] = defaultdict(lambda: defaultdict(list))
    for usage in found:
        groups[usage.kernel][usage.dtype].append(usage)
    return {kernel: {dtype: most(group) for dtype, group in by.items()} for kernel, by in groups.items()}


def most(group: Sequence[Usage]) -> dict[str, Any]:
    worst = max(group, key=lambda usage: usage.registers)
    bounds = [usage.occupancy for usage in group if usage.occupancy is not None]
    return {
        "instances": len(group),
        "registers": worst.registers,
        "of": worst.instance,
        "shared": max(usage.shared for usage in group),
        "occupancy": round(min(bounds), 3) if bounds else None,
    }


def table(found: Sequence[Usage]) -> str:
    """A line a kernel, its dtypes together."""
    lines = [f"{'kernel':22} instances  registers  shared  occupancy  most registers in"]
    for kernel, by in summary([Usage(**{**vars(usage), "dtype": ""}) for usage in found]).items():
        row = by[""]
        bound = "-" if row["occupancy"] is None else f"{row['occupancy']:.0%}"
        lines.append(
            f"{kernel:22} {row['instances']:9} {row['registers']:10} {row['shared']:7} {bound:>10}  {row['of']}"
        )
    return "\n".join(lines)


def write(results: dict[str, Any], version: str, seconds: float) -> None:
    """Writes bench/results/kernels.json; the records of other CUDA versions and architectures stay."""
    try:
        before = json.loads(RESULTS.read_text(encoding="utf-8"))["cuda"]
    except FileNotFoundError:
        before = {}
    cuda = version.partition(".")[0]
    before[cuda] = dict(sorted({**before.get(cuda, {}), **results}.items(), key=lambda item: int(item[0][3:])))
    measured = {
        "registers": f"of a thread, at most {REGISTERS}; no instance spills or uses a stack",
        "shared": "bytes of a block",
        "occupancy": f"bound for blocks of {THREADS} threads, null where the limits are not published; {SOURCE}",
        "of": "the instance with the most registers",
        "cuda": dict(sorted(before.items())),
    }
    record.write(RESULTS, "python bench/kernels.py", seconds, measured)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the kernels take of a GPU, by NVRTC and without a GPU.")
    parser.add_argument("--arch", metavar="sm_XY", action="append", help="one architecture; may be given several times")
    parser.add_argument("--quick", action="store_true", help="a sample for one architecture; writes no results")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        version, known = nvrtc()
    except (ImportError, RuntimeError) as error:
        print(f"kernels.py: CuPy, ml_dtypes and NVRTC are needed: {error}", file=sys.stderr)
        return 2
    names = [f"sm_{architecture}" for architecture in known]
    unknown = sorted(set(options.arch or ()) - set(names))
    if unknown:
        print(f"kernels.py: NVRTC {version} knows {', '.join(names)}, not {', '.join(unknown)}", file=sys.stderr)
        return 2
    chosen = [int(name[3:]) for name in options.arch or (["sm_90"] if options.quick else names)]
    results, faults = {}, []
    for architecture, found in zip(chosen, measure(chosen, options.quick), strict=True):
        print(f"\nsm_{architecture}, NVRTC {version}: {len(found)} instances\n{table(found)}", flush=True)
        faults += [f"{usage.instance} on sm_{architecture} {usage.fault}" for usage in found if usage.fault]
        results[f"sm_{architecture}"] = {"nvrtc": version, "instances": len(found), "kernels": summary(found)}
    print("\n" + ("\n".join(faults) or f"No instance spills, uses a stack or takes more than {REGISTERS} registers."))
    if options.quick:
        print("--quick: a sample; nothing was written.")
    elif not faults:
        write(results, version, time.perf_counter() - started)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
