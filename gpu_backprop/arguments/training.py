"""The arguments of train."""

from __future__ import annotations

from typing import Any

from gpu_backprop import ACTIVATIONS, SCHEDULES
from gpu_backprop.arguments.command import DATA, Command
from gpu_backprop.arguments.values import (
    at_least_0,
    entry_of_recipe,
    hashed,
    interval,
    one_of,
    ordinal,
    path,
    rate,
    share,
    some_of,
    source,
    units,
    whole,
)
from gpu_backprop.backend.open_device import DTYPES
from gpu_backprop.data.cells import composed
from gpu_backprop.data.scaling import IMPUTE
from gpu_backprop.data.target import TASKS
from gpu_backprop.recipes import RECIPES, SMALL_TABLE
from gpu_backprop.training.row_weights import BALANCED
from gpu_backprop.training.run import ON_DIVERGENCE

BY_RECIPE = "(default: the recipe's)"

EXAMPLES = (
    ("train", "the digits: seconds on a CPU"),
    ("train flowers.csv --target species", "text, or few integers: classes"),
    ("train houses.csv --target price", "other numbers: regression"),
    ("train people.csv --target pay --ignore id --impute mean", ""),
    ("train mnist/ --layers 300,100 --epochs 20", "a folder of IDX files"),
    ("train houses.csv --target price --layers 64,32 --activation tanh --loss huber", ""),
    ("train --resume runs/houses-001", "go on where it was stopped, or killed"),
    ("train houses.csv --target price --ensemble 8", "the mean of 8 networks: slower, and better"),
    ("train --seed 1 --out runs/second", "another fifth held out"),
    ("train mnist/ --distributed", "after mpiexec -n 4, torchrun or srun: by 4 processes"),
)


def add_train(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "train", "learn from a table, from images, or to read handwritten digits",
        (
            "Learn to predict a column of a table, or the y of arrays, and measure the result on rows that were held "
            "out; without DATA, learn to read handwritten digits.",
            DATA,
            "A column of text becomes an input for each category, numbers are brought to one size as the recipe says, "
            "images to 0 … 1. All of it is learned from the training rows, and stored with the network.",
            "A new folder under runs/ gets model.safetensors (the network), history.csv and history.jsonl (a line an "
            "epoch, while it runs), curves.png, and report.html, which shows all of it in a browser; and which rows "
            "were held out. Ctrl-C, SIGTERM and SIGHUP end training early and keep what was learned; the exit code is "
            "130, 143 or 129 then, and --resume goes on.",
        ),
        EXAMPLES,
    )  # fmt: skip
    add_source(command)
    add_folder(command)
    _add_resuming(command)
    events = "folder for the curves of the training as TensorBoard shows them, also while it runs"
    command.add("--tensorboard", events, type=path, metavar="DIR")
    command.share("--quiet", "--debug")
    add_data(command)
    add_network(command)
    add_training(command)
    ensemble = (
        "train so many networks side by side, each without one of as many folds of the rows, and predict their mean: "
        "all rows are learned from, each is measured by the network that has not, and none need be held out (default: "
        "one network)"
    )
    command.add("--ensemble", ensemble, type=whole(2), metavar="K")


def _add_resuming(command: Command) -> None:
    resume = (
        "finish a run that was stopped or killed, as if it had never ended: its data and options are in its folder; of "
        "others beside it only --epochs, --device, --distributed and --quiet may differ, and where its data are now"
    )
    command.add("--resume", resume, type=path, metavar="RUN")
    every = (
        "how often what --resume goes on from is written to the folder: after a time, as in 30s, 10min or 2h, a number "
        "of steps, as in 500steps, every epoch, or never; it is removed when the run is complete (default: 1min)"
    )
    command.add("--checkpoint-every", every, type=interval, default=interval("1min"), metavar="WHEN")


def add_source(command: Command) -> None:
    """Add what is learned from."""
    what = "what to learn from (default: digits)"
    command.add("data", what, nargs="?", default="digits", type=source, metavar="DATA")


def add_folder(command: Command) -> None:
    """Add the arguments of the folder of a run."""
    command.add("--out", "folder to write to (default: a new one under runs/)", type=path, metavar="DIR")
    how = "replace the run that the folder of --out holds, when the new one is complete; until then that is in DIR/.new"
    command.add("--overwrite", how, action="store_true")


