"""The wheel holds everything: installed into an empty environment it trains, and finds the kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import gpu_backprop
from gpu_backprop.backend.kernel_text import kernels_folder
from gpu_backprop.commands.runs import FILES

ROOT = Path(__file__).parent.parent


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


KERNELS = files(ROOT / "kernels")
NO_PATH = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that neither sees the checkout nor the environment of these tests."""
    done = subprocess.run(command, cwd=cwd, env=NO_PATH, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def build(what: str, folder: Path, root: Path = ROOT) -> Path:
    """Call a hook of the build backend as pip does, but with the hatchling that is installed here."""
    call = f"import sys, hatchling.build as backend; print(backend.build_{what}(sys.argv[1]))"
    return folder / run(sys.executable, "-c", call, folder, cwd=root).splitlines()[-1]


class Environment:
    """A virtual environment with nothing in it, and an empty folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")

    def install(self, *what: str | Path) -> None:
        run(self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what, cwd=self.work)

    def kernels_folder(self) -> Path:
        ask = "from gpu_backprop.backend.kernel_text import kernels_folder; print(kernels_folder())"
        return Path(run(self.bin / "python", "-c", ask, cwd=self.work))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(wheel)
    return made


def test_what_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"gpu_backprop/kernels/{name}" for name in KERNELS} <= names
    assert {"gpu_backprop/py.typed", "gpu_backprop/data/digits.csv.gz"} <= names
    page = {f"page/{name}" for name in ("page.html", "page.css", "page.js", "icon.svg")}
    assert {f"gpu_backprop/commands/serving/{name}" for name in page} <= names
    assert {name.split("/")[0] for name in names} == {
        "gpu_backprop",
        f"gpu_backprop-{gpu_backprop.__version__}.dist-info",
    }
    assert {name.split("/")[-1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_source_archive_builds_the_same_wheel(tmp_path, wheel):
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in zipfile.ZipFile(wheel).namelist():
        if ".dist-info/" not in name:
            assert name.replace("gpu_backprop/kernels/", "kernels/") in names
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "Makefile", "tests/test_packaging.py"} <= names
    assert {".ci/run", ".dockerignore", ".github/workflows/ci.yml", "CITATION.cff", "docker/cpu.Dockerfile"} <= names


def test_an_image_is_given_what_the_wheel_is_made_of(tmp_path, wheel):
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"  # nothing but what follows
    for name in (line[1:] for line in lines if line.startswith("!")):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    made = build("wheel", tmp_path, tmp_path)
    assert sorted(zipfile.ZipFile(made).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
    for image in (ROOT / "docker").iterdir():
        commands = {line.split()[0] for line in image.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()}
        assert {"FROM", "COPY", "USER", "HEALTHCHECK", "ENTRYPOINT"} <= commands, image.name


def test_the_wheel_trains_and_needs_no_matplotlib(environment):
    output = run(environment.bin / "gpu-backprop", "train", "--epochs", "2", cwd=environment.work)
    assert "\ntest accuracy: 0." in output
    assert "no curves.png: drawing curves needs matplotlib: pip install 'gpu-backprop[plot]'" in output
    written = {path.name for path in (environment.work / "runs" / "digits-001").iterdir()}
    assert written == set(FILES) - {"curves.png"}


def test_the_command_and_the_module_give_the_version(environment):
    expected = f"gpu-backprop {gpu_backprop.__version__}"
    assert run(environment.bin / "gpu-backprop", "--version", cwd=environment.work) == expected
    assert run(environment.bin / "python", "-m", "gpu_backprop", "--version", cwd=environment.work) == expected


def test_kernels_are_found_in_the_wheel(environment):
    folder = environment.kernels_folder()
    assert folder.parts[-3:] == ("site-packages", "gpu_backprop", "kernels")
    assert files(folder) == KERNELS


def test_kernels_are_found_by_an_editable_install(environment, tmp_path):
    """The last test of this environment: what was installed from the wheel is gone after it."""
    environment.install("--no-deps", "--force-reinstall", build("editable", tmp_path))
    assert environment.kernels_folder() == ROOT / "kernels"


def test_kernels_are_found_here():
    installed = Path(sysconfig.get_paths()["purelib"]) / "gpu_backprop" / "kernels"
    assert kernels_folder() in (ROOT / "kernels", installed)


def test_extras_are_imported_where_they_are_asked_for():
    extras = {
        "cupy",
        "matplotlib",
        "mpi4py",
        "onnx",
        "optuna",
        "pandas",
        "polars",
        "pyarrow",
        "scipy",
        "sklearn",
        "torch",
    }
    ask = f"import sys, gpu_backprop; print(sorted({extras!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True).stdout == "[]\n"
