"""Names of other libraries: each gets an answer that names ours, and what the answer says exists."""

import ast
import inspect
import pickle
import re
from functools import cache

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.arguments.parser import _parser, parse
from gpu_backprop.backend.errors import ArgumentError, choose
from gpu_backprop.backend.foreign_names import ARGUMENTS, ARGUMENTS_OF, ATTRIBUTES, OPTIONS, VALUES
from gpu_backprop.network.layer import Layer

X, Y = np.eye(4), np.arange(4) % 3
NET = gb.Network(4, [gb.Dense(3, "softmax")], device="cpu")
TRAINER = gb.Trainer(NET)
OURS = {
    "gb": gb, "net": NET, "trainer": TRAINER, "layer": NET.layers[0], "optimizer": TRAINER.optimizer,
    "history": TRAINER.history, "layers": NET.layers,
}  # fmt: skip
CALLABLES = {
    **{name: thing for name, thing in vars(gb).items() if name in gb.__all__ and callable(thing)},
    **{
        f"{kind.__name__}.{name}": method
        for kind in (gb.Trainer, gb.Network, gb.History)
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and name[0] != "_"
    },
    "Layer": Layer,
    **{name: getattr(gb, name) for name in gb._ESTIMATORS},
    **{"BaseMLP": gb.MLPClassifier, "BaseMLP.fit": gb.MLPClassifier.fit, "Tabular": gb.TabularClassifier},
}


def split(meant):
    """The code of what to write, without its remark."""
    return re.split(r"(?<!'): ", meant)[0]


def live(node):
    """The object of ours that a piece of code names, or None: what it makes."""
    match node:
        case ast.Name(id=name):
            assert name in OURS or name in ("x", "y", "X", "w", "f", "path", "grad_y")
            return OURS.get(name)
        case ast.Attribute(value=inner, attr=name):
            of = live(inner)
            assert of is None or name in dir(of) or name == "rate", ast.unparse(node)  # of Dropout alone
            return getattr(of, name, None) if of is not gb or name in vars(gb) else None
        case ast.Subscript(value=inner):
            of = live(inner)
            return of[0] if isinstance(of, list) else None
        case ast.Call():
            made = live(node.func)
            return NET if made is gb.Network else TRAINER if made is gb.Trainer else None


def check_code(code):
    """Everything that a piece of code names exists, and every call of it takes its arguments."""
    for node in ast.walk(ast.parse(code)):
        live(node)
        if isinstance(node, ast.Call) and (called := live(node.func)) is not None:
            inspect.signature(called).bind(*node.args, **{k.arg: k.value for k in node.keywords})


def check_argument(code, parameters):
    for keyword in ast.parse(f"f({code})").body[0].value.keywords:
        assert keyword.arg in parameters, code
        check_code(ast.unparse(keyword.value).replace("...", "layers"))


# The tables -----------------------------------------------------------------------------------------------------------


def parameters_of(name):
    """The names of the arguments of a callable; of a base class, of any below it too."""
    called = CALLABLES[name]
    below = [
        k for k in CALLABLES.values() if isinstance(called, type) and isinstance(k, type) and issubclass(k, called)
    ]
    found = {p for kind in (called, *below) for p in inspect.signature(kind).parameters}
    return found | ({"weight_decay", "l1", "l2"} if "Optimizer" in str(getattr(called, "__mro__", "")) else set())


ALL_PARAMETERS = {parameter for name in CALLABLES if "Error" not in name for parameter in parameters_of(name)}


def test_arguments_to_write_instead_exist():
    for meant in ARGUMENTS:
        check_argument(meant if "=" in meant else f"{meant}=0", ALL_PARAMETERS)


@pytest.mark.parametrize("of", ARGUMENTS_OF)
def test_what_to_write_instead_of_an_argument_of_one_thing_exists(of):
    for code in map(split, ARGUMENTS_OF[of]):
        if re.match(r"\w+(=|$)", code):
            check_argument(code, parameters_of(of))
        elif code != "leave it out":
            check_code(code)


@pytest.mark.parametrize("of", ATTRIBUTES)
def test_what_to_write_instead_of_an_attribute_exists(of):
    for meant in ATTRIBUTES[of]:
        for code in meant.split(", or "):
            check_code(code)


def test_names_to_write_instead_exist():
    tables = gb.LOSSES, gb.ACTIVATIONS, gb.OPTIMIZERS, gb.INITIALIZERS, gb.METRICS, gb.SCHEDULES
    for meant in VALUES:
        check_code(meant) if "(" in meant else next(table[meant] for table in tables if meant in table)


