"""Signals that ask the command line to end: what is saved, what is said, and the exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gpu_backprop as gb
from gpu_backprop import starting
from gpu_backprop.cli import main
from gpu_backprop.commands import runs, sources, train
from gpu_backprop.commands.interrupt import Interrupted, StopOnSignal
from gpu_backprop.training.shuffling import Shuffling
from gpu_backprop.training.step import TrainingStep

ENDLESS = "--epochs", "1000000", "--no-early-stopping"
CODES = {number: 128 + number for number in starting.SIGNALS}
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="a signal can't be sent to one process on Windows")
every_signal = pytest.mark.parametrize("number", [pytest.param(number, id=number.name) for number in CODES])


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Every test has an empty folder of its own to write in, and draws no curves, which take longer than all else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gb.History, "plot", lambda history, path: path.write_bytes(b"curves"))


def short(*options: str) -> int:
    return main(["train", "--epochs", "2", "--layers", "16", "--out", "run", "--quiet", *options])


def sent(monkeypatch, where: object, name: str, *numbers: int) -> None:
    """Let signals come when a function is called, before it does anything."""
    original = getattr(where, name)
    left = list(numbers)

    def called(*args, **options):
        while left:
            signal.raise_signal(left.pop(0))
        return original(*args, **options)

    monkeypatch.setattr(where, name, called)


def test_the_exit_codes_are_those_of_a_shell():
    names = {number.name: code for number, code in CODES.items()}
    assert names == {"SIGINT": 130, "SIGTERM": 143} | ({"SIGHUP": 129} if hasattr(signal, "SIGHUP") else {})


class TestTrain:
    @POSIX
    @every_signal
    def test_what_was_learned_is_kept(self, tmp_path, number):
        command = [sys.executable, "-m", "gpu_backprop", "train", "--out", "run", *ENDLESS]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            history = tmp_path / "run" / "history.csv"
            while process.poll() is None and not (history.exists() and history.read_text().count("\n") > 2):
                time.sleep(0.02)
            process.send_signal(number)
            output, errors = process.communicate()
        assert process.returncode == CODES[number], errors
        assert f"{starting.SIGNALS[number]}: finishing this step" in errors
        assert "Traceback" not in errors
        lines = r"^stopped (in|after) epoch \d+, as asked.*\ntest accuracy: 0\.\d{4}\n(test .*\n)+written to run: "
        assert re.search(lines, output, re.MULTILINE)
        assert gb.load("run/model.safetensors").outputs == 10
        assert {"model.safetensors", "history.csv"} <= {path.name for path in (tmp_path / "run").iterdir()}

    @every_signal
    @pytest.mark.parametrize("times", [1, 2, 3, 4])
    def test_however_often_it_comes_while_it_trains(self, monkeypatch, number, times):
        monkeypatch.setattr(train, "_score_held_out", lambda *_: (["judged"], ""))
        sent(monkeypatch, Shuffling, "draw_order", *[number] * times)
        assert short("--epochs", "1000000") == CODES[number]
        assert gb.load("run/model.safetensors").outputs == 10

    def test_a_second_one_leaves_out_the_result_and_the_curves(self, capfd, monkeypatch):
        """However many follow, the last that is said is that nothing interrupts the writing."""
        sent(monkeypatch, Shuffling, "draw_order", signal.SIGINT, signal.SIGINT)
        sent(monkeypatch, runs.RunFolder, "save", *[signal.SIGINT] * 3)
        sent(monkeypatch, runs.RunFolder, "finish", *[signal.SIGINT] * 3)
        assert short("--epochs", "1000000") == 130
        captured = capfd.readouterr()
        assert re.fullmatch(
            r"interrupted in epoch 1.*\nwritten to run: model.safetensors, history.csv, history.jsonl\nto go on: .*\n",
            captured.out,
        )
        said = [line.partition("; ")[0] for line in captured.err.split("\n\n")]
        assert "finishing this step" in said[0] and "ending this step" in said[1]
        assert all("which nothing interrupts" in line for line in said[2:]) and len(said) == 8

    def test_a_second_one_before_the_first_step_leaves_nothing(self, monkeypatch):
        sent(monkeypatch, TrainingStep, "build", signal.SIGTERM, signal.SIGINT)
        assert short() == 143
        assert not Path("run").exists()

    @every_signal
    @pytest.mark.parametrize("place", ["save", "fsync", "replace"])
    def test_a_save_is_not_interrupted(self, capsys, monkeypatch, number, place):
        with monkeypatch.context() as patch:

            def save(*given, original=gb.save, **options):
                sent(patch, os, place, number, number, number)
                return original(*given, **options)

            if place == "save":
                sent(patch, gb, place, number, number, number)
            else:
                patch.setattr(gb, "save", save)
            assert short() == CODES[number]
        expected = gb.load("run/model.safetensors").parameters
        assert short("--overwrite") == 0
        assert (gb.load("run/model.safetensors").parameters == expected).all()
        assert not list(Path("run").glob(".*"))

    def test_the_first_of_several_gives_the_exit_code(self, monkeypatch):
        sent(monkeypatch, gb, "save", signal.SIGTERM, signal.SIGINT)
        assert short() == 143

    @every_signal
    @pytest.mark.parametrize("step", ["_curves", "_score_held_out", "_report"])
    def test_what_comes_after_the_save_is_left_out(self, capsys, monkeypatch, number, step):
        sent(monkeypatch, train, step, number)
        assert short() == CODES[number]
        drawn = ", curves.png" if Path("run/curves.png").exists() else ""
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"written to run: model.safetensors, history.csv, history.jsonl{drawn}"
        assert gb.load("run/model.safetensors").outputs == 10

    @every_signal
    @pytest.mark.parametrize("step", ["load_train_test", "_introduce"])
    def test_before_training_nothing_is_left(self, capsys, monkeypatch, number, step):
        sent(monkeypatch, train, step, number)
        assert main(["train", "--out", "run"]) == CODES[number]
        assert re.fullmatch(r"gpu-backprop: (interrupted|ended by SIG\w+)\n", capsys.readouterr().err)
        assert not Path("run").exists()

    def test_a_reader_that_ends_by_the_same_ctrl_c(self, capsys, monkeypatch):
        def epoch(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr(Shuffling, "draw_order", epoch)
        monkeypatch.setattr(train, "print", epoch, raising=False)
        assert short() == 130
        assert gb.load("run/model.safetensors").outputs == 10

    @POSIX
    def test_a_terminal_that_is_closed(self):
        """Nothing can be printed any more, and the bar is in the middle of it."""
        import pty

        main_end, end = pty.openpty()
        command = [sys.executable, "-m", "gpu_backprop", "train", "--out", "run", *ENDLESS]
        program = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        program += "os.execv(sys.argv[1], sys.argv[1:])"  # so that it is its terminal
        ends = {"stdin": end, "stdout": end, "stderr": end}
        with subprocess.Popen([sys.executable, "-c", program, *command], **ends) as process:
            os.close(end)
            seen = b""
            while b" 1/1000000 " not in seen:
                seen += os.read(main_end, 10_000)
            os.close(main_end)
        assert process.returncode == 129
        assert gb.load("run/model.safetensors").outputs == 10

    @POSIX
    def test_what_is_ignored_stays_ignored(self):
        """As under nohup."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with starting.caught(lambda *_: pytest.fail("called")):
                signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)


