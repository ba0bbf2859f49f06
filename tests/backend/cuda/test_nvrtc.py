"""bench/kernels.py: the kernels compile with NVRTC as CuPy calls it, keep within their bounds, and are on record."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from lib.kernel_instances import text_of
from own_optimizers import ADABELIEF, LION

from gpu_backprop.backend.cuda.kernel_instance import TYPES, instance
from gpu_backprop.backend.cuda.kernel_library import OPTIONS, VARIABLES
from gpu_backprop.backend.device import storage
from gpu_backprop.backend.formula import Functions
from gpu_backprop.backend.signatures import heads
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import ADAM, RULES

BENCH = Path(__file__).parents[3] / "bench"
RESULTS = BENCH / "results" / "kernels.json"
CUDA_13 = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121}
ROWS = {row.name for row in (*ACTIVATIONS.values(), *FORMULAS, *RULES) if not getattr(row, "rowwise", False)}


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, whose results go elsewhere."""
    monkeypatch.syspath_prepend(BENCH)
    module = importlib.import_module("kernels")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "kernels.json")
    return module


@pytest.fixture
def nvrtc(script):
    """The script, where all that it needs is installed."""
    try:
        script.nvrtc()
        list(script.usages([instance("advance")], 90))
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"kernels cannot be compiled, which needs CuPy, ml_dtypes, NVRTC and the CUDA headers: {error}")
    return script


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RESULTS.read_text(encoding="utf-8"))["cuda"]


def test_every_kernel_and_architecture_is_on_record(recorded):
    assert {f"sm_{architecture}" for architecture in CUDA_13} <= set(recorded["13"])
    assert "sm_70" in recorded["12"]
    for architectures in recorded.values():
        for architecture in architectures.values():
            assert set(architecture["kernels"]) == set(heads())


def test_what_is_on_record_is_within_bounds(recorded, script):
    for architectures in recorded.values():
        for name, architecture in architectures.items():
            by_dtype = [most for kernel in architecture["kernels"].values() for most in kernel.values()]
            assert sum(most["instances"] for most in by_dtype) == architecture["instances"]
            assert max(most["registers"] for most in by_dtype) <= script.REGISTERS
            assert all((most["occupancy"] is None) == (int(name[3:]) not in script.LIMITS) for most in by_dtype)


@pytest.mark.nvrtc
def test_the_record_is_of_these_kernels(recorded, nvrtc):
    count = len(list(nvrtc.every()))
    version = nvrtc.nvrtc()[0]
    fresh = [m for m in nvrtc.every() if m.kernel.name in ("update", "column_sum", "sigmoid_cross_entropy")]
    for file in sorted({made.kernel.file for made in fresh}):
        found = list(nvrtc.usages([made for made in fresh if made.kernel.file == file], 90))
        assert not [usage.fault for usage in found if usage.fault]
        record = recorded[version.partition(".")[0]].get("sm_90")
        if record and record["nvrtc"] == version:  # another one may allot registers in another way
            assert record["instances"] == count
            for kernel, by_dtype in nvrtc.summary(found).items():
                assert without_shared(record["kernels"][kernel]) == without_shared(by_dtype)


def without_shared(by_dtype):
    """Where shared variables begin depends on what else is compiled along, which makes a few bytes."""
    return {dtype: {what: n for what, n in most.items() if what != "shared"} for dtype, most in by_dtype.items()}


@pytest.mark.nvrtc
def test_a_kernel_with_memory_of_its_own_leaves_it_enough(nvrtc):
    """What is set aside for the variables of a block is not exceeded by them."""
    made = [m for m in nvrtc.every() if m.kernel.name == "train_epoch"][::13]
    assert {m.dtype("A").name for m in made} == {"float32", "float64"}
    assert max(usage.shared for usage in nvrtc.usages(made, 90)) <= VARIABLES


@pytest.mark.nvrtc
def test_the_quick_form(nvrtc, capsys):
    assert nvrtc.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert set(heads()) <= set(re.findall(r"^(\w+) +\d", printed, re.MULTILINE))
    assert "nothing was written" in printed and not nvrtc.RESULTS.exists()


