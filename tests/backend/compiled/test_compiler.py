"""The compiler is found, what it makes is kept, and what is kept is not trusted blindly."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import numpy_ops
from gpu_backprop.backend.compiled import compiler, library_files
from gpu_backprop.backend.compiled import library as cpu_library
from gpu_backprop.backend.compiled import open_device as opening
from gpu_backprop.backend.compiled.compiler import Compiler, NoCompilerError
from gpu_backprop.backend.compiled.operations_text import operations_text
from gpu_backprop.backend.open_device import open_device

TEXT = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def cache(made_by, monkeypatch, tmp_path):
    """An empty folder for what is compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gpu_backprop"


@pytest.fixture
def counted(made_by, caplog):
    """A function that tells how often a compiler has run."""
    caplog.set_level(logging.INFO, "gpu_backprop")
    return lambda: sum("compiling" in record.message for record in caplog.records)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is known of libraries that were opened before."""
    monkeypatch.setattr(opening, "_library", functools.cache(opening._library.__wrapped__))


def load(command, text):
    """One library; raises what is returned in its place."""
    (found,) = Compiler(command).load([text])
    if isinstance(found, Exception):
        raise found
    return found


def compile_again(text=TEXT):
    return load(compiler.find().command, text).path


def script(folder, name, text):
    """A program of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# Finding it -----------------------------------------------------------------------------------------------------------


def test_which_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv(compiler.VARIABLE, raising=False)
    with pytest.raises(NoCompilerError, match="^no C\\+\\+ compiler was found$"):
        compiler.find()
    for name in ("clang++", "g++", "c++", "another", "wrapper"):
        script(tmp_path, name, "")
        compiler._find.cache_clear()
        assert compiler.find().command == (name if name in compiler.COMMANDS else "c++",)
    monkeypatch.setenv("CXX", "another -m64")
    assert compiler.find().command == ("another", "-m64")
    monkeypatch.setenv("CXX", "not-there")
    assert compiler.find().command == ("c++",)
    monkeypatch.setenv(compiler.VARIABLE, "wrapper g++")
    assert compiler.find().command == ("wrapper", "g++")
    monkeypatch.setenv(compiler.VARIABLE, "not-there")
    with pytest.raises(NoCompilerError, match="^GPU_BACKPROP_COMPILER=not-there is not there$"):
        compiler.find()
    monkeypatch.setenv(compiler.VARIABLE, "none")
    with pytest.raises(NoCompilerError, match="^GPU_BACKPROP_COMPILER=none$"):
        compiler.find()


def test_a_command_with_an_open_quotation_mark_is_not_there(monkeypatch, tmp_path):
    script(tmp_path, "c++", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(compiler.VARIABLE, raising=False)
    monkeypatch.setenv("CXX", "c++ 'x")
    assert compiler.find().command == ("c++",)
    monkeypatch.setenv(compiler.VARIABLE, "c++ 'x")
    with pytest.raises(NoCompilerError, match="^GPU_BACKPROP_COMPILER=c\\+\\+ 'x is not there$"):
        compiler.find()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "ppc64"), ("win32", "AMD64"), ("linux", "riscv64")])
