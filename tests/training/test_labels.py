"""Labels that are text: what a fit makes of them, what it keeps, and what `predict_labels` gives."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.backend.errors import InputError, StateError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
NUMBERS = np.argmax(X[:, :3], axis=1)
NAMES = ["cat", "dog", "emu"]
TEXT = [NAMES[number] for number in NUMBERS]
SIDES = ["no" if v < 0 else "yes" for v in X[:, 0]]


def network(outputs=3, activation="softmax", **options):
    return gb.Network(4, [gb.Dense(8, "tanh"), gb.Dense(outputs, activation)], **options)


def fitted(y, net=None, **options):
    net = net or network()
    trainer = gb.Trainer(net, batch_size=16)
    trainer.fit(X, y, 3, progress=False, **options)
    return trainer


def refuses(message, kind=InputError):
    return pytest.raises(kind, match=message)


def series(kind):
    def make(labels):
        return pytest.importorskip("pandas").Series(labels, dtype=kind, index=range(7, 7 + len(labels)))

    return make


def polars(kind):
    def make(labels):
        library = pytest.importorskip("polars")
        return library.Series(labels, dtype=getattr(library, kind))

    return make


def arrow(encode):
    def make(labels):
        column = pytest.importorskip("pyarrow").chunked_array([labels[:9], labels[9:]])
        return column.dictionary_encode() if encode else column

    return make


FORMS = {
    "list": list,
    "tuple": tuple,
    "str array": np.array,
    "object array": lambda labels: np.array(labels, object),
    "StringDType": lambda labels: np.array(labels, np.dtypes.StringDType()),
    "Series": series(None),
    "object Series": series(object),
    "category": series("category"),
    "frame of one column": lambda labels: series(None)(labels).to_frame(),
    "polars": polars("String"),
    "polars categories": polars("Categorical"),
    "pyarrow": arrow(False),
    "pyarrow dictionary": arrow(True),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_text_of_any_form_trains_as_its_numbers(make):
    held_out = X[:20], make(TEXT[:20])
    by_text, by_number = fitted(make(TEXT), validation=held_out), fitted(NUMBERS, validation=(X[:20], NUMBERS[:20]))
    assert by_text.network.classes == NAMES and by_number.network.classes is None
    for name in ("loss", "val_loss", "val_accuracy"):
        assert by_text.history[-1][name] == by_number.history[-1][name]
    assert by_text.evaluate(*held_out) == by_number.evaluate(X[:20], NUMBERS[:20])
    assert float(by_text.step(X, make(TEXT))) == float(by_number.step(X, NUMBERS))


def test_two_classes_with_one_output():
    by_text, by_number = fitted(SIDES, network(1, "sigmoid")), fitted(X[:, 0] >= 0, network(1, "sigmoid"))
    assert by_text.network.classes == ["no", "yes"]
    assert by_text.history[-1]["accuracy" if "accuracy" in by_text.history.columns else "loss"] is not None
    assert by_text.history[-1]["loss"] == by_number.history[-1]["loss"]
    y = by_text.network.predict(X)[:, 0]
    np.testing.assert_array_equal(by_text.network.predict_labels(X), np.where(y >= 0.5, "yes", "no"))
    np.testing.assert_array_equal(by_number.network.predict_labels(X), y >= 0.5)


def test_classes_that_are_set_say_which_output_is_which():
    net = network()
    net.classes = ["emu", "cat", "dog"]
    trainer = fitted(TEXT, net)
    assert net.classes == ["emu", "cat", "dog"]
    assert trainer.history[-1]["loss"] == fitted((NUMBERS + 1) % 3).history[-1]["loss"]
    few = network()
    few.classes = np.array(NAMES)
    fitted(["dog"] * 60, few)  # which not all have to be there
    assert few.predict_labels(X).dtype.kind == "U"


def test_a_further_fit_has_the_same_classes():
    trainer = fitted(TEXT)
    trainer.fit(X[NUMBERS != 1], [name for name in TEXT if name != "dog"], 1, progress=False)
    assert trainer.network.classes == NAMES
    with refuses(r"^y holds the label 'fox' at row 0, which is none of the network's classes: 'cat', 'dog', 'emu'"):
        trainer.fit(X, ["fox", *TEXT[1:]], 1, progress=False)
    with refuses("^validation data: y holds the label 'fox' at row 1"):
        trainer.fit(X, TEXT, 1, validation=(X[:2], ["cat", "fox"]), progress=False)
    with refuses("^y holds the label 'fox' at row 0"):
        trainer.evaluate(X[:1], ["fox"])


def test_labels_that_are_numbers_are_those_of_outputs_whatever_the_classes_are():
    net = network()
    net.classes = [3, 5, 7]
    fitted(NUMBERS, net)
    assert set(net.predict_labels(X)) <= {3, 5, 7} and net.predict_labels(X).dtype == np.int64
    hint = r"np\.unique\(y, return_inverse=True\) numbers others from 0 on"
    with refuses(rf"^labels must be from 0 to 2, because the network has 3 outputs, but there is 3 .*\. {hint}\.$"):
        fitted([3, 5, 7] * 20, net)


def test_nothing_has_happened_where_the_fit_cannot_be():
    for options in ({"validation": (X[:2], ["cat", "fox"])}, {"validation_split": 2}, {"class_weight": {"fox": 1.0}}):
        net = network()
        with pytest.raises(InputError):
            fitted(TEXT, net, **options)
        assert net.classes is None


def test_class_weight_and_folds_know_the_names():
    by_text = fitted(TEXT, class_weight={"dog": 3.0}, validation_split=0.2)
    by_number = fitted(NUMBERS, class_weight={1: 3.0}, validation_split=0.2)
    assert by_text.history[-1]["val_loss"] == by_number.history[-1]["val_loss"]
    named = network()
    named.classes = np.array(NAMES)
    assert fitted(NUMBERS, named, class_weight={"dog": 3.0}).history[-1] is not None
    members = fitted(TEXT, network(seed=[0, 1]), folds=2)
    assert members.network.classes == NAMES
    labels = members.network.predict_labels(X)
    assert labels.shape == (2, 60)
    members.network.averaged = True
    np.testing.assert_array_equal(
        members.network.predict_labels(X), np.array(NAMES)[members.network.predict(X).argmax(axis=1)]
    )


@pytest.mark.parametrize(
    ("y", "net", "message"),
    [
        (
            TEXT,
            network(2),
            r"^y has 3 different labels, 'cat', 'dog', 'emu', but the network tells 2 classes",
        ),
        (
            TEXT,
            network(4),
            r"^y has 3 .* tells 4 classes apart\. Let Dense\(3, 'softmax'\) be .* set net\.classes",
        ),
        (TEXT, network(1, "sigmoid"), "^y has 3 different labels, .* the network tells 2 classes apart"),
        (TEXT, network(3, "sigmoid"), "^y holds text, such as '...', and text is for classes: an output for each"),
        (TEXT, network(1, "identity"), "^y holds text, such as '...', and text is for classes"),
        ([*TEXT[:-1], None], network(), "^1 label in y is missing; the first one is None at row 59. Take these"),
        ([*TEXT[:-2], None, np.nan], network(), "^2 labels in y are missing; the first one is None at row 58"),
        ([*TEXT[:-1], 3], network(), "^1 label in y is no text, and others are; the first one is 3 at row 59"),
        ([[name] for name in TEXT], network(), "^y must hold real numbers .* dtype <U3"),
        (
            np.array(TEXT)[:, None],
            network(),
            r"^y must be \(60, 3\) .* got \(60, 1\)\. Labels are one axis less",
        ),
        (TEXT[:1], network(2), r"^y must have one target for each row of x, got y of shape \(1,\)"),
        (TEXT[:-1], network(), r"^y must have one target for each row of x, got y of shape \(59,\)"),
    ],
)
def test_text_that_cannot_be_learned(y, net, message):
    with refuses(message):
        fitted(y, net)
    assert net.classes is None


def test_names_that_are_not_as_many_as_the_classes():
    net = network()
    net.classes = ["cat", "dog"]
    for use in (lambda: fitted(TEXT, net), lambda: net.predict_labels(X)):
        with refuses("^net.classes has 2 names, 'cat', 'dog', and the network tells 3 classes apart: give"):
            use()


def test_only_a_fit_learns_classes():
    trainer = gb.Trainer(network())
    with refuses("^y holds text, and the network does not know which output stands for which label: fit learns it, or"):
        trainer.evaluate(X, TEXT)
    with refuses("^y holds text, and the network does not know"):
        trainer.step(X, TEXT)
    trainer.find_learning_rate(X, TEXT, steps=20)
    trainer.diagnose(X, TEXT)
    assert trainer.network.classes is None


def test_lbfgs_learns_classes():
    pytest.importorskip("scipy")
    by_text, by_number = network(dtype="float64"), network(dtype="float64")
    history = gb.fit_lbfgs(by_text, X, TEXT, iterations=3, validation=(X, TEXT), progress=False)
    known = gb.fit_lbfgs(by_number, X, NUMBERS, iterations=3, validation=(X, NUMBERS), progress=False)
    assert by_text.classes == NAMES and history[-1]["val_loss"] == known[-1]["val_loss"]


def test_a_model_file_and_a_checkpoint_keep_the_classes(tmp_path):
    trainer = fitted(TEXT, callbacks=[gb.Checkpoint(tmp_path / "kept")])
    gb.save(tmp_path / "m.safetensors", trainer.network)
    loaded = gb.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(loaded.predict_labels(X), trainer.network.predict_labels(X))

    def resumed(y):
        again = gb.Trainer(network(), batch_size=16)
        again.resume(tmp_path / "kept")
        again.fit(X, y, 3, callbacks=[gb.Checkpoint(tmp_path / "kept")], progress=False)
        return again.network.classes

    assert resumed(TEXT) == NAMES
    with refuses(r"classes\[0\] is ant here, and cat in the checkpoint"):
        resumed([name.replace("cat", "ant") for name in TEXT])


def test_what_predicts_no_label():
    several = r"^predict_labels is for one class a row, .*, and each of its 3 sigmoid outputs is a yes or no of its own"
    with refuses(several, StateError):
        network(3, "sigmoid").predict_labels(X)
    with refuses(r"and this network ends in identity: use net\.predict\(x\)\.$", StateError):
        network(1, "identity").predict_labels(X)


def test_one_hot_frames_and_probabilities_are_targets():
    pandas = pytest.importorskip("pandas")
    known = fitted(np.eye(3)[NUMBERS]).history[-1]["loss"]
    dummies = pandas.get_dummies(pandas.Series(TEXT))
    assert fitted(dummies).history[-1]["loss"] == known
    assert fitted(dummies.astype("Float64")).history[-1]["loss"] == known
    with refuses("^the probabilities in a row of y must add up to 1, but row 0 adds up to"):
        fitted(dummies * 0.5)