@pytest.mark.nvrtc
def test_the_sample_meets_everything(nvrtc):
    sample, everything = list(nvrtc.every(quick=True)), list(nvrtc.every())
    assert len(sample) < len(everything) / 5
    assert {argument.name for made in sample for argument in made.arguments if hasattr(argument, "name")} >= ROWS
    for of in (lambda made: [made.kernel.name], lambda made: map(str, made.arguments), lambda made: made.functors):
        assert {met for made in sample for met in of(made)} == {met for made in everything for met in of(made)}


@pytest.mark.nvrtc
def test_an_instance_out_of_bounds_fails_the_script_by_name(nvrtc, monkeypatch, capsys):
    monkeypatch.setattr(nvrtc, "REGISTERS", 8)
    monkeypatch.setattr(nvrtc, "measure", lambda *_: [list(nvrtc.usages([instance("softmax", "float32")], 90))])
    assert nvrtc.main(["--arch", "sm_90", "--quick"]) == 1
    assert re.search(r"^softmax<float> on sm_90 takes \d+ registers, more than 8$", capsys.readouterr().out, re.M)


@pytest.mark.nvrtc
def test_spills_are_seen(nvrtc):
    made = instance("update", "float64", ADAM, 2)
    text, count = re.subn(r"__launch_bounds__\(256[^()]*\)", "__launch_bounds__(1024, 2)", text_of([made]))
    assert count
    (usage,) = nvrtc.usages([made], 90, text)
    assert usage.registers <= 32 and usage.spilled > 0
    assert re.match(r"spills \d+ bytes", usage.fault)


@pytest.mark.nvrtc
def test_a_stack_is_seen(nvrtc):
    made = instance("dropout", "float32", 1)
    text = text_of([made]).replace("uniform(numbers, e + k)", "uniform(numbers, (e + cols) & 7)")
    (usage,) = nvrtc.usages([made], 90, text)
    assert usage.stack > 0 and "stack" in usage.fault


@pytest.mark.parametrize(
    ("registers", "stack", "spilled", "fault"),
    [(128, 0, 0, ""), (129, 0, 0, "takes 129 registers, more than 128"), (32, 8, 4, "spills 4 bytes, uses 8 bytes of")],
)
def test_what_is_a_fault(script, registers, stack, spilled, fault):
    found = script.Usage("update", "float32", "update<float, update_adam, 4>", 90, registers, 0, stack, spilled).fault
    assert found.startswith(fault) and bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "bound"),
    [
        (90, 32, 0, 1.0),
        (90, 33, 0, 0.75),  # 40 × 32 registers a warp: 12 warps in a quarter, 6 blocks
        (90, 64, 0, 0.5),
        (90, 128, 0, 0.25),
        (75, 64, 0, 1.0),  # 32 warps are all it can hold
        (86, 40, 0, 1.0),
        (86, 41, 0, 5 / 6),
        (90, 16, 48 * 1024, 0.5),  # 49 KiB with the system's, of 228
        (75, 16, 48 * 1024, 0.25),
    ],
)
def test_the_bound_of_the_occupancy(script, architecture, registers, shared, bound):
    assert script.occupancy(script.LIMITS[architecture], architecture, registers, shared) == pytest.approx(bound)


@pytest.mark.nvrtc
def test_an_architecture_that_nvrtc_does_not_know(nvrtc, capsys):
    assert nvrtc.main(["--arch", "sm_20"]) == 2
    assert re.search(r"knows .*sm_90.*, not sm_20", capsys.readouterr().err)


def test_results_of_other_versions_and_architectures_stay(script):
    script.write({"sm_90": {"nvrtc": "13.0"}, "sm_100": {"nvrtc": "13.0"}}, "13.0", 1.0)
    script.write({"sm_70": {"nvrtc": "12.9"}}, "12.9", 1.0)
    script.write({"sm_90": {"nvrtc": "13.5"}}, "13.5", 1.0)
    written = json.loads(script.RESULTS.read_text(encoding="utf-8"))
    assert written["cuda"] == {
        "12": {"sm_70": {"nvrtc": "12.9"}},
        "13": {"sm_90": {"nvrtc": "13.5"}, "sm_100": {"nvrtc": "13.0"}},
    }
    assert list(written["cuda"]["13"]) == ["sm_90", "sm_100"]


