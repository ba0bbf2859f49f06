"""gpu-backprop search: candidates that are tried are what train would train, and the best of them becomes a run."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest

import gpu_backprop as gb
from gpu_backprop.arguments import parse
from gpu_backprop.cli import main
from gpu_backprop.commands.building import build, read_design
from gpu_backprop.commands.candidates import build_candidates, draw
from gpu_backprop.commands.datasets import load_train_test
from gpu_backprop.commands.runs import OURS
from gpu_backprop.commands.search_display import SearchDisplay

RNG = np.random.default_rng(0)
SIZES = RNG.normal(size=(60, 2)).round(3)
KINDS = np.where(SIZES[:, 0] * SIZES[:, 1] > 0, "same", "other")
PRICES = (1000 + 200 * SIZES[:, 0] + 30 * SIZES[:, 1]).round(2)
SEARCH = "search", "rows.csv", "--target", "y", "--epochs", "3", "--folds", "2", "--set", "periodic=2", "--out", "run"


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in (gb.History, gb.SearchResult):
        monkeypatch.setattr(kind, "plot", lambda drawn, path: path.write_bytes(b"drawn"))
    monkeypatch.setattr("os.fsync", lambda number: None)
    write(KINDS)


def write(target) -> None:
    rows = [f"{a},{b},{y}\n" for (a, b), y in zip(SIZES, target, strict=True)]
    Path("rows.csv").write_text("a,b,y\n" + "".join(rows))


def refused(capsys, *argv: str) -> str:
    """What is said of a command line that cannot be understood."""
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    return capsys.readouterr().err


def trials() -> list[dict[str, str]]:
    with open("run/trials.csv") as file:
        return [*csv.DictReader(file)]


def test_the_best_becomes_a_run(capsys):
    assert main([*SEARCH, "--grid", "learning_rate=0.01,0.1", "--grid", "layers=3,4:2", "--seeds", "2"]) == 0
    told = capsys.readouterr().out
    assert (
        "4 candidates, 16 networks, side by side in 2 groups; each learns from all but one of 2 folds of 48 rows"
        in told
    )
    assert "for at most 3 epochs" in told and "48 rows to learn from, 12 held out" in told
    assert {path.name for path in Path("run").iterdir()} == {*OURS}

    found = trials()
    scores = [float(trial["score"]) for trial in found]
    assert scores == sorted(scores) and {(t["learning_rate"], t["layers"]) for t in found} == {
        ("0.01", "3"), ("0.1", "3"), ("0.01", "4:2"), ("0.1", "4:2"),
    }  # fmt: skip
    for trial in found:
        assert float(trial["score"]) == pytest.approx(np.mean([float(trial[f"score_{k}"]) for k in range(4)]))
    units = found[0]["layers"].replace(":", ",")
    assert re.search(rf"^{found[0]['learning_rate']} +{found[0]['layers']} ", told, re.MULTILINE)
    assert f"learning_rate     {found[0]['learning_rate']}" in told  # of the recipe that is trained

    net = gb.load("run/model.safetensors")
    assert [layer.outputs for layer in net.layers if isinstance(layer, gb.Dense)] == [*map(int, units.split(",")), 2]
    words = json.loads(Path("run/settings.json").read_text())["words"]
    assert words[-4:] == ["--set", f"learning_rate={found[0]['learning_rate']}", "--set", f"layers={units}"]
    page = Path("run/search.html").read_text()
    assert "--grid learning_rate=0.01,0.1" in page and page.count("scored thick") == 2 and "Curves" in page

    before = Path("run/model.safetensors").read_bytes()
    assert main(["train", *words[: words.index("--out")], *words[words.index("--out") + 2 :], "--out", "alone"]) == 0
    assert Path("alone/model.safetensors").read_bytes() == before  # the search is not known to it
    assert main(["report", "run"]) == 0 and main(["predict", "run", "rows.csv"]) == 0


def built(*words: str, number: int = 0):
    """The candidates of a search, and what train builds with the settings of one of them."""
    options = parse([*SEARCH, *words])
    common, drawn = options.train_words(options.given[1:]), draw(options)
    asked = [
        parse(["train", *common, *(word for one in options.grid for word in one.words(values[one.name]))])
        for values in drawn
    ]
    data = load_train_test(asked[0], True, gb.recipes.tabular("regression", 1, 1).encoding)
    design = read_design(asked[0])
    candidates = build_candidates(drawn, asked, design, data, options)
    return candidates, build(asked[number], design, data.preprocessing, data.training.x)[1]


@pytest.mark.parametrize("target", [KINDS, PRICES], ids=["classes", "numbers"])
@pytest.mark.parametrize(
    "words",
    [
        ("--grid", "learning_rate=0.01,0.1", "--grid", "dropout=0,0.3"),
        ("--grid", "weight_decay=0,0.1", "--grid", "l2=0,0.01", "--warmup", "0.1", "--max-norm", "2"),
        ("--grid", "optimizer=adamw,sgd", "--grid", "schedule=constant,cosine"),
        ("--grid", "layers=3,none", "--grid", "activation=tanh,relu", "--clip-norm", "1", "--average", "0.9"),
        ("--grid", "clip_norm=0.5,1", "--grid", "max_norm=1,2", "--grid", "batch_size=8,16", "--recipe", "plain"),
    ],
)  # fmt: skip
def test_a_member_begins_and_steps_as_the_network_of_train(target, words):
    write(target)
    for number in (0, 3):
        candidates, trainer = built(*words, "--seeds", "2", number=number)
        population = candidates.population([number], [0, 1])
        assert population.network.parameters.shape == (2, trainer.network.parameters.size)
        x, y = candidates.data.training.x[:8].astype(np.float32), candidates.y[:8]
        for _ in range(3):
            ours, theirs = float(trainer.step(x, y)), np.asarray(population.trainer.step(x, y))
            assert theirs[0] == pytest.approx(ours, rel=1e-5)
        np.testing.assert_allclose(population.network.parameters[0], trainer.network.parameters, rtol=1e-4, atol=1e-6)
        assert not np.allclose(population.network.parameters[1], population.network.parameters[0])


def test_candidates_that_differ_in_numbers_are_one_shape():
    for words, groups in [
        (
            (
                "--grid",
                "learning_rate=0.01..0.1",
                "--grid",
                "dropout=0,0.1,0.3",
                "--grid",
                "label_smoothing=0,0.1",
                "--trials",
                "6",
            ),
            1,
        ),
        (("--grid", "layers=3,4:2", "--grid", "l1=0,0.1"), 2),
        (("--grid", "optimizer=sgd,adam", "--grid", "batch_size=8,16"), 4),
    ]:
        assert len(built(*words)[0].groups()) == groups


def drawn(*words: str) -> list[dict[str, str]]:
    return draw(parse(["search", *words]))


def test_what_is_drawn():
    assert drawn("--grid", "dropout=0,0.5", "--grid", "layers=3,4:2") == [
        {"dropout": p, "layers": units} for p in ("0", "0.5") for units in ("3", "4,2")
    ]
    some = drawn("--grid", "learning_rate=1e-4..0.1", "--grid", "batch_size=16..64", "--trials", "40")
    rates = [float(one["learning_rate"]) for one in some]
    assert len(some) == 40 and all(1e-4 <= rate <= 0.1 for rate in rates)
    assert 0.3 < np.mean(np.array(rates) < 10**-2.5) < 0.7  # on a logarithmic scale
    assert all(one["batch_size"].isdecimal() for one in some)
    dropout = [
        float(one["dropout"]) for one in drawn("--grid", "dropout=0..0.5", "--strategy", "sobol", "--trials", "64")
    ]
    assert np.mean(dropout) == pytest.approx(0.25, abs=0.02)
    many = drawn("--grid", "l2=0,1,2,3,4,5,6,7,8,9", "--grid", "l1=0,1,2,3,4,5,6,7,8,9", "--trials", "20")
    assert 10 < len(many) <= 20 and len({tuple(one.values()) for one in many}) == len(many)
    assert drawn("--grid", "l2=0..1", "--seed", "1") != drawn("--grid", "l2=0..1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--grid is missing, a setting with its candidates"),
        (("--grid", "lr=1,2"), "'lr' is no setting that can be searched; did you mean 'learning_rate'? these can: "),
        (("--grid", "epochs=1,2"), "'epochs' is no setting that can be searched"),
        (("--grid", "learning_rate"), "'learning_rate' lacks a candidate"),
        (("--grid", "learning_rate="), "'learning_rate=' lacks a candidate"),
        (("--grid", "learning_rate=0.1,,1"), "'learning_rate=0.1,,1' lacks a candidate"),
        (("--grid", "learning_rate=0.1,x"), "learning_rate must be a finite number"),
        (("--grid", "layers=3:,4"), "layers must be whole numbers"),
        (("--grid", "dropout=0..1"), "dropout must be a number in [0, 1), got 1"),
        (("--grid", "l2=1..0.5"), "'l2=1..0.5' is not a range from a low number to a higher one"),
        (("--grid", "l2=-1,0"), "'-1' is not a number of at least 0"),
        (("--grid", "l2=0.1,0.1"), "'l2=0.1,0.1' has 0.1 more than once"),
        (("--grid", "schedule=plateau,cosine"), "plateau follows what is measured while one network trains"),
        (("--grid", "l2=0,1", "--schedule", "plateau"), "--schedule plateau follows what is measured"),
        (("--grid", "l2=0,1", "--grid", "l2=2"), "--grid l2 is given more than once"),
        (("--grid", "l2=0,1", "--l2", "1"), "--l2 is given, and --grid searches it"),
        (("--grid", "learning_rate=0,1", "--learning-rate=1"), "learning_rate must be a finite number"),
        (("--grid", "learning_rate=1,2", "--learning-rate=1"), "--learning-rate is given, and --grid searches it"),
        (("--grid", "l2=1"), "there is one candidate, and nothing to choose from"),
        (("--grid", "l2=0..1", "--strategy", "grid"), "--strategy grid tries all combinations, and l2 is a range"),
        (("--grid", "l2=0,1,2", "--strategy", "grid", "--trials", "2"), "there are 3 combinations; give --trials 3"),
        (("--grid", "l2=0,1", "--strategy", "all"), "invalid choice: 'all'"),
        (("--grid", "l2=0,1", "--trials", "1"), "'1' is not a whole number of at least 2"),
        (("--grid", "l2=0,1", "--folds", "1"), "'1' is not a whole number of at least 2"),
        (("--grid", "l2=0,1", "--folds", "49"), "--folds 49: there is not a row for each fold, but 48 to learn from"),
        (("--grid", "l2=0,1", "--score", "acuracy"), "unknown metric 'acuracy'. Did you mean 'accuracy'"),
        (("--grid", "l2=0,1", "--score", "accuracy,f1"), "'accuracy,f1' are several"),
        (("--grid", "l2=0,1", "--ensemble", "3"), "unrecognized arguments: --ensemble 3"),
        (("--grid", "l2=0,1", "--cv", "3"), "did you mean '--folds'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_told(capsys, words, said):
    told = refused(capsys, *SEARCH, *words)
    assert said in told and told.startswith("gpu-backprop search: error: ") and not Path("run").exists()


def test_numbers_have_the_score_that_is_asked_for(capsys):
    write(PRICES)
    assert main([*SEARCH, "--grid", "dropout=0,0.5", "--score", "r2", "--strategy", "halving", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "val_r2" in told.splitlines()[0] and "candidates" not in told and "test R²: " in told
    best, other = trials()
    assert float(best["score"]) > float(other["score"]) and best["stopped"] == ""


def test_what_a_search_found_is_kept_where_it_is_ended(capsys, monkeypatch):
    seen = []

    def interrupt(display, result):
        display.result = result
        seen.append(len(result.parts[-1].history))
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SearchDisplay, "__call__", interrupt)
    assert main([*SEARCH, "--grid", "learning_rate=0.01,0.1", "--no-early-stopping"]) == 130
    assert seen == [1, 2]
    assert {path.name for path in Path("run").iterdir()} == {"trials.csv", "search.html", "search.png"}
    best = trials()[0]
    assert best["epochs"] == "2"
    command = (
        capsys.readouterr().out.splitlines()[-1].removeprefix("to train with the best settings, with another --out: ")
    )
    assert command.endswith(f"--no-early-stopping --set learning_rate={best['learning_rate']}")
    assert "already holds a run (trials.csv" in failed(capsys, *SEARCH, "--grid", "l2=0,1")
    assert main([*shlex.split(command)[1:], "--out", "other"]) == 0


def failed(capsys, *argv: str) -> str:
    """What is said of a command line that could not be done."""
    capsys.readouterr()
    assert main(argv) == 1
    return capsys.readouterr().err


def test_where_all_diverge_nothing_is_left(capsys):
    write(PRICES)
    rates = "--grid", "learning_rate=1e300,1e299", "--optimizer", "sgd", "--dtype", "float64", "--recipe", "plain"
    told = failed(capsys, *SEARCH[:-4], "--out", "run", *rates)
    assert "all candidates diverged" in told and not Path("run").exists()


def test_what_was_found_is_kept_where_the_best_cannot_be_trained(capsys, monkeypatch):
    def build(*given):
        raise gb.InputError("no network")

    monkeypatch.setattr("gpu_backprop.commands.search.build", build)
    assert "no network" in failed(capsys, *SEARCH, "--grid", "l2=0,1")
    assert len(trials()) == 2


def test_what_was_found_is_kept_where_nobody_reads_any_more(capsys, monkeypatch):
    def closed(display, result):
        display.result = result
        raise BrokenPipeError

    monkeypatch.setattr(SearchDisplay, "__call__", closed)
    told = failed(capsys, *SEARCH, "--grid", "l2=0,1")
    assert "the search ended early: standard output was closed; what was found until then is in run" in told
    assert [trial["epochs"] for trial in trials()] == ["1", "1"]


def test_a_folder_with_a_run_is_refused_before_the_search(capsys, monkeypatch):
    Path("run").mkdir()
    Path("run/model.safetensors").write_text("")
    monkeypatch.setattr("gpu_backprop.commands.search.search_candidates", None)
    assert "'run' already holds a run (model.safetensors)" in failed(capsys, *SEARCH, "--grid", "l2=0,1")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_in_a_terminal_the_table_is_drawn_anew_and_fits(monkeypatch):
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("gpu_backprop.commands.search_display.REFRESH", 0)
    stream = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        words = "--grid", "layers=3,4:3:4:3:4:3:4:3:4:3:4:3:4:3:4:3", "--grid", "learning_rate=0.01,0.1"
        assert main([*SEARCH, *words, "--no-early-stopping"]) == 0
    text = stream.getvalue()
    assert text.count("epoch 1 of at most 3, 4 networks train, ") == 2 and "epoch 3 of at most 3" in text
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    assert max(map(len, shown.split("\n"))) <= 60


def test_elsewhere_there_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr("gpu_backprop.commands.search_display.PAUSE", 0)
    assert main([*SEARCH, "--grid", "l2=0,0.1", "--no-early-stopping"]) == 0
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ") and "best so far" in line
    ]
    assert [line[:50] for line in lines] == [
        f"epoch {k} of at most 3, 4 networks train, 0 have ended"[:50] for k in (1, 2, 3)
    ]
