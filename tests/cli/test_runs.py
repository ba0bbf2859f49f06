"""The folder of a run: what replaces an older one and when, and where a run goes that can't be written there."""

from __future__ import annotations

import csv
import os
import shutil
import stat
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend import whole_file
from gpu_backprop.cli import main
from gpu_backprop.commands import runs, train
from gpu_backprop.training.row_logs import CsvLog
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.step import TrainingStep

POSIX = pytest.mark.skipif(os.name == "nt", reason="links and permissions of POSIX")
MODEL, HISTORY = Path("run/model.safetensors"), Path("run/history.csv")


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own to write in, and another for temporary files. Curves are not drawn,
    which takes longer than all else."""
    monkeypatch.setattr(gb.History, "plot", lambda history, path: path.write_bytes(b"curves"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def short(*options: str) -> int:
    return main(["train", "--epochs", "2", "--layers", "16", "--out", "run", "--quiet", *options])


def contents(folder: str | Path = "run") -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def epochs(path: str | Path = HISTORY) -> int:
    with open(path, newline="") as file:
        return len(list(csv.DictReader(file)))


@pytest.fixture
def older() -> dict[str, bytes]:
    """The files of a run that is there."""
    assert short() == 0
    return contents()


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace(os.sep, "/")


def raising(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class TestOverwrite:
    def test_the_older_run_is_there_while_the_new_one_trains(self, older, monkeypatch):
        seen = []

        def write(log: CsvLog, original=CsvLog.write) -> None:
            original(log)
            new = contents(Path("run") / runs.NEW)
            seen.append((new[HISTORY.name].count(b"\n"), {k: v for k, v in contents().items() if "/" not in k}))

        monkeypatch.setattr(CsvLog, "write", write)
        assert short("--overwrite", "--epochs", "3", "--seed", "5") == 0
        assert seen == [(2, older), (3, older), (4, older)]
        assert gb.load(MODEL).seed == 5
        assert epochs() == 3
        assert set(contents()) == set(older)

    def test_a_run_that_diverges_is_put_beside_it(self, older, capsys):
        assert short("--overwrite", "--learning-rate", "1e30") == 1
        assert "The last finite parameters are in run/diverged-001/model.safetensors." in error(capsys)
        assert {name: data for name, data in contents().items() if "/" not in name} == older
        assert np.isfinite(gb.load("run/diverged-001/model.safetensors").parameters).all()
        assert short("--overwrite", "--learning-rate", "1e30") == 1
        assert sorted(os.listdir("run")) == sorted([*older, "diverged-001", "diverged-002"])

    def test_a_run_that_fails_is_put_beside_it(self, older, capsys, monkeypatch):
        monkeypatch.setattr(CsvLog, "write", raising(MemoryError()))
        assert short("--overwrite") == 1
        assert "what was learned until then is in run/unfinished-001/model.safetensors" in error(capsys)
        assert {name: data for name, data in contents().items() if "/" not in name} == older

    @pytest.mark.parametrize("step", ["_introduce", "build"])
    def test_a_run_that_does_not_begin_leaves_nothing(self, older, monkeypatch, step):
        where = train if hasattr(train, step) else TrainingStep
        monkeypatch.setattr(where, step, raising(gb.InputError("no")))
        assert main(["train", "--out", "run", "--overwrite"]) == 1
        assert contents() == older
        assert not (Path("run") / runs.NEW).exists()

    @pytest.mark.parametrize("call", range(1, 10))
    def test_killed_while_it_takes_the_place_of_the_older_one(self, older, monkeypatch, call):
        """The older model is whole, or the new one, never beside the other's history; and the new one is not lost."""

        class Killed(BaseException):
            pass

        left = call

        def counted(original):
            def called(*args, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    raise Killed
                return original(*args, **options)

            return called

        def replace(folder: Path, original=runs._replace) -> None:
            with pytest.MonkeyPatch.context() as patch:
                for name in ("replace", "unlink", "rmdir"):
                    patch.setattr(os, name, counted(getattr(os, name)))
                original(folder)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(runs, "_replace", replace)
            short("--overwrite", "--seed", "5", "--epochs", "3")
        new = Path("run") / runs.NEW
        if gb.load(MODEL).seed == 5:
            assert epochs(HISTORY if HISTORY.exists() else new / HISTORY.name) == 3
        else:
            assert MODEL.read_bytes() == older[MODEL.name]
            assert not HISTORY.exists() or HISTORY.read_bytes() == older[HISTORY.name]
            assert gb.load(new / MODEL.name).seed == 5 and epochs(new / HISTORY.name) == 3
        assert short("--overwrite", "--learning-rate", "1e30") == 1
        assert gb.load(MODEL).seed == 5  # the complete one, which this one does not replace

    @POSIX
    def test_what_a_killed_process_left_is_removed(self, older):
        name = f".{whole_file._machine()}-999999999-{'0' * 16}.partial"
        (Path("run") / name).touch()
        assert short("--overwrite") == 0
        assert set(contents()) == set(older)

    @POSIX
    def test_permissions_stay(self, older):
        for name in older:
            (Path("run") / name).chmod(0o640)
        assert short("--overwrite", "--seed", "5") == 0
        assert {stat.S_IMODE(path.stat().st_mode) for path in Path("run").iterdir()} == {0o640}

    @POSIX
    @pytest.mark.parametrize("dangling", [False, True])
    def test_links_are_not_followed_out_of_the_folder(self, older, dangling):
        for name in older:
            outside = Path(f"outside-{name}")
            if not dangling:
                outside.write_bytes(b"precious")
            (Path("run") / name).unlink()
            (Path("run") / name).symlink_to(Path("..") / outside)
        elsewhere = Path("elsewhere")
        elsewhere.mkdir()
        (Path("run") / runs.NEW).symlink_to(elsewhere.resolve())
        assert short() == 1  # it holds a run, as far as one can see
        assert short("--overwrite") == 0
        assert not any(path.is_symlink() for path in Path("run").iterdir())
        assert [path.exists() and path.read_bytes() for path in Path().glob("outside-*")] == [
            b"precious" for path in older if not dangling
        ]
        assert not list(elsewhere.iterdir())


class TestRoom:
    def test_a_disk_that_is_too_small_is_found_before_training(self, capsys, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20))
        monkeypatch.setattr(gb.Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
        assert short("--checkpoint-every", "never") == 1
        assert capsys.readouterr().err == (
            "gpu-backprop: the disk of 'run' has 1.0 MiB free; the network of this run takes 11.6 KiB, "
            "and 8.0 MiB should be free besides, for its history, its curves and what others write; make "
            "room, or choose a folder on another disk with --out\n"
        )
        assert not Path("run").exists()

    def test_room_for_checkpoints_is_counted_too(self, capsys, monkeypatch):
        free = (8 << 20) + 60_000  # room for the network, and two checkpoints, but not for three at once
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, free))
        assert short() == 1
        told = error(capsys)
        assert "takes 11.6 KiB, its checkpoints 63.2 KiB, and" in told
        assert "or choose a folder on another disk with --out, or give --checkpoint-every never" in told
        assert short("--checkpoint-every", "never") == 0

    def test_checkpoints_make_room_for_the_network(self, monkeypatch):
        save = gb.save

        def full(path: Path, *given: object, **options: object) -> None:
            if (path.parent / "checkpoints").exists():
                raise gb.ModelFileError("full") from OSError(28, "No space left on device")
            save(path, *given, **options)

        monkeypatch.setattr(gb, "save", full)
        assert short() == 0
        assert gb.load(MODEL).outputs == 10

    def test_a_first_checkpoint_that_cannot_be_written(self, capsys, monkeypatch):
        full = OSError(28, "No space left on device")
        monkeypatch.setattr("gpu_backprop.training.checkpoints.checkpoint.write_record", raising(full))
        assert short() == 1
        assert error(capsys) == (
            "gpu-backprop: nothing was trained: cannot write checkpoints to 'run/checkpoints': No space left on device "
            "(--checkpoint-every never writes none)\n"
        )
        assert not Path("run").exists()

    def test_a_file_system_that_does_not_tell_is_believed(self, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
        assert short() == 0

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_folder_that_is_gone_is_made_again(self, monkeypatch, overwrite):
        if overwrite:
            short()
        original = CsvLog.__exit__

        def gone(*given: object) -> None:
            original(*given)
            shutil.rmtree("run")

        monkeypatch.setattr(CsvLog, "__exit__", gone)
        assert short(*["--overwrite"] * overwrite) == 0
        assert gb.load(MODEL).outputs == 10
        assert epochs() == 2
        assert not (Path("run") / runs.NEW).exists()

    @pytest.mark.parametrize("diverged", [False, True])
    def test_what_cannot_be_saved_there_is_saved_elsewhere(self, capsys, tmp_path, monkeypatch, diverged):
        original = os.fsync

        def fsync(number: int) -> None:
            if "work" in os.readlink(f"/proc/self/fd/{number}"):
                raise OSError(28, "No space left on device")
            original(number)

        if not os.path.exists("/proc/self/fd"):
            pytest.skip("there is no /proc")
        draw = Shuffling.draw_order  # before it, training has not begun

        def drawn(*given: object) -> object:
            monkeypatch.setattr(os, "fsync", fsync)
            return draw(*given)

        monkeypatch.setattr(Shuffling, "draw_order", drawn)
        with nullcontext() if diverged else pytest.warns(RuntimeWarning, match="history.(csv|jsonl)|checkpoint"):
            assert short(*["--learning-rate", "1e30"] * diverged) == 1
        error = capsys.readouterr().err
        (place,) = tmp_path.glob("gpu-backprop-*")
        assert f"what was learned is in {place}: cannot save the network as run" in error
        assert error.count("\n") == 1
        assert gb.load(place / MODEL.name).outputs == 10
        assert epochs(place / HISTORY.name) == (0 if diverged else 2)

    def test_a_history_that_cannot_be_written_ends_nothing(self, capsys, monkeypatch):
        original = CsvLog.write

        def write(log: CsvLog) -> None:
            log._file.close()
            log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
            original(log)

        if not os.path.exists("/dev/full"):
            pytest.skip("there is no /dev/full")
        monkeypatch.setattr(CsvLog, "write", lambda log: write(log) if len(log.history) == 1 else None)
        with pytest.warns(RuntimeWarning, match="training goes on without it"):
            assert short() == 0
        assert epochs() == 2  # written again, since there is room at the end
        assert gb.load(MODEL).outputs == 10


@POSIX
def test_the_permissions_of_predictions_stay(older):
    assert main(["predict", "run", "digits", "--output", "p.csv"]) == 0
    expected = Path("p.csv").read_bytes()
    os.truncate("p.csv", 0)
    Path("p.csv").chmod(0o600)
    assert main(["predict", "run", "digits", "--output", "p.csv"]) == 0
    assert (Path("p.csv").read_bytes(), stat.S_IMODE(Path("p.csv").stat().st_mode)) == (expected, 0o600)
