"""The grammar of own formulas: what it reads, what it refuses, and that what is printed of a tree is the tree."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_formulas import Work

import gpu_backprop as gb
from gpu_backprop.backend.expression import LENGTH, derive, parse, to_text
from gpu_backprop.backend.expression_code import SLOTS, Program
from gpu_backprop.backend.expression_tree import FUNCTIONS, OPERATORS, evaluate

NAMES = ("z", "t")
PLACES = [-30.0, -2.3, -0.7, 0.3, 0.9, 1.7, 25.0]


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def sign(a):
    return math.copysign(1, a)


MEANS = {
    "1 + 2*3": lambda z: 7,
    "-z**2": lambda z: -(z**2),
    "(-z)**2": lambda z: z * z,
    "2*-z": lambda z: -2 * z,
    "z - (1 - z)": lambda z: 2 * z - 1,
    "z - 1 - z": lambda z: -1,
    "z/2/4": lambda z: z / 8,
    "z/(2/4)": lambda z: 2 * z,
    "z^3": lambda z: z**3,
    "z**-2": lambda z: z**-2,
    "z**0": lambda z: 1,
    "z**7 + z**8": lambda z: z**7 + z**8,
    "2**3**2": lambda z: 512,
    "abs(z)**0.5": lambda z: math.sqrt(abs(z)),
    ".5e1 * 1.e-1*z": lambda z: z / 2,
    "+z": lambda z: z,
    "- - z": lambda z: z,
    "exp(z/9) + expm1(z/9)": lambda z: 2 * math.exp(z / 9) - 1,
    "log(abs(z)) + log1p(z*z)": lambda z: math.log(abs(z)) + math.log1p(z * z),
    "sin(z)*cos(2*z) + tanh(z)": lambda z: math.sin(z) * math.cos(2 * z) + math.tanh(z),
    "sign(z)*sqrt(z*z)": lambda z: z,
    "max(z, 1) - min(2, z)": lambda z: max(z, 1) - min(2, z),
    "sigmoid(z)*softplus(z)": lambda z: sigmoid(z) * (max(z, 0) + math.log1p(math.exp(-abs(z)))),
    "log(1 + exp(z))": lambda z: max(z, 0) + math.log1p(math.exp(-abs(z))),
    "log(exp(30*z) + 1)": lambda z: max(30 * z, 0) + math.log1p(math.exp(-abs(30 * z))),
    "exp(z)/(1 + exp(z))": sigmoid,
    "z/(1 + exp(-z))": lambda z: z * sigmoid(z),
    "where(z > 1, z, 2*z) + where(z <= 0.3, 1, 0)": lambda z: (z if z > 1 else 2 * z) + (z <= 0.3),
    "where(z >= 0.9, where(z < 2, 5, z), -1)": lambda z: (5 if z < 2 else z) if z >= 0.9 else -1,
    "where(1 < 2, z, 3)": lambda z: z,
    "cos(pi*z) - pi": lambda z: math.cos(math.pi * z) - math.pi,
}
"""Texts, and what Python makes of one number."""


@pytest.mark.parametrize("text", MEANS)
def test_what_a_text_means(text):
    tree = parse(text, NAMES)
    for z in PLACES:
        wanted = MEANS[text](z)
        assert evaluate(tree, {"z": z}) == pytest.approx(wanted, rel=1e-13, abs=1e-13)
    assert parse(to_text(tree), NAMES) == tree


@pytest.mark.parametrize("text", MEANS)
def test_derivatives(text):
    slope = derive(parse(text, NAMES), "z", text)
    assert parse(to_text(slope), NAMES) == slope
    for z in (place + 0.011 for place in PLACES):
        step = 1e-5 * max(1, abs(z))
        difference = (MEANS[text](z + step) - MEANS[text](z - step)) / (2 * step)
        with np.errstate(over="ignore"):
            assert evaluate(slope, {"z": z}) == pytest.approx(difference, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("text", MEANS)
def test_calls_of_numpy(text):
    """In an array of their own, and in that of the operand."""
    tree, z = parse(text, NAMES), np.array([PLACES])
    for of in (tree, derive(tree, "z", text)):
        with np.errstate(all="ignore"):
            wanted = np.broadcast_to(evaluate(of, {"z": z}), z.shape)
            for out in (z.copy(), np.full_like(z, np.nan)):
                operand = out if np.array_equal(out, z) else z
                for call in list(Program(of).calls({"z": operand}, Work(z), [out], SLOTS)):
                    call()
                np.testing.assert_allclose(out, wanted, rtol=1e-13)


HOSTILE = [
    "", " ", "()", "z.real", "z.__class__", "__import__('os').system('x')", "z[0]", "z if z else 1", "lambda: z",
    "z;z", "z\n", "z\r\n+1", "z # z", "z // 2", "z % 2", "z @ z", "z = 1", "z := 1", "z == 1", "z and z", "not z",
    "'z'", '"z"', "f'{z}'", "{z}", "z²", "zé", "ｚ", "٣*z", "z−1", "z·z", "1_000*z", "0x10", "1e", "1e+", "1.2.3",
    "z z", "2z", "2(z)", "exp", "exp()", "exp(z", "exp(z))", "exp(z, z)", "exp z", "max(z)", "max(z, 1, 2)",
    "where(z, 1, 2)", "where(z > 1)", "where(z > 1 > 0, z, 1)", "where(z > 1, z)", "z > 1", "(z > 1)*z", "z**z",
    "2**z", "z**2.5", "z**9", "z**-9", "z**1e9", "9**9**9**9", "1/0*z", "0**-1", "log(0)*z", "sqrt(-1)*z",
    "1e300*z", "1e-300*z", "1e999*z", "1e30*1e30*z", "nan*z", "inf*z", "eval(z)", "open(z)", "softmax(z)", "sum(z)",
    "erf(z)", "x", "Z", "z\x00", "z\\", "$z", "z!", "z|z", "z&z", "~z", "z\t", "A(1)", "a", "da", "/* z */", "z //",
    "#define z 1", "*z", "z*", ",", "z,z", "(" * 10_000, "(" * 60 + "z" + ")" * 60 + ")", "-" * 1900 + "z",
    "z**" * 600 + "z", "z+" * 900 + "z", "exp(" * 300 + "z" + ")" * 300, "where(z>1," * 150 + "z" + ",1)" * 150,
    "z" * 1_000_000, "9" * 20_000, "1." + "0" * 1990, "((((z**8+1)**8+z)**8+z)**8+z)**8+" * 40 + "z.", None, 3, b"z",
    ["z"], float("nan"),
]  # fmt: skip
"""What is in no grammar, or too much. One of them is a number."""


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_what_is_no_expression_is_said_in_words(text):
    begin = time.process_time()
    if isinstance(text, str) and text.startswith("1.00"):
        assert parse(text, NAMES).args == (1.0,)
        return
    with pytest.raises(gb.InputError) as caught:
        parse(text, NAMES, "the expression of activation 'x'")
    assert time.process_time() - begin < 2  # seconds, of what takes some milliseconds
    said = str(caught.value)
    assert said.startswith("the expression of activation 'x'") and len(said) < 600 and said.isprintable()


def test_an_error_shows_where_and_what_is_meant():
    with pytest.raises(
        gb.InputError, match=r"unknown name 'tan', at character 5 of '2 \* tan\(z\)'. Did you mean 'tanh'"
    ):
        parse("2 * tan(z)", NAMES)
    with pytest.raises(gb.InputError, match="what mixes those of a row, as softmax does, is none"):
        parse("softmax(z)", NAMES)
    with pytest.raises(gb.InputError, match=f"has {LENGTH + 1} characters, and may have {LENGTH}"):
        parse("z" * (LENGTH + 1), NAMES)


@given(st.text(max_size=80) | st.text("z t01.5e+-*/^()<>=,_expwhrlogmaxtn \n", max_size=80))
def test_any_text_is_an_expression_or_an_error(text):
    try:
        tree = parse(text, NAMES)
    except gb.InputError:
        return
    assert parse(to_text(tree), NAMES) == tree


TREES = st.recursive(
    st.sampled_from([*NAMES, "0", "1", "2", "0.5", "3e-5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda of: f"({of[0]} {of[1]} {of[2]})"),
        inner.map(lambda a: f"-({a})"),
        st.tuples(inner, st.integers(-8, 8)).map(lambda of: f"({of[0]})**{of[1]}"),
        st.tuples(st.sampled_from([n for n, f in FUNCTIONS.items() if f.arity == 1]), inner).map(
            lambda of: f"{of[0]}({of[1]})"
        ),
        st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda of: f"{of[0]}({of[1]}, {of[2]})"),
        st.tuples(inner, st.sampled_from(["<", "<=", ">", ">="]), inner, inner, inner).map(
            lambda of: f"where({of[0]} {of[1]} {of[2]}, {of[3]}, {of[4]})"
        ),
    ),
    max_leaves=12,
)
"""Texts of the grammar."""


@given(TREES)
def test_trees_and_texts_are_the_same(text):
    """As is what is printed of their derivatives, and the calls of NumPy are what a tree is worked out to be."""
    try:
        tree = parse(text, NAMES)
        slope = derive(tree, "z", "it")
    except gb.InputError:
        return  # such as 1/0
    values = {"z": np.array([[-1.3, 0.2, 0.9, 4.0]]), "t": np.array([[0.5, -2.0, 0.9, 1.0]])}
    for of in (tree, slope):
        assert parse(to_text(of), NAMES) == of
        out = np.full((1, 4), np.nan)
        with np.errstate(all="ignore"):
            for call in list(Program(of).calls(values, Work(out), [out], range(40))):
                call()
            wanted = np.broadcast_to(evaluate(of, values), out.shape)
        np.testing.assert_allclose(out, wanted, rtol=1e-9, atol=1e-12)


def test_every_row_of_the_tables_has_numpy_and_cpp_or_parts():
    for row in (*OPERATORS.values(), *FUNCTIONS.values()):
        assert (row.parts is None) == bool(row.cpp) == (row.ufunc is not None)
        assert row.cpp.count("{0}") >= bool(row.cpp) and ("{1}" in row.cpp) == (row.arity == 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_that_is_no_function_of_numpy_alone_keeps_nan(name):
    """A NaN is seen, whatever it goes through."""
    given = ", ".join(["z", "1"][: FUNCTIONS[name].arity])
    with np.errstate(all="ignore"):
        assert np.isnan(evaluate(parse(f"{name}({given})", NAMES), {"z": np.array([np.nan])})).all()
