"""The arguments of the commands that apply a trained network, and of doctor."""

from __future__ import annotations

from typing import Any

from gpu_backprop import OPTIMIZERS
from gpu_backprop.arguments.command import DATA, RUN, Command
from gpu_backprop.arguments.values import between, host_name, one_of, path, port, rate, size, source, whole
from gpu_backprop.backend.open_device import DTYPES
from gpu_backprop.interop.formats import FORMATS

SUITS = "the one that suits the output"


def add_evaluate(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "evaluate", "measure a trained network on data",
        (
            "Measure a trained network on data whose target is known: which classes were taken for which, the "
            "accuracy and, where some classes are rare, what says more; or R² and the errors. On rows that it was "
            "trained on it looks better than it is: of the data of RUN, only what it held out is measured.",
            RUN, DATA,
        ),
        (
            ("evaluate runs/flowers newer.csv", ""),
            ("evaluate runs/flowers flowers.csv", "what train held out"),
            ("evaluate runs/digits-001 digits", ""),
            ("evaluate runs/mnist-001 mnist/", "the test part"),
        ),
    )  # fmt: skip
    command.add_run_and_data()
    help = (
        "measure only the rows that train with this --held-out, and the same seed, held out of DATA; for a model file "
        "alone, since the folder of a run says which they are"
    )
    command.add("--held-out", help, type=between, metavar="SHARE")
    command.add("--all-rows", "measure all rows, also those that RUN learned from", action="store_true")
    command.share("--drop-missing-target")
    command.add_loss(SUITS)
    command.share("--metrics", "--device", "--quiet", "--debug")


def add_predict(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "predict", "predict with a trained network",
        (
            "Predict with a trained network: CSV with a line for each row, `prediction` and then one probability for "
            "each class, in columns named by the class. If a class is called prediction, its column is called "
            "`probability of prediction`.",
            "DATA are rows as training had them, before any scaling; the target need not be among the columns, whose "
            "order does not matter, and missing values are filled in as in training. Where they are unlike the "
            "training data, a warning on standard error says so.",
            RUN, DATA,
        ),
        (
            ("predict runs/flowers new.csv", ""),
            ("predict runs/flowers new.csv --output predictions.csv", ""),
            ("predict runs/houses new.csv --interval 0.9", "low and high: nine out of ten prices lie between them"),
            ("predict runs/flowers new.csv | paste -d, new.csv - | head", ""),
        ),
    )  # fmt: skip
    command.add_run_and_data()
    output = "file to write to, replaced if it is there (default: standard output)"
    command.add("--output", output, type=path, metavar="FILE")
    interval = (
        "add two columns, low and high, between which the right number lies with that probability, such as 0.9: as "
        "far from the prediction as the validation rows say"
    )
    command.add("--interval", interval, type=between, metavar="P")
    safe = "put an apostrophe before names of classes that a spreadsheet would run as formulas, as =1+1"
    command.add("--spreadsheet-safe", safe, action="store_true")
    command.share("--device", "--debug")


def add_export(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "export", "write a trained network as ONNX, as a C header, or for PyTorch",
        (
            "Write a trained network as a file for other programs, with all that prepares a row of data for it: ONNX, "
            "which ONNX Runtime and others run, with an input for each column; one C header without dependencies, for "
            "networks whose columns are all numbers; or the parameters alone, named as in PyTorch. FILE is replaced "
            "if it is there. docs/deploy.md tells what is inside.",
            RUN,
        ),
        (
            ("export runs/flowers flowers.onnx", ""),
            ("export runs/digits-001 digits.h", "digits_predict(x, y) in C or C++"),
            ("export runs/digits-001 digits.safetensors", "for Sequential.load_state_dict"),
            ("export runs/digits-001 digits.h --int8 --rows digits", "a quarter of the size, and what it costs"),
        ),
    )  # fmt: skip
    command.add_run()
    command.add("file", "the file to write", type=path, metavar="FILE")
    endings = ", ".join(f"{name} of {known.ending}" for name, known in FORMATS.items())
    chosen = f"{', '.join(FORMATS)} (default: by the ending of FILE, {endings})"
    command.add("--format", chosen, choices=tuple(FORMATS), metavar="NAME")
    prepared = "leave out what prepares rows: the file takes the numbers that the network itself reads"
    command.add("--prepared", prepared, action="store_true")
    interval = (
        "of ONNX, how often the number that is predicted lies between the outputs low and high (default: 0.9, where "
        "train had enough validation rows)"
    )
    command.add("--interval", interval, type=between, metavar="P")
    command.add("--int8", "of C, write weights of 8 bits, and say what that changes", action="store_true")
    rows = "with --int8, the rows on which that is measured (default: 1,000 that are drawn at random)"
    command.add("--rows", rows, type=source, dest="data", metavar="DATA")
    command.share("--delimiter", "--part", "--memory-limit", "--debug")