WIDE = [head.name for head in heads().values() if {name for _, name in head.template} >= {"T", "V"}]


@pytest.mark.nvrtc
@pytest.mark.parametrize("name", WIDE)
def test_the_vector_form_moves_16_bytes_at_once(nvrtc, name):
    made = {}
    for each in nvrtc.every():
        chosen = each.chosen
        if each.kernel.name == name and each.width > 1 and chosen.get("S", chosen["T"]) == chosen["T"]:
            made.setdefault(each.dtype("T").name, each)
    assert len(made) == 4
    ptx = assembly(list(made.values()))
    for each in made.values():
        moves = re.findall(r"\b(ld|st)\.global\.(?:v4\.[bfu]32|v2\.[bfu]64)", ptx[each.name])
        assert moves.count("ld") >= 1, each.name
        assert moves.count("st") >= (name != "sum_of_squares"), each.name


def assembly(made):
    """The PTX of each instance, which still says how wide an access is."""
    from cupy._core.core import assemble_cupy_compiler_options
    from cupy.cuda.compiler import _NVRTCProgram

    program = _NVRTCProgram(text_of(made), "kernels.cu", name_expressions=tuple(m.name for m in made), method="ptx")
    ptx, mangled = program.compile((*assemble_cupy_compiler_options(OPTIONS), "-arch=compute_90"))
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)(?=\.entry|\Z)", ptx.decode(), re.DOTALL))
    return {m.name: bodies[mangled[m.name]] for m in made}


@pytest.mark.nvrtc
def test_optimizers_from_outside_compile(nvrtc):
    tanh, loss = Functions((ACTIVATIONS["tanh"],)), FORMULAS[0]
    for rule in (LION, ADABELIEF):
        steps = [instance("update", dtype, rule, V) for dtype in TYPES["T"] for V in (1, 16 // storage(dtype).itemsize)]
        epochs = [instance("train_epoch", dtype, dtype, dtype, tanh, loss, rule) for dtype in TYPES["A"]]
        for made in (steps, epochs):
            assert not [usage.fault for usage in nvrtc.usages(made, 90) if usage.fault]


@pytest.mark.nvrtc
@pytest.mark.parametrize(
    ("dtype", "suffix", "tiles"), [("float32", "f32", {16 / 8, 8 / 6, 4 / 5}), ("float64", "f64", {4 / 5})]
)
def test_an_epoch_reads_an_operand_once_for_a_tile(nvrtc, dtype, suffix, tiles):
    """The loops of the products, by multiply-adds for each read of shared memory: of tiles of 4 × 4, of 4 × 2 and
    of 4; in float64, where registers do not suffice, of 4 alone."""
    made = instance("train_epoch", dtype, dtype, "int64", Functions((ACTIVATIONS["relu"],)), FORMULAS[0], ADAM)
    loops = re.split(r"\n\$L__BB", assembly([made])[made.name])
    products = [len(re.findall(rf"\bfma\.rn(?:\.ftz)?\.{suffix}", loop)) for loop in loops]
    reads = [loop.count(f"ld.shared.{suffix}") for loop in loops]
    found = {made / read for made, read in zip(products, reads, strict=True) if made >= 8 and read >= 5}
    assert found == tiles


@pytest.mark.nvrtc
def test_an_epoch_loads_four_parameters_before_it_updates_one(nvrtc):
    made = instance("train_epoch", "float32", "float32", "int64", Functions((ACTIVATIONS["relu"],)), FORMULAS[0], ADAM)
    text = assembly([made])[made.name]
    roots = [found.start() for found in re.finditer(r"\bsqrt\.", text)][-4:]
    moments = [found.start() for found in re.finditer(r"\bld\.f32", text)]  # of a block or of the device, by address
    assert len([load for load in moments if load < roots[0]]) >= 2 * 4
    assert not [load for load in moments if roots[0] < load < roots[-1]]
