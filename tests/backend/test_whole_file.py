"""A file that is written whole or not at all, and what is left where its writer was killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from gpu_backprop.backend import whole_file
from gpu_backprop.backend.whole_file import new_file

POSIX = pytest.mark.skipif(os.name == "nt", reason="permissions and signals of POSIX")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
"""For a process in another folder."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def write(path, data: bytes = b"new") -> None:
    with new_file(path) as file:
        file.write(data)


def test_the_file_is_there_when_it_is_whole(path):
    with new_file(path) as file:
        file.write(b"some")
        assert not path.exists()
    assert path.read_bytes() == b"some"
    assert os.listdir(path.parent) == [path.name]


def test_text_has_the_line_ends_that_it_was_given(path):
    with new_file(path, encoding="utf-8") as file:
        file.write("ä\nb\r\n")
    assert path.read_bytes() == "ä\nb\r\n".encode()


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ZeroDivisionError()])
@pytest.mark.parametrize("where", ["block", "fsync", "replace"])
def test_an_error_leaves_the_older_file(path, monkeypatch, error, where):
    path.write_bytes(b"older")

    def fail(*_):
        raise error

    if where != "block":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(error)), new_file(path) as file:
        file.write(b"new")
        if where == "block":
            fail()
    assert path.read_bytes() == b"older"
    assert os.listdir(path.parent) == [path.name]


def test_it_is_safe_on_the_disk_before_it_has_its_name_and_the_folder_after(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def called(first, *others, original=original, name=name):
            kind = "folder" if name == "fsync" and stat.S_ISDIR(os.fstat(first).st_mode) else "file"
            calls.append((name, kind))
            return original(first, *others)

        monkeypatch.setattr(os, name, called)
    write(path)
    folder = [] if os.name == "nt" else [("fsync", "folder")]
    assert calls == [("fsync", "file"), ("replace", "file"), *folder]


@POSIX
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_permissions_stay_while_it_is_written_too(path, mode):
    path.write_bytes(b"older")
    path.chmod(mode)
    with new_file(path) as file:
        file.write(b"new")
        (partial,) = path.parent.glob("*.partial")
        assert stat.S_IMODE(partial.stat().st_mode) == mode
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


@POSIX
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_those_of_any_other(path, mask):
    before = os.umask(mask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@POSIX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give a file away")
def test_the_owner_stays(path):
    path.write_bytes(b"older")
    os.chown(path, 12345, 23456)
    path.chmod(0o4750)
    write(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o4750)


@POSIX
def test_an_owner_that_may_not_be_kept_is_no_error(path, monkeypatch):
    path.write_bytes(b"older")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    write(path)
    assert path.read_bytes() == b"new"


@POSIX
def test_a_link_stays_and_its_file_is_replaced(path):
    link = path.with_name("link")
    link.symlink_to(path)
    path.write_bytes(b"older")
    path.chmod(0o600)
    write(link)
    assert link.is_symlink()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


@POSIX
def test_what_is_no_file_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe)
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    with pytest.raises(IsADirectoryError):
        write(tmp_path)


@POSIX
@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize(("mode", "encoding"), [("ab", None), ("wb", "utf-8"), ("pipe", None)])
def test_standard_output_is_written_to_wherever_it_leads(path, name, encoding, mode):
    """What a file held stays, and who else writes to it goes on behind."""
    if not os.path.exists(os.path.dirname(name) or "/dev/stdout"):
        pytest.skip(f"there is no {name}")
    path.with_name("link").symlink_to("/dev/stdout")
    program = (
        "import os, sys\nfrom gpu_backprop.backend.whole_file import new_file\nos.write(1, b'before ')\n"
        f"with new_file(sys.argv[1], {encoding!r}) as file:\n    file.write({'new' if encoding else b'new'!r})\n"
        "os.write(1, b' after')"
    )
    command = [sys.executable, "-c", program, name]
    if mode == "pipe":
        written = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=path.parent, env=ENVIRONMENT).stdout
    else:
        path.write_bytes(b"older ")
        with open(path, mode) as output:
            subprocess.run(command, check=True, stdout=output, cwd=path.parent, env=ENVIRONMENT)
        written = path.read_bytes()
    assert written == (b"older " if mode == "ab" else b"") + b"before new after"
    assert {entry.name for entry in path.parent.iterdir()} <= {"file", "link"}


@POSIX
def test_a_link_to_itself_is_replaced(path):
    path.symlink_to("file")
    write(path)
    assert not path.is_symlink() and path.read_bytes() == b"new"


@POSIX
def test_what_a_killed_process_left_is_removed_and_nothing_else(path, monkeypatch):
    program = (
        "import os, signal, sys\nfrom gpu_backprop.backend.whole_file import new_file\n"
        "with new_file(sys.argv[1]) as file:\n    file.write(b'x')\n    file.flush()\n    os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, path], check=False)
    machine = whole_file._machine()
    kept = {
        f".{machine}-{os.getpid()}-{'0' * 16}.partial",  # this process is alive
        f".{machine}-1-{'0' * 16}.partial",  # and so is the first one, to which one may have no access
        f".{'0' * 8}-999999999-{'0' * 16}.partial",  # of another machine: who knows
        ".something.partial",
    }
    for name in kept:
        (path.parent / name).touch()
    old = path.with_name(f".{'1' * 8}-999999999-{'0' * 16}.partial")
    old.touch()
    os.utime(old, (0, 0))
    assert len(os.listdir(path.parent)) == 6
    write(path)
    assert set(os.listdir(path.parent)) == kept | {path.name}


def test_a_folder_that_cannot_be_listed_is_written_in(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    write(path)
    assert path.read_bytes() == b"new"