def add_serve(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "serve", "show a trained network on a page that answers, and answer programs",
        (
            "Serve a page on which a row is typed, or a CSV file dropped, and the prediction is seen; and addresses "
            "for programs: POST /predict takes rows as JSON, POST /predict.csv takes CSV and answers as predict does, "
            "GET /model describes the network. Only this machine reaches it, unless --host says otherwise: there are "
            "neither passwords nor encryption. Needs the extra serve.",
            RUN,
        ),
        (
            ("serve runs/flowers", "then open http://127.0.0.1:8000"),
            ("serve runs/flowers --port 0", "any free port, which is printed"),
        ),
    )  # fmt: skip
    command.add_run()
    host = "address to listen at; 0.0.0.0: all of this machine's, so that others reach it"
    command.add("--host", host, type=source, default="127.0.0.1", metavar="HOST")
    command.add("--port", "port to listen at; 0: any that is free", type=port, default=8000, metavar="N")
    name = "a further name by which the page is reached, as behind a reverse proxy; can be repeated"
    command.add("--allow-host", name, action="append", default=[], type=host_name, metavar="NAME")
    interval = (
        "coverage of the intervals of quantities, and add low and high to CSV as predict does (default: 0.9 on the "
        "page and in JSON, and none in CSV)"
    )
    command.add("--interval", interval, type=between, metavar="P")
    largest = "how large a request may be, as in 50MB (default: 10MB)"
    command.add("--max-bytes", largest, type=size, default=10_000_000, metavar="SIZE")
    command.add("--max-rows", "rows that a request may have", type=whole(1), default=100_000, metavar="N")
    wait = "seconds that a request may take to arrive, and that it may then wait for others"
    command.add("--wait", wait, type=rate, default=30.0, metavar="SECONDS")
    command.share("--memory-limit", "--device", "--debug")


def add_report(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "report", "write a page about a run: which columns matter, how answers follow them, the worst rows",
        (
            "Write report.html, the page about a run, anew, with what its network makes of the data: the permutation "
            "importance of each column (by how much the loss rises when its values are shuffled), the partial "
            "dependence on the most important ones (the mean answer as one column changes), calibration or residuals, "
            "and the rows that it gets most wrong. The most important columns are printed.",
            "It is about the rows that the run held out, which are read again from where they were; where nothing was "
            "held out, about all rows, and says so.",
            "RUN is the folder that train wrote.",
        ),
        (
            ("report runs/flowers", "writes runs/flowers/report.html"),
            ("report runs/flowers --data newer.csv --out newer.html", "about other rows"),
        ),
    )  # fmt: skip
    command.add("run", "the run", type=path, metavar="RUN")
    command.add("--data", "other rows, with the target, or the same from another place", type=source, metavar="DATA")
    out = "file to write to, replaced if it is there (default: report.html in RUN)"
    command.add("--out", out, type=path, metavar="FILE")
    command.share("--delimiter", "--part", "--memory-limit", "--device", "--quiet", "--debug")


def add_check(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "check", "check the gradients of a trained network on data",
        (
            "Compare the derivatives of the loss by every weight, bias and input, as back-propagation derives them, "
            "with central differences in float64, on a few rows of your data. Fails where one disagrees, and names it.",
            RUN, DATA,
        ),
        (("check runs/flowers flowers.csv", ""), ("check runs/digits-001 digits --rows 3 --at-most 100", "quicker")),
    )  # fmt: skip
    command.add_run_and_data()
    command.add("--rows", "rows, taken from all over DATA", type=whole(1), default=8, metavar="N")
    most = "derivatives to check of each array, chosen at random where it has more"
    command.add("--at-most", most, type=whole(1), default=2000, metavar="N")
    command.add("--tolerance", "the largest relative difference that passes", type=between, default=1e-5, metavar="R")
    command.add_loss(SUITS)
    command.share("--device", "--quiet", "--debug")


def add_diagnose(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "diagnose", "look for what is wrong with a network, its training and its data",
        (
            "Look at one step on rows of DATA: dead and saturated units, gradients that vanish or explode, steps of "
            "the wrong size, unbalanced classes; at the history of the run; and, where DATA are those that it was "
            "trained on, at the loss of the rows that it held out. Each finding comes with advice. Nothing is written.",
            RUN, DATA,
        ),
        (("diagnose runs/flowers flowers.csv", ""), ("diagnose runs/flowers flowers.csv --quiet", "only the findings")),
    )  # fmt: skip
    command.add_run_and_data()
    known = one_of("optimizer", OPTIMIZERS)
    how = "whose step is looked at (default: the one that trained it)"
    command.add("--optimizer", how, type=known, metavar="NAME")
    command.add_loss(SUITS)
    command.share("--device", "--quiet", "--debug")


def add_explain(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "explain", "show one step of back-propagation with all its numbers",
        (
            "Show one step of training as at a blackboard: each formula, forward, backward and the update, with the "
            "actual numbers. Without RUN it shows a network of 2-3-2 units and two rows; a network of your own should "
            "be small. Nothing is written.",
            RUN, DATA,
        ),
        (
            ("explain | less", ""),
            ("train flowers.csv --target species --layers 4 --dropout 0 --out runs/small", ""),
            ("explain runs/small flowers.csv", "two of its flowers"),
        ),
    )  # fmt: skip
    command.add_run_and_data(optional=True)
    rows = "rows of the minibatch, taken from all over DATA"
    command.add("--rows", rows, type=whole(1), default=2, metavar="N")
    command.add_optimizer("sgd")
    command.add_loss(SUITS)
    command.share("--device", "--debug")


def add_doctor(commands: Any) -> None:
    """Add the command."""
    command = Command(
        commands, "doctor", "say what this machine can train on, and what is missing",
        (
            "Look at the CPU's side (Python, NumPy) and at CUDA's (CuPy, driver, device, memory, compiler, matrix "
            "products), train two steps on each, and say where something is off and what to do. Ends with 1 where the "
            "device that was asked for does not work.",
        ),
        (
            ("doctor", ""), ("doctor --device cuda", "fails where CUDA does not work"),
            ("doctor --compile", "before the first job on a new machine"),
        ),
    )  # fmt: skip
    compiled = (
        "compile the CUDA kernels of usual networks ahead, in this dtype (float32 if none is given); CuPy keeps them "
        "on disk, and a job finds them there"
    )
    command.add("--compile", compiled, nargs="?", const="float32", choices=DTYPES["cuda"], metavar="DTYPE")
    command.share("--device", "--debug")
