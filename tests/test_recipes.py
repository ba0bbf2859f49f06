"""Recipes: what they make is what they say, from Python and on the command line; every entry can be overridden."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop import recipes
from gpu_backprop.arguments.parser import parse
from gpu_backprop.backend.lazy_rows import LazyRows
from gpu_backprop.commands.building import (
    build_network,
    build_trainer,
    choose_encoding,
    choose_fit_options,
    choose_recipe,
    read_design,
)
from gpu_backprop.commands.errors import Misuse
from gpu_backprop.data import Arrays, Preprocessing, Table
from gpu_backprop.data.encoding import PLAIN, TABULAR, Encoding

RANDOM = np.random.default_rng(0)


def table(rows=60, columns=3, classes=2):
    values = {f"x{k}": RANDOM.normal(size=rows) for k in range(columns)}
    label = np.array([f"c{k % classes}" for k in range(rows)], object)
    return Table("a table", {**values, "sort": RANDOM.choice(["a", "b", "c"], rows).astype(object), "y": label})


def chosen(*words, data=None, target="y", rows=None):
    """The options, the recipe and what is made of it, as `train` makes them."""
    options = parse(["train", "table.csv", "--device", "cpu", *words])
    design = read_design(options)
    data = table() if data is None else data
    prepared = Preprocessing.fit(data, target, encoding=choose_encoding(options))
    rows = 60 if rows is None else rows
    recipe = choose_recipe(options, design, prepared, rows)
    net = build_network(options, design, recipe, prepared, prepared.transform(data))
    return argparse.Namespace(
        options=options, recipe=recipe, net=net, prepared=prepared,
        trainer=build_trainer(options, design, recipe, net, rows), how=choose_fit_options(options, recipe, rows),
    )  # fmt: skip


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(("rows", "columns"), [(20, 5), (20, 100), (2_000, 10), (200_000, 30)])
def test_a_recipe_makes_layers_and_an_optimizer(name, task, rows, columns):
    recipe = recipes.RECIPES[name](task, rows, columns)
    assert recipe.name == name
    x, y = RANDOM.normal(size=(20, columns)), RANDOM.integers(0, 3, 20)
    classes = task == "classification"
    output = "softmax" if classes else "identity"
    net = recipe.make_network(columns, 3, output, x=x, numbers=2, device="cpu")
    how = recipe.fit_options(rows)
    assert ("early_stopping" in how) == (rows >= 100)
    how |= {"epochs": 2, "validation_split": 0.3}
    recipe.make_trainer(net, rows).fit(x, y if classes else np.eye(3)[y], **how, progress=False)
    assert np.isfinite(net.predict(x)).all()


def test_a_batch_size_that_is_asked_for_is_kept():
    assert chosen("--batch-size", "50").trainer.batch_size == 50
    assert chosen("--recipe", "plain").trainer.batch_size == 32


@pytest.mark.parametrize("batch_size", [1, 32, 256])
@pytest.mark.parametrize("folds", [None, 4])
def test_the_last_minibatch_is_no_small_one(batch_size, folds):
    recipe = recipes.Recipe("r", batch_size=batch_size, even_batches=True, validation=0.2)
    net = recipe.make_network(1, 2, "softmax", device="cpu")
    for rows in range(2, 1500, 37):
        size = recipe.make_trainer(net, rows, folds=folds).batch_size
        learned = rows - round(rows * (1 / folds if folds else recipe.validation_share(rows)))
        steps = -(-learned // size)
        last = learned - (steps - 1) * size
        assert size - last < steps  # as even as whole numbers can be
        assert learned <= batch_size or batch_size / 2 < size < 1.5 * batch_size + 1


@pytest.mark.parametrize(
    ("images", "rows", "columns", "name"),
    [(True, 50_000, 784, "images"), (False, 1_000, 10, "tabular"), (False, 300, 10, "small-table"),
     (False, 301, 10, "tabular"), (False, 400, 500, "small-table")],
)  # fmt: skip
def test_the_data_choose_the_recipe(images, rows, columns, name):
    assert recipes.choose(images, rows, columns) == name


def test_the_command_takes_the_recipe_of_the_data():
    made = chosen()
    assert made.recipe == recipes.small_table("classification", 60, 4)
    assert chosen(rows=5_000).recipe == recipes.tabular("classification", 5_000, 4)
    assert chosen("--recipe", "plain", rows=5_000).recipe == recipes.plain("classification", 5_000, 4)


@pytest.mark.parametrize("largest", [255, 16, 1])
def test_images_have_their_recipe_be_they_ever_so_dark(largest):
    pixels = RANDOM.integers(0, largest + 1, (60, 16), np.uint8)
    images = Arrays("images", pixels, np.arange(60) % 2, images=True)
    assert chosen(data=images, target=None).recipe.name == "images"
    numbers = Arrays("numbers", pixels.astype(float), np.arange(60) % 2)
    assert chosen(data=numbers, target=None).recipe.name == "small-table"


def test_options_override_entries():
    words = ["--layers", "8,4", "--epochs", "7", "--batch-size", "30", "--dropout", "0.5", "--learning-rate", "0.5"]
    made = chosen(*words, "--schedule", "cosine", "--validation", "0.25", "--patience", "3")
    assert made.recipe.layers == (8, 4) and made.recipe.epochs == 7 and made.recipe.dropout == 0.5
    assert [layer.units for layer in made.net.layers if isinstance(layer, gb.Dense)] == [8, 4, 2]
    assert made.trainer.optimizer.learning_rate == 0.5 and made.trainer.batch_size == 30
    assert made.how["validation_split"] == 0.25 and made.how["early_stopping"].patience == 3


def test_another_optimizer_has_its_own_rate():
    made = chosen("--optimizer", "sgd")
    assert made.trainer.optimizer.learning_rate == gb.SGD().learning_rate
    assert chosen("--optimizer", "adamw", "--weight-decay", "0.5").trainer.optimizer.weight_decay == 0.5


@pytest.mark.parametrize("field", dataclasses.fields(recipes.Recipe)[2:], ids=lambda field: field.name)
def test_every_entry_can_be_set(field):
    text = {"layers": "7,5", "init": "he_normal", "output_init": "glorot_normal", "activation": "tanh",
            "dropout_schedule": "cosine", "decay_schedule": "cosine", "optimizer": "adamw", "schedule": "step",
            "monitor": "val_accuracy", "ties": "first", "data_driven": "True", "even_batches": "true",
            "calibrate": "FALSE"}.get(field.name, "0.5")  # fmt: skip
    if type(field.default) is int or field.name == "patience":
        text = "9"
    (own, of_encoding), name = recipes.read_entries({field.name: text}), field.name
    assert not of_encoding
    changed = recipes.tabular("classification", 1000, 5).replace(**own)
    assert getattr(changed, name) != field.default or text in ("FALSE", "first")
    options = parse(["train", "table.csv", "--set", f"{name}={text}"])
    assert options.set == [(name, text)]


def test_entries_of_the_encoding_can_be_set():
    assert choose_encoding(parse(["train", "t.csv", "--set", "numbers=quantile"])).numbers == "quantile"
    assert choose_encoding(parse(["train", "t.csv"])) == TABULAR
    assert choose_encoding(parse(["train", "t.csv", "--recipe", "plain"])) == PLAIN
    assert recipes.read_entries({"clip": "false", "rare": "4"}) == ({}, {"clip": False, "rare": 4})
    given = {"layers": (8,), "rare": 4, "ordinal": {"size": ["small", "large"]}}
    own, of_encoding = recipes.divide_entries(given)
    assert (own, of_encoding) == ({"layers": (8,)}, {"rare": 4, "ordinal": given["ordinal"]})


def test_what_a_user_asks_for_implies_other_entries():
    recipe = recipes.tabular("classification", 40, 5)
    assert recipe.override({}) == recipe
    assert not recipe.override({"batch_size": 30}).even_batches
    assert recipe.validation_share(40) == 0
    assert recipe.override({"validation": 0.1}).validation_share(40) == 0.1


def test_validation_rows_that_are_given_take_the_place_of_a_share():
    recipe, rows = recipes.tabular("classification", 40, 5), (np.zeros((9, 5)), np.zeros(9))
    how = recipe.fit_options(1000, validation=rows)
    assert (how["validation"], how["validation_split"]) == (rows, 0)
    assert how["early_stopping"].monitor == recipe.monitor
    assert not {"validation", "folds"}.intersection(recipe.fit_options(1000))


@pytest.mark.parametrize(
    ("entry", "message"),
    [("numbers", "is not an entry of a recipe with its value"), ("depth=3", "a recipe has no entry 'depth'"),
     ("lr=3", "no entry 'lr'; did you mean 'learning_rate'? it has"), ("epoch=3", "did you mean 'epochs'?"),
     ("name=mine", "a recipe has no entry 'name'"), ("layers=a", "layers must be whole numbers"),
     ("layers=0", "the units of each of the layers must be"), ("batch_size=0", "batch_size must be an integer ≥ 1"),
     ("batch_size=-3", "batch_size must be an integer ≥ 1"), ("batch_size=10.5", "batch_size must be an integer ≥ 1"),
     ("epochs=abc", "epochs must be an integer ≥ 1"), ("epochs=-1", "epochs must be an integer ≥ 1"),
     ("patience=0", "patience must be an integer ≥ 1"), ("periodic=2.5", "periodic must be an integer ≥ 0"),
     ("least_validation=-1", "least_validation must be an integer ≥ 0"), ("periodic=true", "periodic must be an"),
     ("validation=-0.1", "validation must be a number in [0, 1)"), ("validation=2", "validation must be a number in"),
     ("dropout=1", "dropout must be a number in [0, 1)"), ("label_smoothing=x", "label_smoothing must be a number in"),
     ("scale=-1", "scale must be a finite number ≥ 0"), ("bias_rate=inf", "bias_rate must be a finite number ≥ 0"),
     ("periodic_rate=none", "periodic_rate must be a finite number ≥ 0"), ("beta2=1", "beta2 must be a number in"),
     ("learning_rate=0", "learning_rate must be a finite number > 0"), ("weight_decay=-1", "weight_decay must be a"),
     ("calibrate=maybe", "calibrate must be True or False"), ("even_batches=3", "even_batches must be True or False"),
     ("data_driven=none", "data_driven must be True or False"), ("optimizer=foo", "unknown optimizer 'foo'"),
     ("activation=tanh,rleu", "unknown activation 'rleu'"), ("init=foo", "unknown init 'foo'"),
     ("output_init=foo", "unknown output_init 'foo'"), ("schedule=foo", "unknown schedule 'foo'"),
     ("dropout_schedule=plateau", "unknown dropout_schedule"), ("decay_schedule=1", "unknown decay_schedule 1"),
     ("schedule=none", "unknown schedule None"), ("ties=both", "unknown ties 'both'"),
     ("monitor=val_foo", "monitor must be loss or a metric"), ("numbers=foo", "numbers is 'foo'; choose one of"),
     ("rare=-1", "rare is '-1'"), ("clip=maybe", "clip is 'maybe'")],
)  # fmt: skip
def test_no_such_entry(capsys, entry, message):
    with pytest.raises(SystemExit):
        parse(["train", "table.csv", "--set", entry])
    assert message in capsys.readouterr().err


def test_no_such_entry_in_python():
    with pytest.raises(gb.InputError, match="Recipe has no argument zzz. It takes name, encoding, layers"):
        recipes.plain("regression", 10, 2).replace(zzz=3)


@pytest.mark.parametrize(
    ("entries", "message"),
    [({"batch_size": 0}, "batch_size must be an integer"), ({"encoding": "plain"}, "encoding must be an Encoding"),
     ({"layers": 5}, "layers must be the units of each hidden layer"), ({"activation": 3}, "unknown activation 3"),
     ({"activation": ("relu", "tanh")}, "activation names 2 functions for 1 hidden layers; give one for all of them"),
     ({"layers": (5, 5), "activation": ("relu",)}, "names 1 functions for 2 hidden layers")],
)  # fmt: skip
def test_an_entry_is_checked_in_python(entries, message):
    with pytest.raises(gb.InputError, match=message):
        recipes.plain("regression", 10, 2).replace(**entries)
    with pytest.raises(gb.InputError, match=message):
        recipes.Recipe("mine", **entries)


@pytest.mark.parametrize("recipe", recipes.RECIPES.values())
def test_what_a_recipe_is_for_is_checked(recipe):
    with pytest.raises(gb.InputError, match="unknown task 'foo'"):
        recipe("foo", 100, 3)
    with pytest.raises(gb.InputError, match="rows must be an integer ≥ 1, got 0"):
        recipe("classification", 0, 3)


@pytest.mark.parametrize(
    ("words", "differs"),
    [(["--set", "numbers=quantile", "--set", "clip=false"], {"numbers": "quantile", "clip": False}),
     (["--recipe", "plain", "--set", "numbers=quantile"], {"numbers": "quantile"}), (["--set", "dates=True"], {}),
     (["--set", "dates=FALSE"], {"dates": False}), (["--recipe", "plain"], {}), ([], {}),
     (["--ordinal", "sort=a<b<c"], {"ordinal": {"sort": ("a", "b", "c")}})],
)  # fmt: skip
def test_the_encoding_that_is_shown_is_the_one_that_is_used(words, differs):
    made = chosen(*words)
    encoding = dataclasses.replace(PLAIN if "plain" in words else TABULAR, **differs)
    assert made.recipe.encoding == encoding == choose_encoding(made.options)
    assert all(name in str(made.recipe) for name, value in differs.items() if value)
    assert ("clip," in str(made.recipe)) == encoding.clip


def test_activations_are_shown_as_they_are_used():
    words = ["--layers", "8,4,3", "--activation", "tanh,relu,gelu,softmax"]
    made = chosen(*words)
    assert made.recipe.activation == ("tanh", "relu", "gelu") and "selu" not in str(made.recipe)
    dense = [layer.activation.name for layer in made.net.layers if isinstance(layer, gb.Dense)]
    assert dense == ["tanh", "relu", "gelu", "softmax"]
    assert chosen("--set", "activation=tanh,relu,gelu").net.layers[2].activation.name == "tanh"


@pytest.mark.parametrize("names", ["tanh,relu", "tanh,tanh,tanh,softmax", "tanh,tanh,tanh,relu,gelu"])
def test_as_many_activations_as_the_recipe_has_layers(names):
    count = names.count(",") + 1
    with pytest.raises(Misuse, match=f"names {count} functions for the 3 hidden layers of recipe small-table; give"):
        chosen("--activation", names)


@pytest.mark.parametrize(
    ("option", "entry"),
    [(["--layers", "10"], "layers=20"), (["--epochs", "3"], "epochs=4"), (["--optimizer", "sgd"], "optimizer=adam"),
     (["--learning-rate", "1"], "learning_rate=2"), (["--activation", "tanh"], "activation=relu")],
)  # fmt: skip
def test_two_values_of_one_entry(option, entry):
    with pytest.raises(Misuse, match=f"{option[0]} and --set {entry} contradict each other; leave one of them out"):
        chosen(*option, "--set", entry)
    name, same = entry.partition("=")[0], option[1]
    assert getattr(chosen(*option, "--set", f"{name}={same}").recipe, name) == getattr(chosen(*option).recipe, name)


def test_an_entry_is_as_the_option_of_its_name():
    for name, value in (("optimizer", "sgd"), ("optimizer", "adam"), ("validation", "0.3"), ("batch-size", "7")):
        by_option, by_entry = chosen(f"--{name}", value), chosen("--set", f"{name.replace('-', '_')}={value}")
        assert by_option.recipe == by_entry.recipe
        assert repr(by_option.trainer.optimizer) == repr(by_entry.trainer.optimizer)
    with pytest.raises(Misuse, match="--set validation: the members of an --ensemble are validated on a fold each"):
        chosen("--ensemble", "4", "--set", "validation=0.3")


def test_another_optimizer_in_python():
    recipe = recipes.tabular("classification", 1000, 5)
    assert repr(recipe.replace(optimizer="sgd").make_optimizer().settings) == repr(gb.SGD().settings)
    assert recipe.replace(optimizer="adam").beta2 == recipe.beta2
    assert recipe.replace(optimizer="sgd", learning_rate=0.5).make_optimizer().learning_rate == 0.5


@pytest.mark.parametrize("folds", [None, 4])
@pytest.mark.parametrize("rows", [20, 2_000])
def test_the_plateau_is_of_the_validation_rows_or_else_of_those_to_learn_from(rows, folds):
    recipe = recipes.tabular("classification", rows, 5).replace(schedule="plateau")
    how = recipe.fit_options(rows, folds)
    (plateau,) = [each for each in how["callbacks"] if isinstance(each, gb.ReduceOnPlateau)]
    assert plateau.monitor == ("val_loss" if how["validation_split"] or folds else "loss")
    assert not recipes.tabular("regression", rows, 5).fit_options(rows)["callbacks"]


@pytest.mark.parametrize("lazy", [False, True])
def test_the_start_depends_on_rows_that_are_evenly_spread(lazy):
    x = np.sort(RANDOM.normal(size=(20_001, 1)), axis=0)
    recipe = recipes.tabular("classification", len(x), 1).replace(layers=(8,))
    given = LazyRows(x.shape, x.dtype, lambda rows: x[rows]) if lazy else x
    first, again = (
        recipe.make_network(1, 2, "softmax", x=rows, numbers=1, device="cpu").parameters
        for rows in (given, np.ascontiguousarray(x[::3]))
    )
    np.testing.assert_array_equal(first, again)


def test_cross_entropy_is_the_usual_loss():
    made, usual = chosen("--loss", "cross_entropy"), chosen()
    assert made.recipe == usual.recipe and made.recipe.calibrate and made.recipe.label_smoothing
    assert made.trainer.loss == usual.trainer.loss and made.trainer.metrics == usual.trainer.metrics


def test_a_recipe_is_shown_entry_by_entry():
    shown = str(recipes.tabular("classification", 1000, 5))
    for entry in ("layers", "activation", "learning_rate", "schedule", "batch_size", "epochs"):
        assert f"\n  {entry} " in f"\n{shown}"
    assert "numbers='robust', clip" in shown
    assert "encoding          plain" in str(recipes.Recipe("r", encoding=Encoding()))


def test_another_loss_has_no_smoothing_and_no_temperature():
    made = chosen("--loss", "binary_cross_entropy", rows=5_000)
    assert made.recipe.monitor == "val_loss" and not made.recipe.calibrate
    assert made.trainer.loss.name == "binary_cross_entropy"