def test_no_name_from_elsewhere_is_ours():
    """A row would never be asked for it, or would lead away from what is there."""
    for of, table in ARGUMENTS_OF.items():
        taken = set(inspect.signature(CALLABLES[of]).parameters) & {
            n for names in table.values() for n in names.split()
        }
        assert not taken, of
    for of, table in ATTRIBUTES.items():
        thing = gb if of == "gpu_backprop" else CALLABLES[of]
        assert not [name for names in table.values() for name in names.split() if hasattr(thing, name)], of
    options = {name for command in commands().values() for name in command._option_string_actions}
    assert set(OPTIONS) <= options


# Arguments ------------------------------------------------------------------------------------------------------------


def refused(call, *parts):
    with pytest.raises(ArgumentError) as raised:
        call()
    assert isinstance(raised.value, TypeError) and isinstance(raised.value, gb.InputError)
    for part in parts:
        assert part in str(raised.value)


FROM_ELSEWHERE = [
    # Keras
    (TRAINER.fit, "batch_size", "trainer.batch_size = 128"), (TRAINER.fit, "verbose", "progress=False"),
    (TRAINER.fit, "validation_data", "validation=(x, y)"), (TRAINER.fit, "sample_weight", "weights=w"),
    (TRAINER.fit, "initial_epoch", "leave it out"), (TRAINER.fit, "steps_per_epoch", "leave it out"),
    (TRAINER.fit, "validation_batch_size", "trainer.batch_size = 128"), (TRAINER.fit, "nb_epoch", "epochs=100"),
    (NET.predict, "verbose", "leave it out"), (TRAINER.evaluate, "return_dict", "leave it out"),
    (gb.Adam, "beta_1", "beta1=0.9"), (gb.Adam, "clipnorm", "gb.Trainer(net, clip_norm=1.0)"),
    (gb.Adam, "ema_momentum", "gb.Trainer(net, average=0.999)"), (gb.RMSprop, "rho", "decay=0.9"),
    (gb.Dense, "use_bias", "bias=False"), (gb.Dense, "kernel_initializer", "init='he_normal'"),
    (gb.Dense, "kernel_constraint", "max_norm=3.0"), (gb.Dense, "input_shape", "gb.Network(inputs=20"),
    (gb.Dense, "kernel_regularizer", "gb.Adam(0.001, l2=0.0001)"), (gb.Network, "input_shape", "inputs=20"),
    (gb.EarlyStopping, "restore_best_weights", "restore_best=True"), (gb.Checkpoint, "filepath", "folder"),
    (gb.Checkpoint, "save_best_only", "best=True"), (gb.ReduceOnPlateau, "min_lr", "minimum=1e-6"),
    (gb.TensorBoard, "log_dir", "folder"), (gb.CrossEntropy, "from_logits", "leave it out: the activation"),
    (gb.Trainer, "jit_compile", "leave it out"), (gb.Cosine, "decay_steps", "period=1.0"),
    # PyTorch and Lightning
    (gb.Trainer, "lr", "optimizer=gb.Adam(0.01)"), (gb.Adam, "lr", "learning_rate=0.01"),
    (gb.Adam, "betas", "beta1=0.9, beta2=0.999"), (gb.Adam, "eps", "epsilon=1e-8"),
    (gb.SGD, "params", "gb.Trainer(net, "), (gb.Dropout, "p", "rate=0.5"), (gb.Dense, "out_features", "units=10"),
    (gb.Dense, "in_features", "gb.Network("), (gb.BinaryCrossEntropy, "pos_weight", "class_weight='balanced'"),
    (gb.Huber, "beta", "delta=1.0"), (gb.StepDecay, "step_size", "every=10"), (gb.StepDecay, "gamma", "factor=0.1"),
    (gb.Cosine, "T_max", "period=1.0"), (gb.Cosine, "eta_min", "end=0.01"),
    (gb.OneCycle, "max_lr", "gb.Adam(0.01, schedule='one_cycle')"), (gb.OneCycle, "total_steps", "leave it out"),
    (gb.OneCycle, "pct_start", "rise=0.3"), (gb.load, "map_location", "device='cuda'"),
    (gb.load, "weights_only", "leave it out"), (gb.Trainer, "max_epochs", "trainer.fit(x, y, epochs=100)"),
    (gb.Trainer, "gradient_clip_val", "clip_norm=1.0"), (gb.Trainer, "accumulate_grad_batches", "accumulate=4"),
    (gb.Trainer, "precision", "dtype='bfloat16'"), (gb.Trainer, "accelerator", "device='cuda'"),
    (TRAINER.fit, "ckpt_path", "trainer.resume('folder')"), (gb.Checkpoint, "save_top_k", "keep=3"),
    (gb.Checkpoint, "dirpath", "folder"), (gb.Checkpoint, "monitor", "best="),
    # skorch
    (gb.Trainer, "criterion", "loss='cross_entropy'"), (gb.Trainer, "module", "network=net"),
    (gb.Trainer, "module__units", "gb.Network(20, "), (gb.Trainer, "optimizer__nu", "optimizer=gb.Adam(0.01)"),
    (gb.Trainer, "optimizer__weight_decay", "gb.AdamW(0.001, weight_decay=0.01)"),
    (gb.Trainer, "iterator_train__num_workers", "batch_size"), (gb.Trainer, "warm_start", "leave it out"),
    (gb.EarlyStopping, "threshold", "min_delta"), (gb.EarlyStopping, "lower_is_better", "mode='min'"),
    # scikit-learn
    (gb.SGD, "nesterovs_momentum", "nesterov=True"), (gb.SGD, "learning_rate_init", "learning_rate=0.01"),
    (gb.Trainer, "hidden_layer_sizes", "gb.Network(20, "), (gb.Network, "hidden_layer_sizes", "layers=["),
    (gb.Network, "random_state", "seed=0"), (gb.Adam, "alpha", "l2=0.0001"), (TRAINER.fit, "max_iter", "epochs=100"),
    (TRAINER.fit, "patience", "early_stopping=gb.EarlyStopping(patience=10)"), (gb.fit_lbfgs, "tol", "tolerance=1e-5"),
    (TRAINER.fit, "n_iter_no_change", "early_stopping="), (TRAINER.fit, "X", "use x"),
    (gb.fit_lbfgs, "max_iter", "iterations=200"), (TRAINER.fit, "validation_fraction", "validation_split=0.1"),
    (gb.EarlyStopping, "tol", "min_delta=0.0001"), (TRAINER.fit, "train_dataloader", "use x"),
    (TRAINER.fit, "valid_ds", "validation=(x, y)"),
    # Optax, XGBoost, fastai, Transformers
    (gb.Lion, "b1", "beta1=0.9"), (gb.Exponential, "decay_rate", "factor=0.1"),
    (TRAINER.fit, "eval_set", "validation=("), (TRAINER.fit, "early_stopping_rounds", "early_stopping="),
    (TRAINER.fit, "cbs", "callbacks=[f]"), (gb.AdamW, "wd", "weight_decay=0.01"),
    (gb.Trainer, "num_train_epochs", "epochs=100"), (gb.Trainer, "bs", "batch_size="),
    (gb.Trainer, "per_device_train_batch_size", "batch_size=128"), (gb.Warmup, "num_warmup_steps", "length=0.1"),
    (gb.search, "param_grid", "space={"), (gb.search, "cv", "folds=5"), (gb.search, "n_iter", "trials=50"),
    (gb.search, "scoring", "metric='accuracy'"), (gb.search, "n_jobs", "leave it out: candidates train side by side"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "name", "meant"), FROM_ELSEWHERE, ids=lambda value: getattr(value, "__name__", value))
