"""The job files in examples/ are what Slurm and Kubernetes take, so far as linters tell: neither of the two is here."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gpu_backprop.arguments import parse

EXAMPLES = Path(__file__).parents[2] / "examples"
SLURM, KUBERNETES = (EXAMPLES / name for name in ("slurm.sh", "kubernetes.yaml"))

SBATCH = {
    "account": r"\S+", "cpus-per-task": r"[1-9]\d*", "error": r"\S+", "gpus-per-node": r"(\w+:)?[1-9]\d*",
    "job-name": r"\S+", "mem": r"\d+[KMGT]?", "nodes": r"[1-9]\d*(-[1-9]\d*)?", "ntasks-per-node": r"[1-9]\d*",
    "output": r"\S+", "partition": r"\S+", "qos": r"\S+", "requeue": "", "signal": r"(B:)?[A-Z0-9]+(@\d{1,5})?",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
}  # fmt: skip
"""Options of sbatch and what they take, by its manual page (Slurm 26.11): those that such jobs need."""


# Slurm ----------------------------------------------------------------------------------------------------------------


def test_the_script_is_good_shell() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for words in (["bash", "-n"], [str(shellcheck)]):
        done = subprocess.run([*words, str(SLURM)], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_shellcheck_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "slurm.sh"
    wrong.write_text(SLURM.read_text(encoding="utf-8").replace('"$@"', "$*"), encoding="utf-8")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    assert subprocess.run([str(shellcheck), str(wrong)], capture_output=True).returncode == 1


def directives(text: str) -> dict[str, str]:
    """The options of #SBATCH lines: sbatch reads them up to the first command."""
    head = re.split(r"^(?!#|\s*$)", text, maxsplit=1, flags=re.MULTILINE)[0]
    assert head.count("#SBATCH") == text.count("#SBATCH")
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", head, re.MULTILINE))


def test_sbatch_knows_its_options() -> None:
    text = SLURM.read_text(encoding="utf-8")
    found = directives(text)
    assert len(found) == text.count("\n#SBATCH ") == 8
    assert not [name for name, value in found.items() if not re.fullmatch(SBATCH[name], value)]
    assert found["ntasks-per-node"] == found["gpus-per-node"]  # a rank a GPU


