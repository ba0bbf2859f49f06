"""Arrays from outside: whatever holds numbers is read, whatever does not is refused by name."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError
from gpu_backprop.backend.open_device import open_device
from gpu_backprop.network.arrays import check_features, check_finite, check_real, host_array, place

DEVICE = open_device("cpu")
X = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -4.0], [1.0, 0.0, 7.0], [-2.0, 5.0, 6.0]])


class OnlyDlpack:
    """An array of another library: nothing about it but the protocol."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OnlyArrayProtocol:
    """A table of another library, such as a data frame."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._array, dtype)


class OnAnotherDevice(OnlyDlpack):
    def __dlpack__(self, **options):
        raise BufferError("the memory is on another device.")


class OfBfloat16(OnAnotherDevice):
    dtype = "torch.bfloat16"


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "float64": X,
    "float32": X.astype(np.float32),
    "float16": X.astype(np.float16),
    "long double": X.astype(np.longdouble),
    "other byte order": X.astype(">f8"),
    "Fortran order": np.asfortranarray(X),
    "every second row": np.repeat(X, 2, axis=0)[::2],
    "backwards": X[::-1].copy()[::-1],
    "transposed": X.T.copy().T,
    "read-only": frozen(X),
    "not aligned": np.frombuffer(b"\0" + X.tobytes(), np.float64, offset=1).reshape(X.shape),
    "lists": X.tolist(),
    "tuples": tuple(map(tuple, X.tolist())),
    "list of arrays": list(X),
    "DLPack": OnlyDlpack(X),
    "array protocol": OnlyArrayProtocol(X),
    "memoryview": memoryview(X),
}


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
class TestEveryFormOfX:
    """Every form of the same numbers, which are exact in all these dtypes, gives the same bits as a plain array."""

    def test_host_array(self, x):
        np.testing.assert_array_equal(check_real(host_array(x, "x"), "x"), X)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_forward_and_predict(self, x, dtype):
        net = gb.Network(3, [gb.Dense(2, "tanh")], dtype=dtype)
        np.testing.assert_array_equal(net.forward(x), net.forward(X))
        np.testing.assert_array_equal(net.predict(x, batch_size=3), net.predict(X, batch_size=3))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_step_fit_and_evaluate(self, x, dtype):
        def learned(x):
            trainer = gb.Trainer(gb.Network(3, [gb.Dense(3)], dtype=dtype), batch_size=3)
            losses = [float(trainer.step(x, x)), trainer.fit(x, x, 2, progress=False)[-1]["loss"]]
            return losses, trainer.evaluate(x, x), trainer.network.parameters.tobytes()

        assert learned(x) == learned(X)


# Data frames ----------------------------------------------------------------------------------------------------------


class NAType:
    """What pandas has where a value is missing."""


class Column(OnlyArrayProtocol):
    """A column of a data frame; its dtype is NumPy's, or else of the library's own."""

    def __init__(self, *cells, dtype=object, own=False):
        super().__init__(np.array(cells, dtype))
        self.dtype = "own" if own else self._array.dtype

    def to_numpy(self):
        return self._array


class Frame:
    """A data frame of another library: columns, of which each has a type of its own."""

    def __init__(self, **columns):
        self._columns = columns

    @property
    def columns(self):
        return list(self._columns)

    def __getitem__(self, label):
        return self._columns[label]

    def __array__(self, dtype=None, copy=None):
        return np.stack([np.asarray(column) for column in self._columns.values()], axis=1)


class FrameWithTypes(Frame):
    """As pandas has it."""

    @property
    def dtypes(self):
        return [column.dtype for column in self._columns.values()]

    def items(self):
        return self._columns.items()


@pytest.mark.parametrize("frame", [Frame, FrameWithTypes])
@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [
        (Column(1.5, 2, dtype=float), Column(3, 4, dtype=np.int64), np.float64),
        (Column(1.5, 2, dtype=float), Column(True, False, dtype=bool), np.float64),
        (Column(1.5, np.nan, dtype=np.float32), Column(True, False, dtype=bool), np.float32),
        (Column(1.5, 2, dtype=float, own=True), Column(3, 4, own=True), np.float64),
        (Column(1, 2, dtype=np.uint8), Column(3, 4, dtype=np.uint8), np.uint8),
        (Column(True, False, dtype=bool), Column(True, True, dtype=bool), np.bool_),
        (Column(Decimal("1.5"), 2, own=True), Column(np.float32(3), True), np.float64),
    ],
)
def test_a_data_frame_of_numbers_is_numbers(frame, a, b, dtype):
    x = check_real(host_array(frame(a=a, b=b), "x"), "x")
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, np.stack([a.to_numpy(), b.to_numpy()], axis=1).astype(dtype))
    np.testing.assert_array_equal(check_features(frame(a=a, b=b), 2, DEVICE, ()), x)


def test_a_data_frame_of_one_plain_type_is_not_copied():
    class Plain(FrameWithTypes):
        def __array__(self, dtype=None, copy=None):
            return X

    assert host_array(Plain(a=Column(*X[:, 0], dtype=float)), "x") is X


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (Column(1, None, own=True), "1 value is missing in {}, the first one at row 1. Take these rows out, or fill"),
        (Column(NAType(), NAType(), own=True), "2 values are missing in {}, the first one at row 0."),
        (
            Column(1, "7"),
            "{} must hold real numbers .*, and it holds text, '7' at row 1. gpu_backprop.data.Pre",
        ),
        (Column("a", "b", own=True), "{} must hold real numbers .*, and it holds text, 'a' at row 0"),
        (Column(np.datetime64(1, "s"), 2, own=True), "{} must hold real .*, and it holds datetime64, .* at row 0"),
        (Column(1j, 2), "{} must hold real numbers .*, and it holds complex, 1j at row 0"),
    ],
)
def test_a_column_that_holds_other_things_than_numbers_is_named(column, said):
    frame = Frame(a=Column(1.5, 2), b=column)
    for given, name, called in (frame, "x", "column 'b' of x"), (column, "y", "y"):
        with pytest.raises(InputError, match="^" + said.format(called)):
            host_array(given, name)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (Column(1, np.nan, dtype=float, own=True), "1 value is missing in column 'b' of x, the first one at row 1"),
        (
            Column("a", "b", dtype="<U1"),
            "column 'b' of x must hold real numbers .*, and it holds text. gpu_backprop.data.Pre",
        ),
        (Column(1, 2, dtype="M8[s]"), "column 'b' of x must hold real .*, and it holds dates. "),
    ],
)
def test_a_column_of_another_dtype_is_named(column, said):
    for frame in Frame, FrameWithTypes:
        with pytest.raises(InputError, match=f"^{said}"):
            host_array(frame(a=Column(1.5, 2, dtype=float), b=column), "x")


LIBRARIES = ["float64", "Float64", "boolean", "Int64", "double[pyarrow]", "Sparse[float]", "object", "polars", "arrow"]


def frame_of(array, how):
    """A data frame of pandas, of polars or of pyarrow."""
    if how in ("polars", "arrow"):
        made = pytest.importorskip("polars").DataFrame(array, list("abc"))
        return made if how == "polars" else made.to_arrow()
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in how:
        pytest.importorskip("pyarrow")
    made = pandas.DataFrame(array, range(7, 7 + len(array)), list("abc"))
    return made.assign(b=made.b.astype(how)) if how in ("boolean", "Int64") else made.astype(how)


@pytest.mark.parametrize("how", LIBRARIES)
def test_a_frame_of_any_library_trains_as_its_numbers(how):
    x = np.where(np.arange(12).reshape(4, 3) % 3 == 1, X > 1, X)  # in the second column truth values
    frame, w = frame_of(x, how), [1.0, 2.0, 0.5, 1.0]

    def learned(x, y, w):
        net = gb.Network(3, [gb.Dense(1)])
        history = gb.Trainer(net).fit(x, y, 2, weights=w, validation=(x, y, w), progress=False)
        return history[-1]["val_loss"], net.predict(x).tobytes(), net.forward(x).tobytes()

    column = frame["a"] if how != "arrow" else frame.column("a")
    weights = frame_of(np.array([w] * 3).T, how if how in ("polars", "arrow") else "float64")
    only = weights.select(["c"]) if how in ("polars", "arrow") else weights[["c"]]
    assert learned(frame, column, only) == learned(x, x[:, 0], w)


@pytest.mark.parametrize("how", ["float64", "polars", "arrow"])
def test_columns_of_one_name_are_both_read(how):
    if how == "polars":
        frame = Frame(a=Column(1.5, 2, dtype=float), b=Column(True, False, dtype=bool))
    elif how == "arrow":
        arrow = pytest.importorskip("pyarrow")
        frame = arrow.table([arrow.array([1.5, 2]), arrow.array([True, False])], names=["a", "a"])
    else:
        frame = (
            pytest.importorskip("pandas").DataFrame({"a": [1.5, 2], "b": [True, False]}).set_axis(["a", "a"], axis=1)
        )
    np.testing.assert_array_equal(host_array(frame, "x"), [[1.5, 1], [2, 0]])


def test_what_is_missing_in_a_dictionary_of_pyarrow_is_told():
    arrow = pytest.importorskip("pyarrow")
    column = arrow.array([1, None, 1]).dictionary_encode()
    for given, name in (arrow.table({"b": column}), "column 'b' of x"), (arrow.chunked_array([column]), "x"):
        with pytest.raises(InputError, match=f"^1 value is missing in {name}, the first one at row 1"):
            host_array(given, "x")


def test_a_lazy_frame_is_to_be_collected():
    lazy = pytest.importorskip("polars").DataFrame({"a": [1.0]}).lazy()
    with pytest.raises(InputError, match=r"^x is a LazyFrame, which has no rows yet: give x\.collect\(\)\.$"):
        host_array(lazy, "x")


def test_the_column_of_nan_is_named():
    frame = pytest.importorskip("pandas").DataFrame(X, columns=list("abc"))
    frame.loc[2, "b"] = np.nan
    said = r"^1 value is NaN or infinite in x, the first one \(nan\) at row 2, column 'b'\. Take these rows out"
    with pytest.raises(InputError, match=said):
        gb.Trainer(gb.Network(3, [gb.Dense(1)])).fit(frame, X[:, 0], 1, progress=False)


def test_a_frame_without_columns_is_an_empty_array():
    class Empty(FrameWithTypes):
        def __array__(self, dtype=None, copy=None):
            return np.zeros((0, 0))

    assert host_array(Empty(), "x").shape == (0, 0)


def test_a_sparse_matrix_is_to_be_made_dense():
    class csr_matrix:
        def toarray(self):
            return X

    with pytest.raises(
        InputError, match=r"^x is a csr_matrix, which leaves zeros out, .*: give x\.toarray\(\), or some"
    ):
        host_array(csr_matrix(), "x")


WHOLE = {
    "uint8": np.array([[1, 0], [0, 255]], np.uint8),
    "bool": np.array([[True, False], [False, True]]),
    "int64": np.array([[-3, 0], [0, 2]]),
    "uint64": np.array([[3, 0], [0, 2**40]], np.uint64),
    "int16": np.array([[-3, 0], [0, 2]], np.int16),
}


@pytest.mark.parametrize("x", WHOLE.values(), ids=WHOLE)
def test_whole_numbers_and_booleans_count_as_numbers(x):
    net = gb.Network(2, [gb.Dense(2)], dtype="float64")
    np.testing.assert_array_equal(net.forward(x), net.forward(x.astype(np.float64)))
    trainer = gb.Trainer(net)
    assert trainer.evaluate(x, x)["loss"] == trainer.evaluate(x.astype(np.float64), x.astype(np.float64))["loss"]
    trainer.step(x, x)


def test_what_was_given_is_never_changed():
    x, y, w = X.copy(), X[:, :2].copy(), np.array([1.0, 2.0, 0.0, 4.0])
    for dtype in ("float32", "float64"):  # in the second, no conversion makes a copy
        trainer = gb.Trainer(gb.Network(3, [gb.Bias("exp"), gb.Dropout(0.5), gb.Dense(2)], dtype=dtype), batch_size=3)
        trainer.fit(x, y, 2, weights=w, validation=(x, y, w), progress=False)
        trainer.step(x, y, w)
        trainer.evaluate(x, y, w)
        trainer.network.forward(x, training=True)
        trainer.network.backward(y)
        trainer.network.predict(x)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, X[:, :2])
    np.testing.assert_array_equal(w, [1.0, 2.0, 0.0, 4.0])


def test_subclasses_of_ndarray_are_read_as_plain_arrays():
    class Odd(np.ndarray):
        def __getitem__(self, key):
            raise AssertionError("what a subclass does is not ours")

    array = host_array(X.view(Odd), "x")
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array, X)


def test_a_masked_array_with_nothing_masked_is_an_array():
    np.testing.assert_array_equal(host_array(np.ma.masked_array(X), "x"), X)


def test_masked_values_are_not_read_from_under_their_mask():
    x = np.ma.masked_array(X, mask=[[False] * 3, [False, True, False], [True, False, False], [False] * 3])
    with pytest.raises(InputError, match=r"2 values are masked in x, the first one at row 1, column 1\. .*filled"):
        host_array(x, "x")


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ([[1.0, 2.0], [3.0]], "list: .*inhomogeneous"),
        (OnAnotherDevice(X), r"OnAnotherDevice: the memory is on another device\.$"),
        (OfBfloat16(X), r"NumPy has no bfloat16\. Give it as float32: labels\.float\(\) of PyTorch"),
    ],
    ids=["ragged lists", "memory elsewhere", "bfloat16"],
)
def test_what_cannot_be_read(value, given):
    with pytest.raises(InputError, match=f"labels cannot be read as an array: {given}"):
        host_array(value, "labels")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([["a", "b"]], "<U1"),
        ([["1", "2"]], "<U1"),
        ([[1, None]], "object"),
        (None, "object"),
        ({}, "object"),
        ([[1j]], "complex128"),
        (np.array(["2020-01-01"], "M8[D]"), r"datetime64\[D\]"),
        (np.zeros(2, "f4,i4"), r"\[\('f0'"),
    ],
    ids=["text", "numbers as text", "None among numbers", "None", "a dict", "complex", "dates", "records"],
)
def test_what_holds_no_real_numbers(value, dtype):
    with pytest.raises(InputError, match=f"^x must hold real numbers .floats, integers or .*got dtype {dtype}"):
        check_real(host_array(value, "x"), "x")


# Axes -----------------------------------------------------------------------------------------------------------------


def test_features_may_have_any_of_the_leads_and_no_other():
    assert check_features(np.zeros((5, 3)), 3, DEVICE, (), (2,)).shape == (5, 3)
    assert check_features(np.zeros((2, 5, 3)), 3, DEVICE, (), (2,)).shape == (2, 5, 3)
    with pytest.raises(InputError, match=r"\(rows, inputs\) or \(2, rows, inputs\), got the shape \(4, 5, 3\)"):
        check_features(np.zeros((4, 5, 3)), 3, DEVICE, (), (2,))
    with pytest.raises(InputError, match=r"\(rows, inputs\), got the shape \(1, 5, 3\)"):
        check_features(np.zeros((1, 5, 3)), 3, DEVICE, (), ())


def test_one_sample_gets_a_hint():
    with pytest.raises(InputError, match=r"got the shape \(3,\)\. One sample is x\[None, :\], of shape \(1, 3\)"):
        check_features(np.zeros(3), 3, DEVICE, ())
    with pytest.raises(InputError, match=r"got the shape \(\)\.$"):
        check_features(2.0, 3, DEVICE, ())


def test_no_rows_only_where_that_makes_sense():
    assert check_features(np.zeros((0, 3)), 3, DEVICE, (), empty=True).shape == (0, 3)
    with pytest.raises(InputError, match=r"x is empty: its shape is \(0, 3\), and at least one row is needed"):
        check_features(np.zeros((0, 3)), 3, DEVICE, ())
    net = gb.Network(3, [gb.Dense(2)])
    assert net.predict(np.zeros((0, 3))).shape == (0, 2)
    assert net.predict(np.zeros((0, 3))).dtype == np.float32


# Values ---------------------------------------------------------------------------------------------------------------

LARGE = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found_wherever_it_is(bad, dtype):
    for where in ((0, 0), (1, 2), (3, 1)):
        x = X.astype(dtype)
        x[where] = bad
        with pytest.raises(InputError, match=rf"^1 value is NaN or infinite in x, the first one \({bad}\) at row "):
            check_finite(x, "x", np.float64)


def test_bad_values_are_counted_and_the_first_is_placed():
    x = X.copy()
    x[1, 2], x[2, 0], x[3, 1] = np.inf, np.nan, -np.inf
    with pytest.raises(InputError, match=r"3 values .* in target, the first one \(inf\) at row 1, column 2\. Remove"):
        check_finite(x, "target", np.float64)


def test_infinities_that_cancel_are_found():
    with pytest.raises(InputError, match="2 values are NaN or infinite"):
        check_finite(np.array([np.inf, 1.0, -np.inf]), "y", np.float64)


def test_large_finite_values_are_fine_also_where_their_sum_is_not():
    check_finite(np.full((3, 2), np.finfo(np.float64).max), "x", np.float64)
    check_finite(np.full((3, 2), np.finfo(np.float16).max, np.float16), "x", np.float32)
    check_finite(np.array([LARGE, -LARGE]), "x", np.float32)


def test_values_that_the_networks_dtype_cannot_hold_are_found():
    x = X.copy()
    x[2, 1], x[3, 0] = -1e39, 1e300
    check_finite(x, "x", np.float64)
    with pytest.raises(InputError, match=r"2 values are too large for float32 in x, .*\(-1e\+39\) at row 2, column 1"):
        check_finite(x, "x", np.float32)


@pytest.mark.parametrize("x", WHOLE.values(), ids=WHOLE)
def test_whole_numbers_are_finite(x):
    check_finite(x, "x", np.float32)


@pytest.mark.parametrize(
    ("index", "said"), [((3,), "row 3"), ((3, 1), "row 3, column 1"), ((0, 3, 1), "member 0, row 3, column 1")]
)
def test_place(index, said):
    assert place(index) == said