def test_an_argument_of_another_library(call, name, meant):
    refused(lambda: call(**{name: 1}), f"{call.__name__} has no argument {name}; ", meant, "It takes ")


RECORDS = (
    "Loss", "Schedule", "Optimizer", "Activation", "FitState", "GradientReport", "Initializer", "Inspection",
    "Intervals", "Operation", "Plan", "UpdateRule", "StoredRows", "open_rows",
)  # fmt: skip
"""What is abstract, or no call of a beginner's, and what data/ has, which knows nothing of this table."""
BASES = "Layer", "BaseMLP", "BaseMLP.fit", "Tabular"
INTERNAL = (
    "emit_", "random_step", "plan_key", "group_factors", "check_trainable", "refresh", "parameter_arrays", "place",
    "as_running", "stop", "out_of_fold", "append", "summary", "architecture",
)  # fmt: skip


@pytest.mark.parametrize("name", [n for n in CALLABLES if n not in RECORDS and "Error" not in n and n not in BASES])
def test_everything_public_explains_an_unknown_argument(name):
    owner, _, method = name.rpartition(".")
    if method.startswith(INTERNAL) and owner:
        return
    of = {"Trainer": TRAINER, "Network": NET, "History": TRAINER.history, "": gb}[owner]
    given = [NET] if name == "initialize_from_data" else []
    refused(lambda: getattr(of, method)(*given, zzz=1), f"{method} has no argument zzz. It takes ")