class TestStopOnSignal:
    """The handler."""

    class Trainer:
        stopped = 0

        def stop(self) -> None:
            self.stopped += 1

    @every_signal
    def test_first_stops_second_raises_and_then_nothing_does(self, capfd, number):
        trainer, before = self.Trainer(), signal.getsignal(number)
        with StopOnSignal(trainer) as signals:
            assert not signals.code
            signal.raise_signal(number)
            assert (signals.code, trainer.stopped) == (CODES[number], 1)
            assert "once more: without the test result, curves and report\n" in capfd.readouterr().err
            with pytest.raises(Interrupted):
                signal.raise_signal(number)
            assert "ending this step, then writing what was learned; leaving out" in capfd.readouterr().err
            signal.raise_signal(number)
            signals.writing()
            signal.raise_signal(number)
            assert "which nothing interrupts" in capfd.readouterr().err
            signals.written()
            with pytest.raises(Interrupted):
                signal.raise_signal(number)
            assert "what was learned is written; leaving out" in capfd.readouterr().err
            signal.raise_signal(number)
            assert capfd.readouterr().err == ""
            assert trainer.stopped == 1
        assert signal.getsignal(number) is before

    def test_another_thread_leaves_signals_alone(self):
        seen = []

        def work() -> None:
            with StopOnSignal(self.Trainer()):
                seen.append(signal.getsignal(signal.SIGINT))

        before = signal.getsignal(signal.SIGINT)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [before]

    @pytest.mark.parametrize("stream", [None, open(os.devnull)], ids=["none", "closed"])  # noqa: SIM115
    def test_without_standard_error_nothing_is_written_anywhere(self, monkeypatch, stream):
        if stream is not None:
            stream.close()
        monkeypatch.setattr(sys, "__stderr__", stream)
        monkeypatch.setattr(os, "write", lambda *_: pytest.fail("written"))
        with StopOnSignal(self.Trainer()):
            signal.raise_signal(signal.SIGINT)