def add_data(command: Command) -> None:
    """Add what says how data are read."""
    command.under("the data")
    column = {"type": composed, "metavar": "COLUMN"}
    command.add("--target", "the column of a table to be learned", **column)
    command.add("--ignore", "a column to leave out; can be repeated", action="append", default=[], **column)
    task = (
        "auto, classification or regression; auto: text, and at most 20 different whole numbers with two rows each, "
        "are classes"
    )
    command.add("--task", task, choices=TASKS, default="auto", metavar="TASK")
    impute = (
        "what takes the place of missing numbers: mean or median, of the column, or constant, which is 0; a missing "
        "text becomes a category of its own (default: with a recipe for tables the median, and one more input that "
        "tells of it; with the others, missing values are an error)"
    )
    command.add("--impute", impute, choices=IMPUTE, metavar="HOW")
    text = "a column that is text though it looks like numbers, such as a postcode; can be repeated"
    command.add("--text", text, action="append", default=[], **column)
    hash = (
        "a column of many different texts, each of which is hashed to one of K inputs (default: 256) and is no "
        "input of its own; can be repeated"
    )
    command.add("--hash", hash, action="append", default=[], type=hashed, metavar="COLUMN[=K]")
    order = (
        "a column whose texts have an order, the least first, as in 'size=small<medium<large': it becomes one number; "
        "can be repeated"
    )
    command.add("--ordinal", order, action="append", default=[], type=ordinal, metavar="COLUMN=A<B<C")
    missing = (
        "a text that stands for a missing value, beside an empty field; can be repeated (default: NA, N/A, NaN and "
        "null, in small or large letters; '' for none but the empty field)"
    )
    command.add("--missing", missing, action="append", metavar="TEXT")
    command.share("--drop-missing-target", "--delimiter")
    held_out = (
        "share of the rows, and of every class, that is kept from training to measure on; 0: none (default: 0.2, or "
        "the test part of data that have one; 0 with --ensemble)"
    )
    file = "learn from all of DATA, and measure on the rows of this file"
    command.add_either(
        ("--held-out", held_out, {"type": share, "metavar": "SHARE"}),
        ("--held-out-file", file, {"type": source, "metavar": "FILE"}),
    )
    command.share("--memory-limit")


def add_network(command: Command) -> None:
    """Add what describes the network."""
    command.under("the network")
    recipe = (
        f"the settings that hold where no option says otherwise: {', '.join(RECIPES)} (default: images for images, "
        f"else tabular, or small-table for at most {SMALL_TABLE} rows or more columns than rows); train prints them"
    )
    command.add("--recipe", recipe, type=one_of("recipe", RECIPES), metavar="NAME")
    entry = "another value of an entry of the recipe, as in numbers=quantile or bias_rate=1; can be repeated"
    command.add("--set", entry, action="append", default=[], type=entry_of_recipe, metavar="ENTRY=VALUE")
    command.add(
        "--layers", f"units of each hidden layer, as in 300,100, or none {BY_RECIPE}", type=units, metavar="UNITS"
    )
    command.add(
        "--activation",
        "of all hidden layers, or one for each, as in tanh,relu; with --layers, one more is the output's, which "
        f"otherwise suits the loss: {', '.join(ACTIVATIONS)} {BY_RECIPE}",
        type=some_of("activation", ACTIVATIONS),
        metavar="NAMES",
    )
    command.add("--dropout", f"share of hidden units left out of each step {BY_RECIPE}", type=share, metavar="SHARE")
    norm = "the most that the norm of the weights which lead to a hidden unit may be (default: any)"
    command.add("--max-norm", norm, type=rate, metavar="C")


def _add_penalties(command: Command) -> None:
    decay = f"share of all parameters, times the learning rate, that they lose in a step {BY_RECIPE}"
    command.add("--weight-decay", decay, type=at_least_0, metavar="L")
    l2 = "penalty on large weights, L/2 times the sum of their squares (default: 0)"
    command.add("--l2", l2, type=at_least_0, metavar="L")
    l1 = "penalty on weights that are not 0, L times the sum of their sizes (default: 0)"
    command.add("--l1", l1, type=at_least_0, metavar="L")
    clip = "bound for each number of the gradient; larger ones are set to it (default: none)"
    command.add("--clip-value", clip, type=rate, metavar="C")


