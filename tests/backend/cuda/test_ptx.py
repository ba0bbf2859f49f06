"""What no run on a CPU can show, counted in the PTX of every kernel: fences, loads past the cache, 64-bit offsets."""

from __future__ import annotations

import pytest
from lib.kernel_instances import instances
from ptx import Instruction, compile_ptx, derived

from gpu_backprop.backend.cuda.kernel_instance import Instance, instance
from gpu_backprop.backend.signatures import heads
from gpu_backprop.network.activations import ACTIVATIONS
from gpu_backprop.network.losses import FORMULAS
from gpu_backprop.training.optimizers import ADAM

pytestmark = pytest.mark.nvrtc

PRODUCTS = "mul.", "mad.", "shl."
GRID = "%nctaid.x", "%nctaid.y", "%nctaid.z"
VISIBLE = "membar.gl", "fence.acq_rel.gpu"
"""What __threadfence is."""


def samples() -> list[Instance]:
    """One instance of every kernel, and of those that read V elements at once one that does; with functions that read
    all that there is to read."""
    found = {
        (m.kernel.name, m.width > 1): m for m in reversed(list(instances([ACTIVATIONS["tanh"]], FORMULAS[:1], [ADAM])))
    }
    return list(found.values())


@pytest.fixture(scope="module")
def compiled() -> dict[Instance, list[Instruction]]:
    try:
        files = {made.kernel.file for made in samples()}
        found = {}
        for file in files:
            here = [made for made in samples() if made.kernel.file == file]
            code = compile_ptx(here)
            found |= {made: code[made.name] for made in here}
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"kernels cannot be compiled, which needs CuPy, ml_dtypes, NVRTC and the CUDA headers: {error}")
    return found


# What is looked for ---------------------------------------------------------------------------------------------------


def arrays_of_models(made: Instance) -> dict[str, str]:
    """The arrays that have a part for each model: their numbers among the parameters, and their names."""
    parameters = enumerate(made.kernel.parameters)
    return {str(n): p.name for n, p in parameters if p.pointer and "models" in (p.shape or ())}


def wrong_offsets(made: Instance, code: list[Instruction]) -> list[str]:
    """What is wrong with the offsets of models: an array that has none, or a product of the model's number that has, on
    its way to an address, 32 bits. A product with a constant, or with numbers of the grid, is as small as those are."""
    model, grid = derived(code, ["%ctaid.z"]), derived(code, GRID)
    products = [one for one in code if one.what.startswith(PRODUCTS) and _factors(one) & model]
    short = set()
    for one in products:
        others = {f for f in _factors(one) - model if f.startswith("%")}
        if ".wide" not in one.what and one.what.endswith("32") and not others <= grid:
            short |= one.writes
    offsets = derived(code, {name for one in products for name in one.writes})
    for one in code:
        if one.what in ("cvt.u32.u64", "cvt.s32.u64", "cvt.u32.s64", "cvt.s32.s64") and one.reads & offsets:
            short |= one.writes
    short = derived(code, short)
    wrong = [f"32 bits: {one.what} {one.operands}" for one in code if one.meets_memory and one.address & short]
    met = [one.address for one in code if one.meets_memory]
    for number, name in arrays_of_models(made).items():
        own = derived(code, [number])
        if not any(address & own and address & model for address in met):
            wrong.append(f"none: {name}")
    return wrong


def _factors(one: Instruction) -> set[str]:
    return set(one.operands[:2])


def wrong_sums(made: Instance, code: list[Instruction]) -> list[str]:
    """What is wrong where blocks add up what others left: a ticket without a fence on either side, or a load of another
    block's sums that the cache may answer."""
    wrong, names = [], [p.name for p in made.kernel.parameters]
    if "tickets" in names:
        order = ["fence" if one.what in VISIBLE else "ticket" for one in code if one.what in VISIBLE or _counts(one)]
        if not order or order != ["fence", "ticket", "fence"] * (len(order) // 3):
            wrong.append(f"in this order: {order}")
    if "partial" in names:
        own = derived(code, [str(names.index("partial"))])
        loads = [one.what for one in code if one.what.startswith("ld.") and one.address & own]
        wrong += [what for what in loads if ".volatile" not in what] if loads else ["no load"]
    return wrong


def _counts(one: Instruction) -> bool:
    return one.what.startswith("atom.")


# The kernels ----------------------------------------------------------------------------------------------------------


def test_offsets_of_models_have_64_bits(compiled):
    assert {made.kernel.name for made in compiled} == set(heads())
    assert {made.name: wrong for made, code in compiled.items() if (wrong := wrong_offsets(made, code))} == {}
    assert sum(len(arrays_of_models(made)) for made in compiled) > 100


def test_sums_of_blocks_are_fenced_and_read_past_the_cache(compiled):
    assert {made.name: wrong for made, code in compiled.items() if (wrong := wrong_sums(made, code))} == {}
    assert sum("partial" in made.kernel.given for made in compiled) > 8


# That it is found -----------------------------------------------------------------------------------------------------


MUTANTS = {
    "no fence before the ticket": ("    __threadfence();\n    last =", "    last =", wrong_sums),
    "no fence after it": ("= 0;\n    __threadfence();", "= 0;", wrong_sums),
    "a load from the cache": ("const volatile A*", "const A*", wrong_sums),
    "a short offset": ("first = blockIdx.z * rows * cols", "first = u32(blockIdx.z * rows * cols)", wrong_offsets),
    "a short product": ("blockIdx.z * rows * cols", "u32(blockIdx.z * int(rows)) * i64(cols)", wrong_offsets),
    "a short offset of sums": ("i64(blockIdx.z) * along.blocks", "blockIdx.z * along.blocks", wrong_offsets),
    "no offset": ("grad_bias + blockIdx.z * grad_bias_step", "grad_bias", wrong_offsets),
}


@pytest.mark.parametrize(("text", "other", "wrong"), MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_found(compiled, text, other, wrong):
    made = instance("column_sum", "float32", 1)
    assert text in made.text
    (code,) = compile_ptx([made], made.text.replace(text, other)).values()
    assert wrong(made, code)