@every_signal
def test_other_commands_clean_up(capsys, monkeypatch, number):
    assert short() == 0
    before = sorted(os.listdir())
    sent(monkeypatch, gb.Network, "predict", number)
    assert main(["predict", "run", "digits", "--output", "p.csv"]) == CODES[number]
    assert sorted(os.listdir()) == before


def test_ctrl_c_is_no_error_to_debug(monkeypatch):
    sent(monkeypatch, sources, "load_digits", signal.SIGTERM)
    assert short("--debug") == 143


@POSIX
@every_signal
@pytest.mark.parametrize("start", [["-m", "gpu_backprop"], ["gpu-backprop"]], ids=["module", "script"])
def test_while_python_still_imports(tmp_path, number, start):
    """A signal ends the command without a traceback, also before there is a handler of its own."""
    numpy = tmp_path / "numpy.py"  # it stands before the real one
    numpy.write_text(f"import signal; signal.raise_signal({int(number)}); raise SystemExit(77)")
    if start == ["gpu-backprop"]:
        Path("gpu-backprop").write_text("import sys\nfrom gpu_backprop.cli import main\nsys.exit(main())\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *start, "doctor"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (CODES[number], "")


@POSIX
@every_signal
def test_while_python_ends(tmp_path, number):
    """A signal does not change the exit code any more: it is ignored, which Python, as it ends, leaves so."""
    Path("gpu-backprop").write_text(
        "import os, signal, sys\nfrom gpu_backprop.cli import main\ncode = main([])\n"
        f"assert signal.getsignal({int(number)}) is signal.SIG_IGN\n"
        f"os.kill(os.getpid(), {int(number)})\nsys.exit(code)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "gpu-backprop"], env=environment, capture_output=True).returncode == 2


@POSIX
@pytest.mark.parametrize("program", ["import gpu_backprop", "import runpy; runpy.run_module('other')"])
def test_a_program_that_imports_the_package_keeps_its_handlers(tmp_path, program):
    (tmp_path / "other.py").write_text("import gpu_backprop")
    ask = f"import signal; before = signal.getsignal(2), signal.getsignal(15); {program}\n"
    ask += "assert before == (signal.getsignal(2), signal.getsignal(15))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", ask], env=environment, check=True)
    subprocess.run([sys.executable, "-m", "other"], env=environment, check=True)


def test_the_older_run_stays_where_a_new_one_is_ended(capsys, monkeypatch):
    assert short() == 0
    older = Path("run/model.safetensors").read_bytes()

    def judged(*_: object) -> tuple[list[str], str]:
        """SIGKILL may come here, and what lies in NEW would be taken for a complete run."""
        assert not (Path("run") / runs.NEW).exists()
        return [], ""

    monkeypatch.setattr(train, "_score_held_out", judged)
    sent(monkeypatch, TrainingStep, "build", signal.SIGTERM)
    assert short("--overwrite", "--seed", "5", "--epochs", "1000000") == 143
    assert "written to run/stopped-001: " in capsys.readouterr().out.replace(os.sep, "/")
    assert Path("run/model.safetensors").read_bytes() == older
    assert gb.load("run/stopped-001/model.safetensors").seed == 5
    assert not (Path("run") / runs.NEW).exists()


@pytest.mark.parametrize("step", ["_x_and_y", "_introduce"])
def test_a_signal_just_before_training_is_not_forgotten(monkeypatch, step):
    sent(monkeypatch, train, step, signal.SIGINT)
    assert main(["train", "--epochs", "1000000", "--out", "run"]) == 130
    assert not Path("run").exists()
