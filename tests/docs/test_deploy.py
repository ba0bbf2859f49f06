"""docs/deploy.md is true: its commands and programs are run in their order, in one folder, and print what it says."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gpu_backprop.cli import main
from gpu_backprop.interop import onnx

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def expected(said: str) -> str:
    """The pattern of what the page says that is printed, where … stands for anything."""
    return re.escape(said.strip()).replace("…", "(?s:.*)")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_every_command_and_program_does_what_the_page_says(tmp_path, monkeypatch, capsys):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, body in BLOCKS:
        if language == "c":
            Path("main.c").write_text(body, encoding="utf-8")
        elif language == "python":
            exec(compile(body, "docs/deploy.md", "exec"), names)
        else:
            for command, _, said in (part.partition("\n") for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]):
                program, *arguments = shlex.split(command)
                capsys.readouterr()
                if program == "python":
                    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
                elif program == "gpu-backprop":
                    assert main(arguments) == 0, command
                else:
                    print(subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout)
                assert re.fullmatch(expected(said), capsys.readouterr().out.strip()), command
    assert names["found"].shape == (400, 1) and 0 < names["error"].mean < names["error"].largest < 0.2


def test_the_versions_are_those_of_the_files():
    for said in (f"Opset {onnx.OPSET} of", f"{onnx.ML_OPSET} of `ai.onnx.ml`", f"version {onnx.IR_VERSION} of the"):
        assert said in PAGE