def test_elsewhere_nothing_is_compiled(monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv(compiler.VARIABLE, f"c++ {system}")  # one that was not asked for before
    with pytest.raises(NoCompilerError, match=f"kernels are not compiled on .* {machine}"):
        compiler.find()


def test_on_macos_who_names_a_compiler_tries_it(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setenv(compiler.VARIABLE, "")
    monkeypatch.setenv("CXX", f"{sys.executable} macOS")  # one that was not asked for before
    with pytest.raises(NoCompilerError, match="nobody has tried the kernels on macOS"):
        compiler.find()
    monkeypatch.setenv(compiler.VARIABLE, f"{sys.executable} macOS")
    assert "-mcpu=native" in compiler.find()._command(Path("a.cpp"), Path("a.so"))


# What is kept ---------------------------------------------------------------------------------------------------------


def test_a_text_is_compiled_once(cache, counted):
    path = compile_again()
    assert ctypes.CDLL(str(path)).answer() == 42
    assert compile_again() == path and counted() == 1
    assert compile_again(TEXT.replace("42", "43")) != path and counted() == 2
    assert [other.name for other in cache.iterdir() if other.suffix != ".so"] == []
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_another_compiler_is_another_library(cache, counted, tmp_path):
    command = compiler.find().command
    wrapped = script(tmp_path, "wrapper", f'exec {command[0]} "$@"')
    first = load((str(wrapped),), TEXT).path
    assert first != compile_again()
    os.utime(wrapped, (0, 0))
    assert load((str(wrapped),), TEXT).path != first


def replace_file(path, content):
    """Writes a new file: this process has the old one in its memory, and would read there what is written into it."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b + b"x"])
def test_what_is_spoilt_is_compiled_again(cache, counted, spoil):
    path = compile_again()
    whole = path.read_bytes()
    replace_file(path, spoil(whole))
    assert compile_again() == path and path.read_bytes() == whole and counted() == 2


def test_a_link_is_not_followed(cache, counted, tmp_path):
    path = compile_again()
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    assert not compile_again().is_symlink() and counted() == 2


def test_a_folder_that_others_could_write_to_is_closed(cache):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    assert compile_again().parent == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["a link", "a file", "another's"])
def test_a_folder_that_is_not_the_users_own_is_not_used(cache, monkeypatch, tmp_path, kind):
    if kind == "a link":
        (tmp_path / "other").mkdir()
        cache.symlink_to(tmp_path / "other")
    elif kind == "a file":
        cache.write_text("")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        monkeypatch.setattr(library_files, "_whole", lambda *_: None)
    path = compile_again()
    assert cache not in path.parents and tmp_path / "other" not in path.parents
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ctypes.CDLL(str(path)).answer() == 42


def test_a_user_without_a_home_has_a_folder_for_a_while(made_by, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id that no passwd lists
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compile_again().is_absolute() and list(tmp_path.iterdir()) == []


OWN_FOLDER = """
import os, sys
from gpu_backprop.backend.compiled.library_files import _temporary_folder
folder = _temporary_folder()
if os.fork() == 0:
    sys.exit()
os.wait()
print(folder.is_dir(), folder)
"""


def test_the_folder_of_a_process_goes_with_it_and_not_with_its_child(made_by):
    done = subprocess.run([sys.executable, "-c", OWN_FOLDER], capture_output=True, text=True, check=False)
    there, folder = done.stdout.split()
    assert there == "True" and not Path(folder).exists()


def test_what_a_compiler_does_not_take_is_in_a_log(cache):
    with pytest.raises(gb.DeviceError, match=r"fails: .*\.cpp:1:1.* error: ") as told:
        compile_again("nonsense;\n")
    (log,) = cache.iterdir()
    assert str(log) in str(told.value)
    command, *said = log.read_text().splitlines()
    assert command.startswith(compiler.find().command[0]) and any("error" in line for line in said)


def test_a_compiler_that_does_not_end_is_ended_with_all_that_it_started(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "SECONDS", 0.5)
    slow = script(tmp_path, "slow", f"sleep 60 & echo $! >{tmp_path}/pid; echo at it; wait")
    with pytest.raises(gb.DeviceError, match=r"slow fails: it was stopped after 0\.5 s .*\.log"):
        load((str(slow),), TEXT)
    assert "at it" in next(cache.iterdir()).read_text()
    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_ctrl_c_ends_the_compiler(cache, monkeypatch, tmp_path):
    processes = []

    def interrupted(process, timeout=None):
        processes.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load((str(script(tmp_path, "slow", "exec sleep 60")),), TEXT)
    monkeypatch.undo()
    assert processes[0].wait(60) == -signal.SIGKILL and list(cache.iterdir()) == []


# Loading it -----------------------------------------------------------------------------------------------------------


def answer(library):
    return library.functions.answer()


@pytest.mark.parametrize("kind", ["no library", "others may write to it"])
def test_what_cannot_be_loaded_or_trusted_is_compiled_again(cache, counted, kind):
    path = compile_again()
    if kind == "no library":  # as one of another machine, or that needs a later C library
        content = b"not for this one"
        replace_file(path, content + hashlib.sha256(content).digest())
    else:
        path.chmod(0o722)
    assert answer(load(compiler.find().command, TEXT)) == 42 and counted() == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_what_is_loaded_is_what_was_looked_at(cache, monkeypatch):
    """Also where another file takes its place in between."""
    path, other = compile_again(), compile_again(TEXT.replace("42", "43"))
    look = library_files._whole

    def and_exchange(of, own):
        found = look(of, own)
        if of == path:
            other.replace(path)
        return found

    monkeypatch.setattr(library_files, "_whole", and_exchange)
    assert answer(load(compiler.find().command, TEXT)) == 42
    assert ctypes.CDLL(str(path)).answer() == 43


def test_libraries_do_not_take_each_others_names(cache):
    """An open file has the number of one that was closed."""
    assert [answer(load(compiler.find().command, TEXT.replace("42", n))) for n in ("1", "2", "3", "2")] == [1, 2, 3, 2]


def test_processes_that_compile_at_once(cache):
    program = (
        "from gpu_backprop.backend.compiled import compiler\n"
        f"texts = [{TEXT!r} + f'int n = {{k}};' for k in range(3)]\n"
        "print([library.functions.answer() for library in compiler.find().load(texts)])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [b"[42, 42, 42]\n"] * 3
    assert {path.suffix for path in cache.iterdir()} == {".so"} and len(list(cache.iterdir())) == 3


# A device -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_device_says_what_compiled_its_kernels(made_by, monkeypatch, dtype):
    device = open_device("cpu", dtype)
    assert isinstance(device, opening.CpuDevice) and device.dtype == dtype
    version = subprocess.run([*made_by.command, "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    assert device.reason.startswith("as asked; kernels compiled by ")
    assert version.stdout.strip().split("\n")[0] in device.reason
    monkeypatch.setenv(compiler.VARIABLE, "none")
    device = open_device("cpu", dtype)
    assert (device.reason, device.ops) == ("as asked; NumPy alone: GPU_BACKPROP_COMPILER=none", numpy_ops)


def test_a_compiler_that_fails_leaves_it_to_numpy(cache, fresh, monkeypatch, tmp_path):
    monkeypatch.setenv(compiler.VARIABLE, str(script(tmp_path, "broken", "echo an error: no space >&2; exit 3")))
    with pytest.warns(RuntimeWarning, match="kernels for the CPU are not used: .*broken fails: an error: no space"):
        device = open_device("cpu")
    assert device.ops is numpy_ops and "an error: no space" in device.reason
    x = np.ones((3, 2), np.float32)
    assert gb.Network(2, [gb.Dense(1)], device="cpu").predict(x).shape == (3, 1)


def test_where_nothing_can_be_written_it_is_left_to_numpy(made_by, fresh, monkeypatch):
    def nowhere():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(compiler, "folder", nowhere)
    monkeypatch.setenv(compiler.VARIABLE, " ".join((*made_by.command, "-DANOTHER")))  # which has no folder yet
    with pytest.warns(RuntimeWarning, match="not used: .* its output not be stored: no usable temporary directory"):
        assert open_device("cpu").ops is numpy_ops


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("matmul", "{block, 1,", "{block, 2,"), ("advance", "+= by", "+= 2"), ("column_sum", "+= of(first", "= of(first")],
)
def test_kernels_that_are_wrong_are_found_before_they_are_used(cache, fresh, monkeypatch, name, right, wrong):
    plant(monkeypatch, right, wrong)
    with pytest.warns(RuntimeWarning, match=f"not used: {name} does not give what NumPy gives"):
        assert open_device("cpu").ops is numpy_ops


def plant(monkeypatch, right, wrong):
    """A mistake in the texts of all files that are compiled first."""
    sound = {unit: operations_text(unit, "float32") for unit in cpu_library.BASE}
    spoilt = {unit: made._replace(text=made.text.replace(right, wrong)) for unit, made in sound.items()}
    assert spoilt != sound
    monkeypatch.setattr(cpu_library, "operations_text", lambda unit, dtype: spoilt[unit])


FIRST = "static const i64 BLOCK"
"""What stands in each text once, before any constructor that is planted here."""

TRAP = "__attribute__((constructor)) static void trap() { __builtin_trap(); }\n" + FIRST
ENDLESS = '__attribute__((constructor)) static void endless() { for (;;) asm volatile(""); }\n' + FIRST


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        (FIRST, TRAP, r"is ended by SIG(ILL|TRAP)"),
        ("counter[model * counter_step] += by", "__builtin_trap()", r"is ended by SIG(ILL|TRAP)"),
        (FIRST, ENDLESS, "does not come to an end"),
    ],
    ids=["when it is loaded", "in an operation", "never"],
)
def test_a_library_that_ends_the_process_ends_in_numpy(cache, fresh, monkeypatch, right, wrong, told):
    """As one that was compiled for another processor."""
    plant(monkeypatch, right, wrong)
    if wrong is ENDLESS:  # where the compiler has not got so little time
        end = compiler.end

        def soon(process, given=None):
            with monkeypatch.context() as patch:
                patch.setattr(compiler, "SECONDS", 120 if given is None else 1)
                return end(process, given)

        monkeypatch.setattr(compiler, "end", soon)
    with pytest.warns(RuntimeWarning, match=f"not used: a process that tries what was compiled {told}"):
        assert open_device("cpu").ops is numpy_ops
    assert not list(cache.glob("*.so"))


def test_it_is_said_what_is_compiled_and_how_long_that_takes(cache, fresh, caplog):
    caplog.set_level(logging.DEBUG, "gpu_backprop")
    open_device("cpu")
    said, (command,) = ([r.getMessage() for r in caplog.records if r.levelname == level] for level in ("INFO", "DEBUG"))
    assert said[0] == "compiling the CPU's kernels, once; that usually takes a second or two"
    assert re.fullmatch(r"compiled in \d+\.\d s", said[1]) and len(said) == 2 and "-O2" in command


def test_importing_looks_for_no_compiler(made_by):
    program = "import sys, gpu_backprop; sys.exit('gpu_backprop.backend.compiled.compiler' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_process_that_finds_the_kernels_compiled_runs_no_compiler(made_by):
    open_device("cpu")
    program = (
        "import sys, gpu_backprop as gb\n"
        "import subprocess; subprocess.Popen = None\n"
        "net = gb.Network(2, [gb.Dense(1)], device='cpu')\n"
        "sys.exit('kernels compiled by' not in net.device.reason)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_there_are_no_more_threads_than_the_kernels_have_room_for(made_by):
    assert cpu_library.CpuLibrary(made_by, 1000).threads == 255


def test_nothing_is_said_where_all_is_well(made_by):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_device("cpu")
    (library,) = compiler.find().load([operations_text("products", "float32").text])
    assert library.path.is_file()


# What a plan needs ----------------------------------------------------------------------------------------------------


def test_what_a_plan_needs_is_compiled_at_once(cache, fresh, counted):
    """And nothing else, and a fit waits no more often than a step."""
    net = gb.Network(4, [gb.Dense(5, "tanh"), gb.Dense(3, "softmax")], device="cpu", seed=0)
    trainer = gb.Trainer(net, optimizer="adam")
    assert counted() == 1 and len(list(cache.glob("*.so"))) == len(cpu_library.BASE)
    trainer.step(np.ones((6, 4)), np.arange(6) % 3)
    assert counted() == 2
    assert set(net.device.library._units) > {*cpu_library.BASE, "losses"}
    assert len(list(cache.glob("*.so"))) == len(cpu_library.BASE) + len(["losses", "tanh", "adam"])
    trainer.fit(np.ones((6, 4)), np.arange(6) % 3, epochs=2, validation_split=0.5, progress=False)
    assert counted() == 2


def test_both_dtypes_share_the_threads(made_by):
    """What runs programs is one library."""
    of_both = [cpu_library.CpuLibrary(made_by, 2, dtype=dtype) for dtype in ("float32", "float64")]
    assert len({ctypes.cast(library.run, ctypes.c_void_p).value for library in of_both}) == 1


# The folder stays small -----------------------------------------------------------------------------------------------


def test_what_was_used_least_recently_is_thrown_away(cache, monkeypatch):
    paths = [compile_again(TEXT.replace("42", str(k))) for k in range(4)]
    for age, path in enumerate(paths):
        os.utime(path, (1e9 - age, 1e9 - age))
    assert load(compiler.find().command, TEXT.replace("42", "3")).functions.answer() == 3  # the oldest is used
    monkeypatch.setattr(library_files, "LARGEST", 4 * paths[0].stat().st_size)
    assert compile_again() in set(cache.iterdir())
    assert {path for path in paths if path.exists()} == {paths[0], paths[1], paths[3]}


def test_what_belongs_to_no_library_is_thrown_away_when_it_is_old(cache):
    library = compile_again()
    notes = [cache / name for name in ("gone.checked", "gone.log", library.with_suffix(".checked").name, "other.json")]
    for note in notes:
        note.write_text("")
    ended, begun = cache / "compiling-ended", cache / "compiling-begun"
    for folder in ended, begun:
        folder.mkdir()
        (folder / "text.cpp").write_text("")
    for path in (*notes, ended):
        os.utime(path, (1e9, 1e9))
    library_files.prune()
    assert set(cache.iterdir()) == {library, *notes[2:], begun}
    os.utime(library, (1e9, 1e9))
    assert answer(load(compiler.find().command, TEXT)) == 42