def test_several_unknown_arguments_and_one_that_is_nearly_right():
    refused(
        lambda: TRAINER.fit(X, Y, epoch=1, verbose=0), "no argument epoch; use epochs=100. fit has no argument verbose"
    )
    refused(
        lambda: gb.Trainer(NET, batchsize=3), "Trainer has no argument batchsize; did you mean batch_size? It takes "
    )


def test_other_mistakes_in_a_call_are_left_to_python():
    for call in (
        gb.Dense,
        gb.Trainer,
        lambda: gb.Dense(3, "relu", 4),
        lambda: NET.predict(X, 1, 2),
        lambda: gb.save("x"),
    ):
        with pytest.raises(TypeError, match="argument") as raised:
            call()
        assert not isinstance(raised.value, ArgumentError)


def test_an_error_within_a_call_is_not_explained():
    def callback(state):
        return len(state.epoch)

    with pytest.raises(TypeError, match="has no len") as raised:
        TRAINER.fit(X, Y, 1, callbacks=[callback], progress=False)
    assert not isinstance(raised.value, ArgumentError)

    class Mine(gb.EarlyStopping):
        def __init__(self, **more):
            super().__init__(**more)
            [].sort(nonsense=1)

    with pytest.raises(TypeError, match="nonsense") as raised:
        Mine(patience=3)
    assert not isinstance(raised.value, ArgumentError)


def test_recipes_explain_too():
    recipe = gb.recipes.tabular("classification", 100, 4)
    refused(
        lambda: recipe.replace(lr=0.1, n_epochs=3), "no argument lr; use learning_rate=0.01.", "n_epochs; use epochs="
    )
    refused(
        lambda: gb.recipes.plain(task="regression", rows=9, cols=3), "plain has no argument cols; did you mean columns"
    )


def test_the_error_survives_pickle():
    with pytest.raises(ArgumentError) as raised:
        gb.Adam(lr=1)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_help_shows_the_arguments_of_a_class():
    assert [*inspect.signature(gb.Dropout).parameters] == ["rate", "schedule"]
    assert inspect.signature(gb.Trainer).parameters["batch_size"].default == 128


# Attributes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "name", "meant"),
    [
        (TRAINER, "lr", "trainer.optimizer.learning_rate"), (TRAINER, "score", "trainer.evaluate(x, y)"),
        (TRAINER, "optimiser", "trainer.optimizer"), (TRAINER, "epochs", "trainer.fit(x, y, epochs=100)"),
        (TRAINER.optimizer, "lr", "optimizer.learning_rate"),
        (NET, "weights", "net.parameters"), (NET, "fit", "gb.Trainer(net).fit(x, y)"),
        (NET, "compile", "gb.Trainer(net)"), (NET, "to", "device='cuda'"), (NET, "eval", "net.predict(x)"),
        (NET, "state_dict", "net.parameters"), (NET.layers[0], "kernel", "layer.weight"),
        (gb.Dropout(0.5), "p", "layer.rate"), (TRAINER.history, "history", "history['loss']"),
        (TRAINER.history, "val_loss", "history['val_loss']"),
        (gb.EarlyStopping(), "stopped_epoch", "trainer.history.best_epoch"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_an_attribute_of_another_library(of, name, meant):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'") as read:
        getattr(of, name)
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'") as written:
        setattr(of, name, 3)
    for error in (read, written):
        assert meant in str(error.value)
    assert not hasattr(of, name)


@pytest.mark.parametrize("name", ["Sequential", "Linear", "MSELoss", "CosineAnnealingLR", "ModelCheckpoint", "LBFGS"])
def test_the_package_says_what_is_called_otherwise(name):
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\. Use gb\."):
        getattr(gb, name)


@pytest.mark.parametrize(
    "made",
    [
        NET, TRAINER, TRAINER.optimizer, TRAINER.loss, TRAINER.history, gb.Dense(3), gb.Bias(), gb.Scale(),
        gb.Dropout(0.5), gb.Periodic(), gb.Huber(), gb.Focal(), gb.Adam(), gb.Cosine(), gb.Warmup(), gb.Constant(),
        gb.Coslog4(), gb.EarlyStopping(), gb.ReduceOnPlateau(), gb.Perturb(), gb.Checkpoint("x"), gb.JsonLines("x"),
        gb.TemperatureScaling(), gb.ConformalIntervals(), gb.Intervals.fit(np.ones((20, 1))), gb.constant(3.0),
    ],
    ids=lambda made: type(made).__name__,
)  # fmt: skip
def test_no_unknown_attribute_can_be_set(made):
    with pytest.raises(AttributeError):
        made.zzz = 3
    assert not hasattr(made, "zzz")


def test_settings_of_callbacks_can_be_set():
    stopping, checkpoint = gb.EarlyStopping(), gb.Checkpoint("x")
    stopping.patience, stopping.monitor, checkpoint.keep = 3, "loss", 7
    assert (stopping.patience, stopping.monitor, checkpoint.keep) == (3, "loss", 7)


def test_a_property_that_fails_says_why():
    class Failing(gb.Dropout):
        @property
        def broken(self):
            return self.nowhere

    with pytest.raises(AttributeError, match="'nowhere'"):
        _ = Failing(0.5).broken


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "given", "meant"),
    [
        (gb.LOSSES, "logloss", "cross_entropy"), (gb.LOSSES, "log_loss", "cross_entropy"),
        (gb.METRICS, "logloss", "log_loss"), (gb.METRICS, "neg_log_loss", "log_loss"), (gb.METRICS, "mse", "rmse"),
        (gb.LOSSES, "squared_error_", "squared_error"), (gb.LOSSES, "BinaryFocalCrossentropy", "focal"),
        (gb.LOSSES, "sparse_categorical_crossentropy", "cross_entropy"), (gb.LOSSES, "PoissonNLLLoss", "poisson"),
        (gb.ACTIVATIONS, "LeakyReLU", "leaky_relu"), (gb.ACTIVATIONS, "logistic", "sigmoid"),
        (gb.ACTIVATIONS, "gelu_new", "gelu_tanh"), (gb.METRICS, "acc", "accuracy"), (gb.METRICS, "r2_score", "r2"),
        (gb.METRICS, "AUROC", "roc_auc"), (gb.OPTIMIZERS, "adam_w", "adamw"), (gb.OPTIMIZERS, "RMSProp", "rmsprop"),
        (gb.SCHEDULES, "CosineAnnealingLR", "cosine"), (gb.SCHEDULES, "StepLR", "step"),
        (gb.SCHEDULES, "OneCycleLR", "one_cycle"), (gb.SCHEDULES, "linear_decay", "linear"),
    ],
)  # fmt: skip
def test_a_name_of_another_library(table, given, meant):
    with pytest.raises(gb.InputError, match=rf"unknown thing '{given}'\. Did you mean '{meant}'\?"):
        choose("thing", given, table)


