"""What the command line makes of columns of dates, of texts in order, and of thousands of categories."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

import gpu_backprop as gb
from gpu_backprop.cli import main

SIZES = ["small", "medium", "large"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def orders(path: str = "orders.csv", date: str = "%Y-%m-%d %H:%M") -> str:
    """A price by the day and the size."""
    start = datetime.datetime(2026, 1, 5, 8)
    lines = ["when,size,code,price"]
    for row in range(80):
        when, size = start + datetime.timedelta(hours=31 * row), row * row % 3
        lines.append(f"{when.strftime(date)},{SIZES[size]},code {row % 25},{row / 8 + 3 * size + 0.25}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(*options: str) -> int:
    return main(["train", "--target", "price", "--epochs", "2", "--layers", "4", "--out", "run", *options])


def test_dates_and_texts_in_order(capsys):
    assert train(orders(), "--ordinal", "size=small<medium < large") == 0
    captured = capsys.readouterr()
    told = re.search(r"from when \(dates\), size \(3 in order\), code \(([^)]*)\)", captured.out)
    assert told is not None and sum(map(int, re.findall("[0-9]+", told[1]))) == 25 and "pooled" in told[1]
    learned = gb.load("run/model.safetensors").preprocessing
    assert learned.features[:3] == ["when days", "when month", "when sin(month)"]
    assert "size" in learned.features
    assert main(["evaluate", "run", "orders.csv", "--quiet"]) == 0
    lines = Path("orders.csv").read_text().splitlines()
    Path("new.csv").write_text("\n".join([lines[0], lines[1].replace("small", "huge"), "12.1.2026," + lines[2][17:]]))
    capsys.readouterr()
    assert main(["predict", "run", "new.csv"]) == 1
    assert (
        "new.csv, line 3: '12.1.2026' in column 'when', which held dates such as 2026-11-30 " in capsys.readouterr().err
    )
    Path("new.csv").write_text("\n".join([lines[0], lines[1].replace("small", "huge")]))
    assert main(["predict", "run", "new.csv"]) == 0
    assert "1 of 1 rows has a text in column 'size' that no training row had" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["size", "size=small", "=a<b", "size=a<", "size=a<<b"])
def test_what_is_no_order(given, capsys):
    with pytest.raises(SystemExit):
        train(orders(), "--ordinal", given)
    assert "is no column with the order of its texts, the least first, as in 'size=small" in capsys.readouterr().err


def test_an_order_of_another_column_and_without_a_text(capsys):
    assert train(orders(), "--ordinal", "sizes=small<medium") == 1
    assert "column 'sizes', whose texts are to have an order, is none that is learned from; did you mean 'size'?" in (
        capsys.readouterr().err
    )
    assert train(orders(), "--ordinal", "size=small<large") == 1
    assert "orders.csv, line 3: 'medium' in column 'size', whose order is 'small', 'large'; " in capsys.readouterr().err
    assert main(["train", "--ordinal", "size=a<b"]) == 2
    assert "--ordinal: about data of your own" in capsys.readouterr().err


def test_dates_in_three_formats_are_told(capsys):
    rows = Path(orders()).read_text().splitlines()
    rows[2], rows[3] = "6.1.2026" + rows[2][16:], "Jan 7 2026" + rows[3][16:]
    Path("orders.csv").write_text("\n".join(rows))
    assert train("orders.csv", "--quiet") == 0
    error = capsys.readouterr().err
    assert (
        "column 'when' has dates in 3 formats, such as '2026-01-05 08:00' in line 2, '6.1.2026' in line 3 and" in error
    )


def test_days_that_may_be_months(capsys):
    options = orders(date="%w/1/2026"), "--quiet"  # the day is that of the week, from 0: 0/1 is no date
    Path("orders.csv").write_text(Path("orders.csv").read_text().replace("\n0", "\n7"))
    assert train(*options) == 0
    assert "the day may be the month, so that they are text here" in capsys.readouterr().err
    assert train(*options, "--set", "dates=day_first", "--overwrite") == 0
    assert "the day may be the month" not in capsys.readouterr().err
    assert gb.load("run/model.safetensors").preprocessing.features[0] == "when days"


def test_thousands_of_categories_are_told(capsys):
    lines = ["id,price", *(f"user {row % 2100},{row / 8}" for row in range(4200))]
    Path("users.csv").write_text("\n".join(lines))
    assert train("users.csv", "--set", "batch_size=2000") == 0
    captured = capsys.readouterr()
    assert "column 'id' has too many different texts for an input each, so that each text is hashed" in captured.err
    assert "inputs: 256, from id (hashed)" in captured.out
