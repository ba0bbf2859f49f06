"""What a network makes of columns: networks whose weights are known say what has to be found."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop import inspection
from gpu_backprop.data import Arrays, Preprocessing, Table, read
from gpu_backprop.data.encoding import TABULAR

RNG = np.random.default_rng(0)
A, NOISE = RNG.normal(5, 2, 300), RNG.normal(size=300)
KIND = RNG.choice(["x", "y", "z"], 300)


def network(data, weight, activation="identity", target="t", bias=None, **how):
    """A single layer: `weight` gives for the name of each input its row of the weights."""
    preprocessing = Preprocessing.fit(data, target, **how)
    net = gb.Network(preprocessing.inputs, [gb.Dense(preprocessing.outputs, activation)], device="cpu", seed=0)
    net.layers[0].weight[:] = [weight(name) for name in preprocessing.features]
    net.layers[0].bias[:] = 0 if bias is None else bias
    net.preprocessing, net.classes = preprocessing, preprocessing.classes
    return net


def linear(rows=slice(None)):
    """t = 10·a, learned exactly: of a scaled to z, t is scaled to z as well."""
    table = Table("lines", {"noise": NOISE[rows], "kind": KIND[rows], "a": A[rows], "t": 10 * A[rows]})
    return network(table, lambda name: [float(name == "a")]), table


class TestImportance:
    def test_what_the_network_does_not_read_has_none_and_what_decides_comes_first(self):
        net, table = linear()
        found = gb.inspect_model(net, table)
        assert (found.task, found.loss_name, found.rows, found.columns.rows) == ("regression", "RMSE", 300, 300)
        assert found.loss == pytest.approx(0, abs=1e-4)
        assert [each.column for each in found.columns.importances] == ["a", "noise", "kind"]
        assert [(each.rise, each.spread) for each in found.columns.importances[1:]] == [(0, 0)] * 2

    def test_the_rise_is_that_of_shuffled_values_in_the_units_of_the_data(self):
        net, table = linear()
        rises = [
            np.sqrt(((10 * (A[np.random.default_rng(seed).permutation(300)] - A)) ** 2).mean()) for seed in range(5)
        ]
        first = gb.inspect_model(net, table).columns.importances[0]
        assert first.rise == pytest.approx(np.mean(rises), rel=1e-4)
        assert first.spread == pytest.approx(np.std(rises, ddof=1), rel=1e-3)

    def test_all_inputs_of_a_column_move_together(self):
        """A column of text that says one thing by two inputs: moved one by one, there would be rows that are both."""
        table = Table("t", {"kind": KIND, "noise": NOISE, "t": np.where(KIND == "x", "yes", "no")})
        sure = {"kind=x": [-9, 9], "kind=y": [9, -9], "kind=z": [9, -9]}
        found = gb.inspect_model(network(table, lambda name: sure.get(name, [0, 0]), "softmax"), table)
        wrong = [((KIND == "x") != (KIND[np.random.default_rng(s).permutation(300)] == "x")).mean() for s in range(5)]
        eps = np.finfo(np.float32).eps
        assert found.loss_name == "log loss"
        assert found.columns.importances[0].column == "kind"
        assert found.columns.importances[0].rise == pytest.approx(np.mean(wrong) * -np.log(eps), rel=0.2)
        assert found.columns.importances[1].rise == 0

    def test_which_inputs_a_column_makes_is_found_by_holding_it_still(self):
        kind = KIND.astype(object)
        kind[3] = None
        columns = {"a": A, "kind": kind, "same": np.ones(300), "city": KIND + KIND[::-1], "noise": NOISE, "t": A}
        columns = {
            name: np.asarray(column, object if column.dtype.kind == "U" else None) for name, column in columns.items()
        }
        table = Table("t", columns)
        fitted = Preprocessing.fit(table, "t", impute="mean", hashed={"city": 8})
        inputs = inspection._inputs_of(fitted, table, fitted.transform(table))
        for name, places in inputs.items():
            own = [k for k, feature in enumerate(fitted.features) if feature.split("=")[0].split(" ")[0] == name]
            moving = [k for k in own if np.ptp(fitted.transform(table)[:, k]) > 0]
            assert places.tolist() == moving
        assert inputs["same"].size == 0

    def test_the_same_rows_give_the_same_numbers(self):
        net, table = linear()
        first, again = (gb.inspect_model(net, table).columns for _ in range(2))
        assert first.importances == again.importances

    def test_of_many_rows_some_are_shuffled(self, monkeypatch):
        monkeypatch.setattr(inspection, "ROWS", 50)
        net, table = linear()
        found = gb.inspect_model(net, table)
        assert (found.rows, found.columns.rows, found.columns.averaged) == (300, 50, 50)
        monkeypatch.setattr(inspection, "ROWS", 2000)
        monkeypatch.setattr(inspection, "WORK", 3 * 5 * 120)  # for three columns
        assert gb.inspect_model(net, table).columns.rows == 120

    def test_a_network_without_probabilities_is_judged_by_its_errors(self):
        table = Table("t", {"a": A, "t": np.where(A > 5, "high", "low")})
        net = network(table, lambda _: [9, -9], bias=[9 * (A.mean() - 5) / A.std(), -9 * (A.mean() - 5) / A.std()])
        found = gb.inspect_model(net, table)
        assert (found.loss_name, found.loss, found.worst) == ("error rate", 0, [])
        assert found.columns.importances[0].rise == pytest.approx(0.5, abs=0.05)


class TestDependence:
    def test_of_a_linear_function_it_is_that_function(self):
        net, table = linear()
        a = gb.inspect_model(net, table).columns.dependences[0]
        assert len(a.values) == inspection.POINTS and set(a.values) <= set(A) and (np.diff(a.values) > 0).all()
        np.testing.assert_allclose(a.y[:, 0], 10 * a.values, rtol=1e-4)
        np.testing.assert_allclose(a.deciles, np.quantile(A, np.arange(1, 10) / 10))

    def test_what_the_network_does_not_read_has_a_flat_one(self):
        net, table = linear()
        found = gb.inspect_model(net, table).columns
        assert found.outputs == ["t"] and found.averaged == 300
        for each in found.dependences[1:]:
            np.testing.assert_allclose(each.y, np.broadcast_to(found.mean, each.y.shape), rtol=1e-5)

    def test_of_text_the_categories_most_frequent_first(self, monkeypatch):
        kind = np.array(["rare"] * 10 + ["often"] * 30 + [None] * 20, object)
        table = Table("t", {"kind": kind, "t": np.where(kind == "often", "yes", "no")})
        net = network(table, lambda name: [-5, 5] if name == "kind=often" else [5, -5], "softmax", impute="mean")
        (one,) = gb.inspect_model(net, table).columns.dependences
        assert one.values.tolist() == ["often", "missing", "rare"]
        np.testing.assert_allclose(one.y[:, 0], [1, 0, 0], atol=1e-4)  # of two classes the second
        monkeypatch.setattr(inspection, "CATEGORIES", 2)
        (one,) = gb.inspect_model(net, table).columns.dependences
        assert (one.values.tolist(), one.others) == (["often", "missing"], 1)

    def test_numbers_with_units_are_numbers(self, tmp_path):
        path = tmp_path / "prices.csv"
        path.write_text("cost,t\n" + "".join(f'"${a * 1000:,.2f}",{10 * a}\n' for a in A))
        net = network(table := read(path), lambda _: [1.0])
        cost = gb.inspect_model(net, table).columns.dependences[0]
        np.testing.assert_allclose(cost.y[:, 0], cost.values / 100, rtol=1e-3)

    def test_dates_are_years(self):
        days = np.arange("2020-01-01", "2026-01-01", 10, "M8[D]")
        table = Table("t", {"day": days, "t": np.arange(len(days)) * 10.0})
        net = network(table, lambda name: [float(name == "day days")], encoding=TABULAR)
        day = gb.inspect_model(net, table).columns.dependences[0]
        assert day.values[0] == pytest.approx(2020.1, abs=0.05) and day.values[-1] == pytest.approx(2025.9, abs=0.05)
        assert (np.diff(day.y[:, 0]) > 0).all()

    def test_numbers_that_are_categories_are_texts(self):
        table = Table("t", {"code": np.array(["1", "2", "1", "3"] * 9, object), "t": A[:36]}, text=["code"])
        net = network(table, lambda name: [float(name == "code=2")])
        numbers = Table("t", {"code": np.array([1.0, 2, 1, 3] * 9), "t": A[:36]})
        for given in (table, numbers):
            assert gb.inspect_model(net, given).columns.dependences[0].values.tolist() == ["1", "2", "3"]

    def test_of_many_classes_the_most_frequent_are_followed(self):
        labels = np.repeat(np.arange(7), [2, 3, 4, 5, 6, 7, 8])
        table = Table("t", {"a": A[:35], "t": np.array([f"class {k}" for k in labels], object)})
        found = gb.inspect_model(network(table, lambda _: np.arange(7), "softmax"), table).columns
        assert found.outputs == [f"class {k}" for k in range(2, 7)] and found.dependences[0].y.shape == (20, 5)

    def test_of_arrays_the_features(self):
        x = np.stack([NOISE, A], axis=1)
        data = Arrays("a", x, np.stack([A, -A], axis=1))
        net = network(data, lambda name: [1, -1] if name == "x[1]" else [0, 0], target=None)
        found = gb.inspect_model(net, data).columns
        assert [each.column for each in found.importances] == ["x[1]", "x[0]"] and found.outputs == ["y[0]", "y[1]"]
        np.testing.assert_allclose(found.dependences[0].y, found.dependences[0].values[:, None] * [1, -1], rtol=1e-4)

    def test_a_column_without_a_value_has_none(self):
        table = Table("t", {"a": A, "gone": NOISE, "t": A})
        net = network(table, lambda name: [float(name == "a")], impute="mean")
        without = Table("t", {"a": A, "gone": np.full(300, np.nan), "t": A})
        assert len(gb.inspect_model(net, without).columns.dependences[1].values) == 0


class TestWorstRows:
    def test_they_are_found_in_the_file_with_their_values(self, tmp_path):
        rows = [f"{'' if n == 7 else n},{'abc'[n % 3]},{'no' if n == 7 else 'yes'}" for n in range(30)]
        (tmp_path / "t.csv").write_text("\n".join(["n,kind,t", *rows]) + "\n")
        table = read(tmp_path / "t.csv")
        net = network(table, lambda _: [0, 0], "softmax", bias=[0, 3], impute="median")
        worst, *others = gb.inspect_model(net, table, rows=np.arange(30) >= 5).worst
        assert (worst.place, worst.true, worst.predicted) == ("line 9", ("no",), ("yes",))
        assert worst.probability == pytest.approx(1 / (1 + np.exp(3)))
        assert dict(worst.values) == {"n": None, "kind": "b"} and len(others) == inspection.WORST - 1

    def test_of_numbers_those_farthest_off(self):
        net, table = linear()
        a = A.copy()
        a[[3, 5]] += [100, -200]
        shifted = Table("t", {**table.columns, "t": 10 * a})
        worst = gb.inspect_model(net, shifted).worst
        assert [row.place for row in worst[:2]] == ["row 6", "row 4"] and worst[0].probability is None
        assert worst[0].true[0] - worst[0].predicted[0] == pytest.approx(-2000, rel=1e-3)

    def test_several_targets_are_compared_by_their_own_errors(self):
        data = Arrays("a", NOISE[:, None], np.stack([1000 * A, A], axis=1))
        net = network(data, lambda _: [0, 0], target=None)
        far = data.y.copy()
        far[4] += [0, 50]  # beside which 1,000 times the spread of a is much, but usual
        found = gb.inspect_model(net, Arrays("a", data.x, far))
        assert found.worst[0].place == "row 5"
        expected = np.sqrt(((far - data.y.mean(axis=0)) ** 2).mean(axis=0)).mean()
        assert found.loss == pytest.approx(expected, rel=1e-5)  # the metric rmse

    def test_of_one_output_the_second_class_is_above_a_half(self):
        data = Arrays("a", A[:, None], (A > 5).astype(np.int64))
        preprocessing = Preprocessing.fit(data)
        net = gb.Network(1, [gb.Dense(1, "sigmoid")], device="cpu", seed=0)
        net.layers[0].weight[:], net.layers[0].bias[:] = -1, -1
        net.preprocessing = preprocessing
        worst = gb.inspect_model(net, data).worst[0]
        assert (worst.true, worst.predicted) == ((1,), (0,)) and worst.probability < 0.1


def test_the_pixels_of_images_say_nothing_one_by_one():
    data = Arrays("images", RNG.integers(0, 256, (20, 4, 4)).astype(np.uint8), np.arange(20) % 2)
    net = network(data, lambda _: [0, 0], "softmax", target=None)
    found = gb.inspect_model(net, data)
    assert found.columns is None and found.loss == pytest.approx(np.log(2)) and found.worst[0].values == []
    image = found.worst[0].pixels
    assert image.shape == (4, 4) and image.max() == 1
    color = Arrays("images", RNG.integers(0, 256, (20, 2, 3, 2)).astype(np.uint8), np.arange(20) % 2)
    assert gb.inspect_model(network(color, lambda _: [0, 0], "softmax", target=None), color).worst[0].pixels is None


def test_the_member_that_did_not_learn_from_a_row_answers_for_it():
    """Two members, one of which answers a and the other −a: alone each is right in its fold, their mean is 0."""
    fold = np.arange(300) % 2
    signed = np.where(fold == 0, A - A.mean(), A.mean() - A)
    table = Table("t", {"a": A, "noise": NOISE, "t": signed})
    preprocessing = Preprocessing.fit(table, "t", standardise_target=False)
    net = gb.Network(2, [gb.Dense(1)], device="cpu", seed=[0, 1])
    net.layers[0].weight[:] = A.std() * np.array([[[1], [0]], [[-1], [0]]])
    net.layers[0].bias[:] = 0
    net.preprocessing, net.averaged = preprocessing, True
    found, mean = gb.inspect_model(net, table, folds=fold), gb.inspect_model(net, table)
    assert found.loss == pytest.approx(0, abs=1e-5) and mean.loss == pytest.approx(A.std())
    assert found.columns.importances[0].column == "a" and found.columns.importances[1].rise == pytest.approx(
        0, abs=1e-6
    )
    for wrong in (fold[:5], fold + 1, fold / 2):
        with pytest.raises(gb.InputError, match="folds must be, for each of the 300 rows"):
            gb.inspect_model(net, table, folds=wrong)
    single, table = linear()
    with pytest.raises(gb.InputError, match="folds are for a network with a models axis"):
        gb.inspect_model(single, table, folds=fold)


def test_networks_that_cannot_be_inspected():
    net, table = linear()
    for rows, why in (([], "one row at least"), ([300], "of the 300 rows"), ([True], "of the 300 rows")):
        with pytest.raises(gb.InputError, match=f"rows must be indices, or a mask, .*{why}"):
            gb.inspect_model(net, table, rows=rows)
    net.layers[0].bias[:] = np.nan
    with pytest.raises(gb.InputError, match="answers NaN or infinity"):
        gb.inspect_model(net, table)
    several = gb.Network(net.inputs, [gb.Dense(1)], device="cpu", seed=[0, 1])
    with pytest.raises(gb.InputError, match=r"set net\.preprocessing"):
        gb.inspect_model(several, table)
    several.preprocessing = net.preprocessing
    with pytest.raises(gb.InputError, match="2 networks side by side"):
        gb.inspect_model(several, table)