def add_training(command: Command) -> None:
    """Add what describes its training."""
    command.under("training")
    epochs = f"passes over the training rows, at most {BY_RECIPE}"
    command.add("--epochs", epochs, type=whole(1), metavar="N")
    batch_size = (
        f"rows per step {BY_RECIPE[:-1]}, of which those for tables take a few more or less, so that the last step of "
        "an epoch is no small one)"
    )
    command.add("--batch-size", batch_size, type=whole(1), metavar="B")
    command.add_loss("cross_entropy for classes, half_squared_error for numbers")
    command.share("--metrics")
    command.add_optimizer(None, BY_RECIPE)
    size = f"size of a step {BY_RECIPE[:-1]}; the usual one for another optimizer than its)"
    command.add("--learning-rate", size, type=rate, metavar="R")
    _add_schedule(command)
    _add_penalties(command)
    _add_steps(command)
    seed = "decides initial weights, shuffling, dropout and what is held out"
    command.add("--seed", seed, type=whole(0), default=0, metavar="S")
    _add_stopping(command)
    command.share("--device", "--distributed", "--timeout")
    dtypes = "float32 or float64; float16 or bfloat16 on a CUDA device, with float32 weights beside them"
    command.add("--dtype", dtypes, choices=DTYPES["cuda"], default="float32", metavar="T")
    tf32 = "let cuBLAS round float32 operands to TF32, 10 bits of mantissa, on a CUDA device that can: faster, if large"
    command.add("--tf32", tf32, action="store_true")


def _add_stopping(command: Command) -> None:
    patience = (
        "end when the validation loss has not improved for so many epochs; the network is that of the best epoch "
        f"{BY_RECIPE}"
    )
    command.add_either(
        ("--patience", patience, {"type": whole(1), "metavar": "N"}),
        ("--no-early-stopping", "train for all epochs, and keep the last one", {"action": "store_true"}),
    )
    validation = (
        "share of the training rows, and of every class, that is kept from learning to find the best epoch by "
        f"{BY_RECIPE[:-1]}; without early stopping 0, and the held-out rows are shown)"
    )
    command.add("--validation", validation, type=share, metavar="SHARE")
    balanced = "balanced: all classes count alike, however many rows they have"
    command.add("--class-weight", balanced, choices=(BALANCED,), metavar="HOW")
    divergence = (
        "what to do when the loss becomes NaN or infinite: raise, which ends training; halve_rate, which begins the "
        "epoch again with half the learning rate, at most 10 times; or stop, which ends the training of those networks "
        "of an --ensemble alone (default: raise)"
    )
    command.add("--on-divergence", divergence, choices=ON_DIVERGENCE, default="raise", metavar="HOW")


def _add_steps(command: Command) -> None:
    clip = "the most that the norm of all gradients together may be; longer ones are scaled (default: any)"
    command.add("--clip-norm", clip, type=rate, metavar="C")
    average = (
        "share, such as 0.999, that a moving average of the weights keeps in each step; the network is that average "
        "(default: none)"
    )
    command.add("--average", average, type=share, metavar="SHARE")
    parts = "work through each step's rows in so many parts, which takes less memory and learns the same (default: 1)"
    command.add("--accumulate", parts, type=whole(1), default=1, metavar="N")


def _add_schedule(command: Command) -> None:
    schedule = (
        f"what the learning rate follows over the training: {', '.join(SCHEDULES)}; or plateau, a tenth of it whenever "
        "the validation loss, or the training loss where nothing is validated on, has not improved for 10 epochs "
        f"{BY_RECIPE}"
    )
    known = one_of("schedule", {**SCHEDULES, "plateau": None})
    command.add("--schedule", schedule, type=known, metavar="NAME")
    warmup = "share of the training in which the learning rate rises to what it is or follows (default: 0)"
    command.add("--warmup", warmup, type=share, default=0.0, metavar="SHARE")