@pytest.mark.parametrize(
    "words",
    [
        "train digits.csv --out runs/first", "train --resume runs/first",
        "search digits.csv --grid learning_rate=1e-4..0.1",
    ],
)  # fmt: skip
def test_the_script_starts_the_command_that_it_is_given(words: str, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(["bash", str(SLURM), *words.split()], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    *own, program = done.stdout.splitlines()[:3]
    assert own == ["--cpus-per-task=8", "--kill-on-bad-exit=1"] and program == "gpu-backprop"
    taken = takes(done.stdout.splitlines()[3:])
    assert (taken.command, taken.device) == (words.split()[0], "cuda")
    named = re.findall(r"slurm\.sh (\w+) ", SLURM.read_text(encoding="utf-8"))
    assert words.split()[0] in named


def test_the_script_says_what_it_takes() -> None:
    done = subprocess.run(["bash", str(SLURM)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: sbatch slurm.sh train DATA")


def takes(words: list[str]) -> Any:
    """What the command line makes of its words."""
    options = parse(words)
    assert options.distributed
    return options


# Kubernetes -----------------------------------------------------------------------------------------------------------

NUMBER = {"type": "integer", "minimum": 0}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """The schema of an object that has these fields and no others."""
    return {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False
    }  # fmt: skip


def replicas(**more: Any) -> dict[str, Any]:
    restarts = {"enum": ["Never", "OnFailure"]}
    return closed(
        ("template",), replicas={**NUMBER, **more}, restartPolicy=restarts, template=closed(("spec",), spec={})
    )


MPIJOB = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "kubeflow.org/v2beta1"},
    kind={"const": "MPIJob"},
    # Pods are called NAME-worker-N, which has to be a label of DNS.
    metadata=closed(("name",), name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$"}),
    spec=closed(
        ("mpiReplicaSpecs",),
        slotsPerWorker=NUMBER,
        runLauncherAsWorker={"type": "boolean"},
        sshAuthMountPath={"type": "string", "pattern": "^/"},
        launcherCreationPolicy={"enum": ["AtStartup", "WaitForWorkersReady"]},
        mpiImplementation={"enum": ["OpenMPI", "Intel", "MPICH"]},
        runPolicy=closed(
            cleanPodPolicy={"enum": ["None", "Running", "All"]},
            ttlSecondsAfterFinished=NUMBER,
            activeDeadlineSeconds=NUMBER,
            backoffLimit=NUMBER,
            suspend={"type": "boolean"},
            managedBy={"type": "string"},
            schedulingPolicy={"type": "object"},
        ),
        mpiReplicaSpecs=closed(("Launcher",), Launcher=replicas(maximum=1, minimum=1), Worker=replicas(minimum=1)),
    ),
)
"""The fields of an MPIJob, by types.go of v2beta1 in the MPI Operator, and what its validation.go asks of them."""


@pytest.fixture
def job() -> Any:
    return yaml.safe_load(KUBERNETES.read_text(encoding="utf-8"))


def check(job: Any) -> None:
    jsonschema.Draft202012Validator(MPIJOB).validate(job)
    for name, replica in job["spec"]["mpiReplicaSpecs"].items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.lower()}, **replica["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_job_is_one_of_the_operator_and_its_pods_are_pods(job: Any) -> None:
    check(job)


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (("spec", "slotsPerWorkers"), 8, jsonschema.ValidationError),
        (("spec", "mpiImplementation"), "MVAPICH", jsonschema.ValidationError),
        (("spec", "runPolicy", "cleanPodPolicy"), "running", jsonschema.ValidationError),
        (("spec", "mpiReplicaSpecs", "Launcher", "replicas"), 2, jsonschema.ValidationError),
        (("spec", "mpiReplicaSpecs", "Workers"), {}, jsonschema.ValidationError),
        (
            ("spec", "mpiReplicaSpecs", "Worker", "template", "spec", "volume"), [],
            kubernetes_validate.ValidationError,
        ),
        (
            ("spec", "mpiReplicaSpecs", "Worker", "template", "spec", "containers"), [{"image": "x"}],
            kubernetes_validate.ValidationError,
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(job: Any, path: tuple[str, ...], value: Any, error: type[Exception]) -> None:
    wrong = place = copy.deepcopy(job)
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(error):
        check(wrong)


def test_every_volume_that_is_mounted_is_there(job: Any) -> None:
    for replica in job["spec"]["mpiReplicaSpecs"].values():
        spec = replica["template"]["spec"]
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_the_launcher_starts_a_rank_for_each_gpu(job: Any) -> None:
    launcher, worker = (job["spec"]["mpiReplicaSpecs"][name] for name in ("Launcher", "Worker"))
    (container,) = launcher["template"]["spec"]["containers"]
    (script,) = container["args"]
    begin, again, start = script.splitlines()
    words = shlex.split(start)
    assert words[:2] == ["exec", "mpirun"] and words[4] == "gpu-backprop"
    slots = job["spec"]["slotsPerWorker"]
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(words[words.index("-n") + 1]) == worker["replicas"] * slots
    assert int(limits["nvidia.com/gpu"]) == slots
    arguments = shlex.split(begin)[2:]
    resumed = shlex.split(again.partition("set -- ")[2].partition(";")[0])
    for given in (arguments, resumed):
        own = [word for words_ in words[5:] for word in (given if words_ == "$@" else [words_])]
        assert takes(own).device == "cuda"
    assert arguments[-1] == resumed[-1] == re.findall(r"-d (\S+)/checkpoints", again)[0]
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
