"""Dates: in which way a column has them, which numbers become of them, and what is told where they are left as text."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpu_backprop as gb
from gpu_backprop.data import DataError, Preprocessing, Table, read
from gpu_backprop.data.dates import FORMATS, ORDERS, PARTS, DateFormat, find_dates, read_dates
from gpu_backprop.data.encoding import TABULAR, Encoding

DATES = Encoding(dates=True)


def table(texts, **others) -> Table:
    texts = np.array(texts, object)
    others = {name: np.array(values, np.float64) for name, values in others.items()}
    return Table("log.csv", {"when": texts, **others}, np.arange(2, 2 + len(texts)))


def fit(texts, encoding=DATES, **settings):
    return Preprocessing.fit(table(texts, y=np.arange(len(texts)) + 0.5), "y", encoding=encoding, **settings)


def parts(text, order, zone=False):
    values, wrong = read_dates(np.array([text], object), DateFormat(order, zone))
    assert wrong is None
    return dict(zip(PARTS, values[0].tolist(), strict=True))


def found(texts, wanted=True):
    """The format of a column, or why it is text."""
    dates = find_dates(table(texts), ["when"], wanted).get("when")
    return dates and (dates.format or dates.why)


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("2026-11-30", "2026-11-30 14:30"),
        ("2026-11-30", "2026-11-30T14:30:00.000"),
        ("2026/11/30", "2026/11/30 14:30"),
        ("2026.11.30", "2026.11.30 14:30"),
        ("30.11.2026", "30.11.2026 14:30:00"),
        ("30/11/2026", "30/11/2026, 2:30 pm"),
        ("11/30/2026", "11/30/2026 2:30 PM"),
        ("30-11-2026", "30-11-2026 14:30"),
        ("11-30-2026", "11-30-2026 14:30"),
        ("20261130", "20261130T14:30"),
        ("30 Nov 2026", "30 Nov 2026 14:30"),
        ("30 Nov 2026", "Mon, 30 November 2026 14:30"),
        ("30 Nov 2026", "30-NOV-2026 14:30"),
        ("Nov 30, 2026", "Nov 30, 2026 2:30 p.m."),
        ("Nov 30, 2026", "Monday, November 30th, 2026 14:30"),
    ],
)
def test_every_way_to_write_a_date(order, text):
    numbers = parts(text, order)
    assert numbers["days"] == (datetime.date(2026, 11, 30) - datetime.date(2000, 1, 1)).days + 14.5 / 24
    assert (numbers["year"], numbers["month"], numbers["weekday"], numbers["hour"]) == (26, 11, 0, 14.5)
    assert np.hypot(numbers["sin(month)"], numbers["cos(month)"]) == pytest.approx(1)
    assert numbers["sin(month)"] == pytest.approx(-np.sqrt(3) / 2) and numbers["cos(weekday)"] == 1
    assert numbers["cos(hour)"] == pytest.approx(np.cos(2 * np.pi * 14.5 / 24))
    assert found([text, text.replace("2026", "2025").replace("Mon, ", "").replace("Monday, ", "")]) == DateFormat(order)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-29", "2026-13-01", "2026-00-10", "0000-01-01", "26-11-30", "2026-11-30 24:00", "2026-11-30 10:60",
        "2026-11-30 13:00 pm", "2026-11-30 0:10 am", "2026-11-30T", "2026-11-30 noon", "2026-11", "2026-11/30",
        "30.11.26", "31 Sep 2026", "30 Nox 2026", "202611301", "²026-11-30", "2026-11-30 +01:00", "12:30", "now", "NaT",
        "2026-11-30\n2026-12-01", "2026-11-30" + " " * 60, "", "Nov 2026",
    ],
)  # fmt: skip
def test_what_is_no_date(text):
    assert all(format.read(text) is None for format in FORMATS)
    assert read_dates(np.array(["2026-11-30", text], object), DateFormat("2026-11-30"))[1] == 1


def test_days_are_those_of_utc_and_hours_those_of_the_clock():
    here, there = (parts(f"2026-11-30T{time}", "2026-11-30", zone=True) for time in ("01:00+02:00", "23:00-0130"))
    assert (here["hour"], there["hour"]) == (1, 23)
    assert there["days"] - here["days"] == pytest.approx(25.5 / 24)
    assert parts("2026-11-30 10:00 UTC", "2026-11-30", True) == parts("2026-11-30T10:00Z", "2026-11-30", True)
    assert found(["2026-11-30T01:00Z", "2026-11-30T01:00:02.25+05:30"]) == DateFormat("2026-11-30", zone=True)
    assert "dates in 2 formats" in found(["2026-11-30T01:00Z", "2026-11-30T01:00"])


@given(st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)), st.sampled_from(sorted(ORDERS)))
def test_a_date_that_is_written_is_read_again(moment, order):
    written = {
        "2026-11-30": f"{moment.isoformat()}",
        "30 Nov 2026": f"{moment.day} {moment:%b} {moment.year:04} {moment:%H:%M:%S.%f}",
        "Nov 30, 2026": f"{moment:%B} {moment.day}, {moment.year:04} {moment:%H:%M:%S.%f}",
    }
    year, month, day = f"{moment.year:04}", f"{moment.month:02}", f"{moment.day:02}"
    digits = order.replace("2026", "{0}").replace("11", "{1}").replace("30", "{2}").format(year, month, day)
    text = written.get(order, f"{digits} {moment:%H:%M:%S.%f}")
    numbers = parts(text, order)
    assert numbers["days"] == pytest.approx((moment - datetime.datetime(2000, 1, 1)) / datetime.timedelta(1), abs=1e-8)
    assert (2000 + numbers["year"], numbers["month"], numbers["weekday"]) == (
        moment.year, moment.month, moment.weekday()
    )  # fmt: skip
    assert numbers["hour"] == pytest.approx(
        moment.hour + moment.minute / 60 + (moment.second + moment.microsecond / 1e6) / 3600, abs=1e-4
    )


def test_the_values_tell_whether_the_day_is_first():
    assert found(["03/04/2026", "13/04/2026"]) == DateFormat("30/11/2026")
    assert found(["03/04/2026", "04/13/2026"]) == DateFormat("11/30/2026")
    assert found(["03-04-2026", "13-04-2026"]) == DateFormat("30-11-2026")
    assert found(["03.04.2026", "04.05.2026"]) == DateFormat("30.11.2026")
    why = found(["03/04/2026", None, "05/06/2026"])
    assert why == (
        "dates such as '03/04/2026' in line 2, and in every row the day may be the month, so that they are text here, "
        "each a category; say which it is with --set dates=day_first or month_first (dates= of an Encoding in Python), "
        "or write the year first, as in 2026-11-30"
    )
    assert found(["03/04/2026"], "day_first") == DateFormat("30/11/2026")
    assert found(["03/04/2026"], "month_first") == DateFormat("11/30/2026")
    assert found(["03/24/2026"], "day_first") == DateFormat("11/30/2026")  # there is no other way


def test_several_formats_are_told_with_a_row_of_each():
    texts = ["2026-11-30", "30.11.2026", "2026-11-29", "Nov 28, 2026", "2026-11-27"]
    learned = fit(texts)
    assert learned.features == [f"when={text}" for text in sorted(texts)]
    assert learned.warnings == [
        "log.csv: column 'when' has dates in 3 formats, such as '2026-11-30' in line 2, '30.11.2026' in line 3 and "
        "'Nov 28, 2026' in line 5, so that they are text here, each a category; write them all in one, best as "
        "2026-11-30"
    ]
    assert found(["13/02/2026", "02/13/2026"]).startswith("dates in 2 formats, such as '13/02/2026' in line 2 and")


def test_one_text_that_is_no_date_is_told():
    assert found(["2026-11-30", "?", "2026-11-28", None, "2026-02-30", "2026-11-27"]) == (
        "dates such as '2026-11-30' in line 2 in all but 2 rows, so that they are text here, each a category, because "
        "line 3 has '?'; correct it, or leave the field empty if it is missing"
    )
    assert found(["a", "b", "2026-11-30"]) is None
    assert found([None, None]) is None


def test_years_of_two_digits_are_told():
    assert found(["30/11/26", "29/11/26 10:00", "?"]) == (
        "what may be dates with years of two digits, such as '30/11/26' in line 2, so that they are text here, each a "
        "category; write the whole year"
    )
    assert found(["30/11-26", "1.2.3", "192.168.1.10", "12:30:45", "45-67-89"]) is None


def test_columns_that_are_no_dates_stay_what_they_are():
    assert found(["2026-11-30", "2026-11-29"], wanted=False) is None
    assert fit(["2026-11-30", "2026-11-29"], Encoding()).features == ["when=2026-11-29", "when=2026-11-30"]
    asked = Table("a", {"when": np.array(["2026-11-30"], object)}, text=["when"])
    assert find_dates(asked, ["when"], True) == {}  # text was asked for
    digits = Table("a", {"when": np.array(["20261130", "20261129"], object)}, text=["when"])
    assert find_dates(digits, ["when"], True)["when"].format == DateFormat("20261130")  # they would be numbers
    data = Table("a", {"n": np.array([20261130.0, 20261129]), "y": np.array([0.5, 1])})
    assert Preprocessing.fit(data, "y", encoding=DATES).features == ["n"]


def test_numbers_that_are_dates_are_told_and_text_makes_dates_of_them(tmp_path):
    days = [20240125 + n for n in range(7)] + [20240201 + n for n in range(7)]
    (path := tmp_path / "a.csv").write_text("when,y\n" + "".join(f"{day},{day % 3}.5\n" for day in days))
    learned = Preprocessing.fit(read(path), "y", encoding=DATES)
    assert learned.features == ["when"] and learned.warnings == [
        f"{path}: column 'when' has numbers that are all dates, such as '20240125' in line 2, and are learned from as "
        "numbers; --text 'when' reads them as dates (text= in Python)"
    ]
    again = Preprocessing.fit(read(path, text=["when"]), "y", encoding=DATES)
    assert "when days" in again.features and again.warnings == []
    assert Preprocessing.from_dict(again.to_dict()).transform(read(path)).shape == (14, again.inputs)
    assert "all dates" not in "".join(Preprocessing.fit(read(path), "y").warnings)


@pytest.mark.parametrize("stray", [20240230, 20241301, 20240100, 18991231, 21010101, 5, np.nan, 20240101.5])
def test_numbers_that_are_no_dates_are_not_told(stray):
    days = np.array([*range(20240101, 20240116), stray], float)
    data = Table("a", {"n": days, "y": np.arange(16) % 5 + 0.5})
    assert "all dates" not in "".join(Preprocessing.fit(data, "y", impute="mean", encoding=DATES).warnings)


def test_the_parts_that_differ_become_inputs():
    learned = fit(["2026-11-02", "2026-11-09", "2026-11-16"])
    assert learned.features == ["when days"]  # one month, all Mondays, no time
    np.testing.assert_allclose(
        learned.transform(table(["2026-11-02", "2026-11-23"]))[:, 0], [-np.sqrt(1.5), 2 * np.sqrt(1.5)], rtol=1e-6
    )
    assert learned.describe()[0][1] == "1 input of dates such as 2026-11-30: days, (v − 9809)/5.715"
    assert learned.summaries == ["when (dates)"] and learned.warnings == []
    assert fit(["2026-11-02", "2026-11-02"]).features == ["when days"]
    hours = fit(["2026-11-02 10:00", "2026-11-02 12:00", "2026-11-02 13:30"])
    assert hours.features == ["when days", "when hour", "when sin(hour)", "when cos(hour)"]
    assert hours.describe()[0][1].endswith("; likewise hour, sin(hour), cos(hour)")
    opposite = fit(["2026-11-02 00:00", "2026-11-02 12:00"])  # where a sine is 0, and that of π is not quite
    assert opposite.features == ["when days", "when hour", "when cos(hour)"]
    assert len(fit(["2025-11-02 10:00", "2026-12-08 12:00", "2026-05-02 13:30"]).features) == len(PARTS)


def test_dates_that_are_missing_or_wrong_later():
    learned = fit(["2026-11-02", None, "2026-11-16"], Encoding(dates=True, indicator=True))
    assert learned.features == ["when days", "when missing"]
    np.testing.assert_allclose(learned.transform(table([None, "2026-11-09"])), [[0, 1], [0, 0]], atol=1e-12)
    with pytest.raises(DataError, match="column 'when' has 1 missing value"):
        fit(["2026-11-02", None, "2026-11-16"])
    said = "^log.csv, line 3: '3.11.2026' in column 'when', which held dates such as 2026-11-30 in the training data; "
    with pytest.raises(DataError, match=said + "correct it, or leave the field empty if it is missing$"):
        learned.transform(table(["2026-11-02", "3.11.2026"]))
    with pytest.raises(DataError, match="column 'when' has no values to learn from"):
        fit(["2026-11-02", None, None], rows=[1, 2], impute="mean")


def test_a_file_whose_dates_look_like_numbers_later(tmp_path):
    learned = Preprocessing.fit(table(["20261130", "20261129T10:00"], y=[0.5, 1]), "y", encoding=DATES)
    path = tmp_path / "new.csv"
    path.write_text("when,x\n20261129,1\n20261128,2\n")
    later = read(path)
    assert later.columns["when"].dtype == np.float64
    x = learned.transform(later)
    assert x[0, 0] < x[0, 0] + 1 and x[0, 0] - x[1, 0] > 0
    numbers = Table("a", {"when": np.array([20261129.0, 20261128])})
    np.testing.assert_array_equal(learned.transform(numbers), x)


@given(
    st.lists(st.one_of(st.none(), st.datetimes(datetime.datetime(1990, 1, 1))), min_size=1, max_size=12),
    st.sampled_from(["standard", "robust", "quantile"]),
    st.booleans(),
)
def test_a_stored_column_is_the_same(moments, numbers, clip):
    texts = ["2000-01-01", *(moment and str(moment) for moment in moments)]
    learned = fit(texts, Encoding(dates=True, indicator=True, numbers=numbers, clip=clip))
    x = learned.transform(table(texts))
    assert np.isfinite(x).all() and x.shape == (len(texts), learned.inputs)
    again = Preprocessing.from_dict(json.loads(json.dumps(learned.to_dict())))
    np.testing.assert_array_equal(again.transform(table(texts)), x)
    assert again.features == learned.features and again.describe() == learned.describe()


@pytest.mark.parametrize(
    "change",
    [
        {"dates": "2026-11-30"},
        {"dates": {"order": "30.11.26", "zone": False}},
        {"dates": {"order": "30.11.2026", "zone": 1}},
        {"parts": []},
        {"parts": ["days", "days"]},
        {"parts": ["century"]},
        {"parts": ["days", "hour"]},
        {"mean": [1, 2]},
        {"indicator": True},
    ],
)
def test_stored_columns_that_are_damaged(change):
    learned = fit(["2026-11-02", "2026-11-09"]).to_dict()
    learned["inputs"]["columns"][0] |= change
    with pytest.raises(DataError, match="the stored preprocessing is damaged"):
        Preprocessing.from_dict(learned)


@pytest.mark.parametrize("encoding", [DATES, TABULAR])
def test_rows_that_are_read_in_blocks(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_backprop.data.csv_file.BLOCK", 90)
    start = datetime.datetime(2026, 3, 1, 8)
    rows = [
        (start + datetime.timedelta(hours=7 * n), "" if n % 9 == 8 else f"{n % 28 + 1}/2/2026", n / 7)
        for n in range(200)
    ]
    path = tmp_path / "log.csv"
    path.write_text("when,day,y\n" + "\n".join(f"{when:%d.%m.%Y %H:%M},{day},{y}" for when, day, y in rows))
    impute = None if encoding.indicator else "mean"
    whole = Preprocessing.fit(read(path), "y", encoding=encoding, impute=impute)
    assert [text for text in whole.features if text.endswith(" days")] == ["when days", "day days"]
    with gb.open_rows(path, target="y", encoding=encoding, impute=impute) as streamed:
        assert streamed.preprocessing.features == whole.features
        x = streamed.read(slice(0, 200))
        np.testing.assert_allclose(x, whole.transform(read(path)), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(streamed.read(np.array([5, 3])), x[[5, 3]])


def test_dates_that_change_their_format_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_backprop.data.csv_file.BLOCK", 90)
    path = tmp_path / "log.csv"
    path.write_text("when,y\n" + "\n".join([f"2026-11-{n % 28 + 1:02},{n}.5" for n in range(50)] + ["1.12.2026,7"]))
    with gb.open_rows(path, target="y", encoding=DATES) as rows:
        assert "when=1.12.2026" in rows.preprocessing.features
        assert rows.preprocessing.warnings == [
            f"{path}: column 'when' has dates such as 2026-11-30 in its first rows and other texts later, so that they "
            "are text here, each a category"
        ]