@pytest.mark.parametrize(
    ("table", "given", "meant"),
    [
        (gb.SCHEDULES, "ReduceLROnPlateau", "trainer.fit(x, y, callbacks=[gb.ReduceOnPlateau()])"),
        (gb.OPTIMIZERS, "lbfgs", "gb.fit_lbfgs(net, x, y)"),
    ],
)
def test_a_name_whose_like_is_no_name(table, given, meant):
    with pytest.raises(gb.InputError) as raised:
        choose("thing", given, table)
    assert f"Use {meant}. Known: " in str(raised.value)


@pytest.mark.parametrize("given", ["log_loss", "logloss", "LogLoss"])
@pytest.mark.parametrize(("activation", "meant"), [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")])
def test_the_loss_that_is_meant_suits_the_last_layer(given, activation, meant):
    with pytest.raises(gb.InputError, match=f"Did you mean '{meant}'"):
        gb.Trainer(gb.Network(4, [gb.Dense(3, activation)], device="cpu"), given)


def test_a_device_called_gpu():
    with pytest.raises(gb.InputError, match=r"got 'gpu'\. Did you mean 'cuda'\?"):
        gb.Network(4, [gb.Dense(3)], device="gpu")


# The command line -----------------------------------------------------------------------------------------------------


@cache
def commands():
    """The parser of each command."""
    return next(action.choices for action in _parser()._actions if action.dest == "command")


@pytest.mark.parametrize("meant", OPTIONS)
def test_options_of_other_programs(meant):
    parser = next(one for one in commands().values() if meant in one._option_string_actions)
    for name in OPTIONS[meant].split():
        for spelled in (name, name.replace("-", "_"), name.upper()):
            assert f"--{spelled}" not in parser._option_string_actions
            assert parser._meant(f"--{spelled}") == f"did you mean '{meant}'? "


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--hidden_layer_sizes", "64"), "--hidden_layer_sizes; did you mean '--layers'?"),
        (("train", "-lr", "0.1"), "-lr; did you mean '--learning-rate'?"),
        (("train", "--Batch_Size=3"), "--Batch_Size=3; did you mean '--batch-size'?"),
        (("predict", "run", "data.csv", "--lr=3"), "unrecognized arguments: --lr=3 ("),  # which predict has not at all
    ],
)
def test_what_a_command_says(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err
