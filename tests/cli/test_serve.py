"""gpu-backprop serve: what it answers, byte for byte what predict says, and what it refuses, in words."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from urllib.parse import unquote

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

import gpu_backprop as gb
from gpu_backprop.cli import main
from gpu_backprop.commands.serve import listen
from gpu_backprop.commands.serving import app
from gpu_backprop.commands.serving import rows as served_rows
from gpu_backprop.commands.serving.app import HEADERS, PAGE, host_name, make_app
from gpu_backprop.commands.serving.form import describe_model
from gpu_backprop.commands.serving.model import ServedModel
from gpu_backprop.data import Preprocessing
from gpu_backprop.data.limits import memory_limit
from gpu_backprop.starting import SIGNALS, exit_code

SMALL = ["--recipe", "plain", "--epochs", "5", "--layers", "8", "--dropout", "0", "--quiet"]


def flowers(number: int) -> str:
    """A table of each kind of column: numbers, texts, dates, money, and a text for each row."""
    rng = np.random.default_rng(number)
    rows = ["size,colour,day,price,note,species"]
    for row in range(number):
        day, price = f"2026-{row % 12 + 1:02}-{row % 28 + 1:02}", f'"${rng.uniform(1000, 9000):,.2f}"'
        kind = "=small" if row % 2 else '"big, or so"'
        rows.append(f"{rng.normal(row % 2 * 4):.3f},{['red', 'blue'][row % 2]},{day},{price},n{row},{kind}")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of each kind of network; nobody writes in it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "flowers.csv").write_text(flowers(60))
    (folder / "new.csv").write_text(flowers(7))
    (folder / "prices.csv").write_text("a,b,price\n" + "".join(f"{k},{k % 7},{k * 1000.5}\n" for k in range(90)))
    x = np.random.default_rng(0).integers(0, 256, (60, 5, 5)).astype(np.uint8)
    np.savez(folder / "bytes.npz", x=x, y=np.arange(60) % 2)
    np.savez(folder / "two.npz", x=np.eye(4), y=np.arange(8).reshape(4, 2) / 8)
    table = ["--target", "species", "--impute", "median", "--hash", "note", "--set", "dates=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gb.History, "plot", lambda *_: None)  # which takes longer than all else
        for data, more in (
            ("flowers.csv", table), ("prices.csv", ["--target", "price", "--validation", "0.3", "--patience", "3"]),
            ("digits", []), ("bytes.npz", []), ("two.npz", ["--held-out", "0"]),
        ):  # fmt: skip
            assert main(["train", data, *SMALL, *more, "--out", data.partition(".")[0]]) == 0
    return folder


@pytest.fixture
def ask(trained, monkeypatch):
    """Makes a client of a run, as a browser or a program on this machine is one."""
    monkeypatch.chdir(trained)

    def client(run: str, *, most_rows=1000, most_bytes=100_000, seconds=30, interval=None, names=()) -> TestClient:
        model = ServedModel(gb.load(f"{run}/model.safetensors", device="cpu"), run, interval, most_rows)
        made = make_app(model, most_bytes, seconds, "127.0.0.1", names)
        return TestClient(made, base_url="http://127.0.0.1:8000")

    return client


def csv_of(client: TestClient, text: str | bytes):
    return client.post("/predict.csv", content=text, headers={"content-type": "text/csv"})


def raw(client: TestClient, body: str | bytes, **headers: str):
    return client.post("/predict", content=body, headers={"content-type": "application/json"} | headers)


def refused(response, status=400) -> str:
    """The words of a refusal, on one line and without a folder of this machine."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json" and list(response.json()) == ["error"]
    said = response.json()["error"]
    assert "\n" not in said and "/tmp" not in said and "gpu-backprop-" not in said and "Traceback" not in said
    return said


def row(**changed) -> dict:
    sound = {"size": 1, "colour": "red", "day": "2026-05-05", "price": "$2,000.00", "note": "n"}
    return {name: value for name, value in {**sound, **changed}.items() if value is not ...}


class TestAnswers:
    def test_csv_is_what_predict_writes_byte_for_byte(self, ask, tmp_path, capfdbinary):
        for run, text in ("flowers", flowers(1500)), ("flowers", flowers(3)), ("prices", "b,a\n3,4\n5,9999\n"):
            (tmp_path / "rows.csv").write_text(text)
            assert main(["predict", run, str(tmp_path / "rows.csv")]) == 0
            expected, errors = capfdbinary.readouterr()
            response = csv_of(ask(run, most_rows=2000, most_bytes=10**6), text)
            assert response.content == expected and response.headers["content-type"].startswith("text/csv")
            warnings = json.loads(unquote(response.headers.get("prediction-warnings", "[]")))
            assert [f"warning: {line}" for line in warnings] == errors.decode().replace(f"{tmp_path}/", "").splitlines()

    def test_csv_has_the_intervals_that_were_asked_for(self, ask, tmp_path, capfdbinary):
        (tmp_path / "rows.csv").write_text("a,b\n3,4\n")
        assert main(["predict", "prices", str(tmp_path / "rows.csv"), "--interval", "0.5"]) == 0
        assert csv_of(ask("prices", interval=0.5), "a,b\n3,4\n").content == capfdbinary.readouterr().out

    def test_json_has_the_numbers_of_csv(self, ask):
        client, text = ask("flowers"), flowers(7)
        _, *lines = csv.reader(io.StringIO(csv_of(client, text).text))
        answers = client.post("/predict", json={"rows": list(csv.DictReader(io.StringIO(text)))}).json()
        assert answers["predictions"] == [line[0] for line in lines]
        assert answers["probabilities"] == [[float(cell) for cell in line[1:]] for line in lines]
        assert answers["warnings"] == [] and client.post("/predict", json={"rows": [row()]}).status_code == 200

    def test_rows_are_named_or_in_the_order_of_the_model(self, ask):
        client, one = ask("flowers"), row()
        names = [column["name"] for column in client.get("/model").json()["columns"]]
        listed = client.post("/predict", json={"rows": [[one[name] for name in names]]})
        assert listed.json() == client.post("/predict", json={"rows": [one]}).json()

    def test_quantities_come_with_their_intervals(self, ask):
        answers = ask("prices").post("/predict", json={"rows": [{"a": 3, "b": 4}, {"a": 50, "b": 1}]}).json()
        for value, (low, high) in zip(answers["predictions"], answers["intervals"], strict=True):
            assert low < value < high
        two = ask("two").post("/predict", json={"rows": [[1, 0, 0, 0]]}).json()
        assert len(two["predictions"][0]) == 2 and "intervals" not in two

    @pytest.mark.parametrize(("run", "width", "most"), [("digits", 64, 16), ("bytes", 25, 255)])
    def test_images_are_rows_of_numbers(self, ask, run, width, most):
        x = np.random.default_rng(1).integers(0, most + 1, (3, width))
        answers = ask(run).post("/predict", json={"rows": x.tolist()}).json()
        net = gb.load(f"{run}/model.safetensors", device="cpu")
        y = net.predict(net.preprocessing.transform(x.astype(np.uint8)))
        assert answers["predictions"] == [net.classes[label] for label in y.argmax(axis=1)]
        np.testing.assert_allclose(answers["probabilities"], y if y.shape[1] > 1 else np.hstack([1 - y, y]), rtol=1e-6)

    def test_warnings_are_those_of_predict(self, ask):
        answers = ask("flowers").post("/predict", json={"rows": [row(colour="green", more=1)]}).json()
        unseen, unused = answers["warnings"]
        assert unseen.startswith("the request: 1 of 1 rows has a text in column 'colour' that no training row had")
        assert unused == "the request: not used, because the network was not trained on it: 'more'"

    def test_a_prediction_that_is_no_number_is_null(self, ask):
        client = ask("prices")
        net = gb.load("prices/model.safetensors", device="cpu")
        net.parameters[:] = np.nan
        client = TestClient(make_app(ServedModel(net, "n", None, 9), 999, 9, "::1"), base_url="http://localhost")
        assert client.post("/predict", json={"rows": [{"a": 1, "b": 2}]}).json()["predictions"] == [None]


class TestDescription:
    def test_a_model_of_columns(self, ask):
        model = ask("flowers").get("/model").json()
        columns = {column["name"]: column for column in model["columns"]}
        kinds = {name: column["kind"] for name, column in columns.items()}
        assert kinds == {"size": "number", "colour": "category", "day": "date", "price": "number", "note": "text"}
        assert columns["colour"]["values"] == ["blue", "red"] and columns["size"]["hint"].startswith("mean ")
        assert columns["price"]["typical"].startswith("$") and columns["day"]["hint"] == "such as 2026-11-30"
        assert (model["name"], model["target"], model["classes"]) == ("flowers", "species", ["=small", "big, or so"])
        assert model["version"] == gb.__version__ and (model["most_rows"], model["most_bytes"]) == (1000, 100_000)

    def test_typical_values_are_answered(self, ask):
        for run in ("flowers", "prices"):
            client = ask(run)
            typical = {column["name"]: column["typical"] for column in client.get("/model").json()["columns"]}
            assert client.post("/predict", json={"rows": [typical]}).status_code == 200

    def test_models_of_images(self, ask):
        assert ask("digits").get("/model").json()["image"] == {"side": 8, "ink": 16}
        assert ask("bytes").get("/model").json()["image"] == {"side": 5, "ink": 255}
        two = ask("two").get("/model").json()
        assert (two["image"], two["inputs"], two["outputs"]) == (None, 4, 2)

    @pytest.mark.parametrize("numbers", gb.data.encoding.NUMBERS)
    @pytest.mark.parametrize("target", [[f"{k} km" for k in range(30)], list("ab") * 15])
    def test_every_way_to_scale_numbers(self, numbers, target):
        encoding = gb.data.encoding.Encoding(numbers=numbers, ordinal={"o": ("low", "high")})
        data = {"a": np.arange(30.0), "o": ["low", "high"] * 15, "s": ["x", "y", "z"] * 10, "t": target}
        fitted = Preprocessing.fit(data, "t", encoding=encoding)
        net = gb.Network(fitted.inputs, [gb.Dense(fitted.outputs)], device="cpu")
        net.preprocessing = fitted
        a, o, s = describe_model(net)["columns"]
        assert (
            10 < a["typical"] < 20
            and o["values"] == ["low", "high"]
            and s["values"] == ["x", "y", "z"]
            and a["required"]
        )
        assert describe_model(net)["suffix"] == ("km" if fitted.classes is None else "")

    @pytest.mark.parametrize("name", PAGE)
    def test_the_page_needs_nothing_from_elsewhere(self, ask, name):
        response = ask("prices").get(f"/{name}")
        assert response.headers["content-type"].startswith(PAGE[name])
        assert not re.search(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.]+\.\w+/", response.text)
        assert not re.search(r"innerHTML|\beval\b|\bon\w+=\"|style=\"", response.text)

    def test_every_answer_has_the_headers(self, ask):
        client = ask("prices")
        for response in (client.get("/"), client.get("/nothing"), raw(client, "{"), csv_of(client, "a,b\n1,2\n")):
            assert HEADERS.items() <= dict(response.headers).items()
        assert client.get("/health").json() == {"status": "ok"} and client.head("/").status_code == 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("{", "the request is no JSON (Expecting property name enclosed in double quotes, line 1, column 2)"),
            (b'{"rows": ["\xff"]}', "the request is no UTF-8: byte 12 is ff"),
            ("[" * 100_000, "the request is nested too deeply"),
            ('{"rows": [{"size": NaN}]}', "the request has NaN, which JSON has not; give null"),
            ('{"rows": [{"size": -Infinity}]}', "the request has -Infinity"),
            ('{"rows": [{"size": 1, "size": 2}]}', "the request has two values of 'size'; give one"),
            ('{"rows": [[' + "9" * 5000 + "]]}", "the request has a number of 5,000 digits"),
            ("[]", 'the request has no rows; give {"rows": [{'),
            ('{"rows": []}', "the request has no rows"),
            ('{"rows": {}}', "the request has no rows"),
            ('{"rows": [{}], "more": 1}', "the request has 'rows', 'more', and nothing is known but 'rows'"),
            ('{"rows": [7]}', "the request, row 1: '7' is no row"),
            ('{"rows": [[1, 2]]}', "the request, row 1: 2 values, and the training data had 5 columns"),
            ('{"rows": [{"size": 1}, {"sise": 1}]}', "row 2: lacks column 'size', which row 1 has; did you mean"),
            ('{"rows": [{"size": 1}, {"size": 1, "b": 1}]}', "row 2: has a column 'b', which row 1 lacks"),
            ('{"rows": [{}]}', "; add them, it has no column"),
        ],
    )  # fmt: skip
    def test_what_is_no_request(self, ask, body, said):
        assert said in refused(raw(ask("flowers"), body))

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"size": "wide"}, "the request, row 2: 'wide' in column 'size', which held numbers in the training data"),
            ({"size": "1_000"}, "row 2: '1_000' in column 'size'"),
            ({"size": [1]}, "row 2: '[1]' in column 'size'; give a number, a text, true, false or null"),
            ({"size": {"a": 1}}, """row 2: '{"a": 1}' in column 'size'"""),
            ({"size": 1e38 * 1e38}, "row 2: 1e+76 in column 'size' is too far from the training data"),
            ({"size": 10**400}, "the request has a number of 401 digits"),
            ({"day": "5 May 2026"}, "row 2: '5 May 2026' in column 'day', which held dates such as 2026-11-30"),
            ({"price": 7}, "in column 'price', which held numbers such as '$1,234.5'"),
            ({"colour": ...}, "row 2: lacks column 'colour', which row 1 has"),
        ],
    )
    def test_what_is_no_value(self, ask, changed, said):
        assert said in refused(ask("flowers").post("/predict", json={"rows": [row(), row(**changed)]}))

    def test_numbers_beyond_all_bounds(self, ask):
        assert "is too far from" in refused(raw(ask("digits"), json.dumps({"rows": [[1e200] * 64]})))
        assert "row 1: x[0] is infinite" in refused(raw(ask("digits"), '{"rows": [[' + "1e999," * 63 + "1]]}"))

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([[0] * 63], "x has 63 features a row, and the training data had 64"),
            ([[0] * 64, [0]], "row 2: a row is a list of numbers, as long as the others"),
            ([[]], "row 1: a row is a list of numbers"),
            ([["0"] * 64], "row 1: x[0] is '0'; give a number, or null"),
            ([[True] * 64], "row 1: x[0] is 'True'; give a number, or null"),
            ([{"a": 1}], "row 1: a row is a list of numbers"),
            ([[None] * 64], "x has 64 missing values (NaN)"),
        ],
    )
    def test_what_is_no_row_of_numbers(self, ask, rows, said):
        assert said in refused(ask("digits").post("/predict", json={"rows": rows}))

    @pytest.mark.parametrize("value", [-1, 256, 0.5, None, 1e999])
    def test_what_is_no_pixel(self, ask, value):
        body = json.dumps({"rows": [[0] * 25, [7, value] + [0] * 23]}).replace("Infinity", "1e999")
        assert "row 2: x[1] is " in refused(raw(ask("bytes"), body))

    def test_halves_of_surrogate_pairs_do_no_harm(self, ask):
        rows = (
            '{"rows": [{"size": 1, "colour": "\\ud800", "day": null, "price": null, "note": "\\udfff", "\\ud83d": 1}]}'
        )
        assert raw(ask("flowers"), rows).status_code == 200
        assert "'\\ud800'" in refused(raw(ask("flowers"), rows.replace(": 1,", ': "\\ud800",')))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"", "rows.csv is empty"),
            (b"size,colour\n\xff,1\n", "rows.csv, line 2: the byte ff is not UTF-8"),
            (b"size\n1\n", "rows.csv lacks 4 columns that the training data had"),
            (b"size,colour,day,price,note\n1,red,2026-05-05\n", "rows.csv, line 2: 3 fields where the header has 5"),
            (b"size,colour,day,price,note\nx,red,2026-05-05,$1,n\n", "rows.csv, line 2: 'x' in column 'size'"),
            (b"PK\x03\x04" + b"\0" * 100, "rows.csv is damaged or cut off"),
            (b"PAR1" + b"\0" * 100, "rows.csv is no text"),
            (b"\x93NUMPY" + b"\0" * 100, "rows.csv is no text"),
            (b"\x89PNG" + b"\0" * 100, "rows.csv is an image"),
            (gzip.compress(b"size\n" + b"1\n" * 10**6), "rows.csv is no text; give CSV that is not packed"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_no_csv(self, ask, text, said):
        assert said in refused(csv_of(ask("flowers"), text))

    def test_a_network_of_arrays_takes_no_csv(self, ask):
        for text in "a,b\n1,2\n", "1,2\n3,4\n", "":
            assert refused(csv_of(ask("digits"), text)) == (
                "the network learned from arrays, and takes no CSV; POST /predict with "
                '{"rows": [[NUMBER, ...], ...]}, 64 numbers a row'
            )

    def test_a_packed_body(self, ask):
        body = gzip.compress(b'{"rows": []}')
        said = refused(raw(ask("prices"), body, **{"content-encoding": "gzip"}), 415)
        assert said == "the request is packed (Content-Encoding); send it as it is"

    def test_other_content_types(self, ask):
        client = ask("prices")
        assert "'text/plain'; send application/json" in refused(
            raw(client, "{}", **{"content-type": "text/plain"}), 415
        )
        assert "send application/json" in refused(client.post("/predict", data={"a": "1"}), 415)
        assert "the Content-Type is ''; send text/csv" in refused(client.post("/predict.csv", content=b"a"), 415)

    def test_other_addresses_and_methods(self, ask):
        client = ask("prices")
        known = "there are /, /model, /health, /predict and /predict.csv"
        assert known in refused(client.get("/page/page.html"), 404) and known in refused(
            client.get("/../serve.py"), 404
        )
        response = client.get("/predict")
        assert refused(response, 405) == "/predict takes POST, not GET" and response.headers["allow"] == "POST"

    def test_too_many_bytes(self, ask):
        client, words = ask("prices", most_bytes=1000), "more than the 1,000 bytes of one request; send it in parts"
        assert words in refused(raw(client, b" " * 1001), 413)
        assert words in refused(raw(client, (b" " * 10 for _ in range(101))), 413)  # in chunks, of unknown length
        assert "no JSON" in refused(raw(client, b" " * 1000))
        assert words in refused(csv_of(client, b"a,b\n" + b"1,2\n" * 1000), 413)

    def test_too_many_columns(self, ask, monkeypatch):
        monkeypatch.setattr(served_rows, "MOST_COLUMNS", 12)
        client, wide = ask("flowers"), {f"c{k}": k for k in range(13)}
        words = "columns are more than the 12 of one request; leave those out"
        assert words in refused(client.post("/predict", json={"rows": [wide]}))
        assert words in refused(client.post("/predict", json={"rows": [row(), wide]}))
        assert words in refused(csv_of(client, "\n;" + ";".join(wide) + "\r\n1\n"))

    def test_too_many_rows(self, ask):
        client, words = ask("prices", most_rows=2), "3 rows are more than the 2 of one request; send them in parts"
        assert words in refused(client.post("/predict", json={"rows": [{"a": 1, "b": 2}] * 3}))
        assert words in refused(csv_of(client, "a,b\n" + "1,2\n" * 3))
        assert csv_of(client, "a,b\n1,2\n1,2\n").status_code == 200

    @pytest.mark.parametrize(
        "host", ["127.0.0.1:8000", "localhost:9", "[::1]:8000", "10.1.2.3", "LOCALHOST", "a.example"]
    )
    def test_hosts_that_are_known(self, ask, host):
        assert ask("prices", names=["A.example"]).get("/model", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "a@localhost"]
    )
    def test_hosts_that_are_not(self, ask, host):
        assert "is not known here" in refused(ask("prices").get("/", headers={"host": host}))

    @pytest.mark.parametrize(
        "origin",
        ["http://evil.example", "null", "", "http://127.0.0.1:8001", "http://[", "http://127.0.0.1:8000.evil.example"],
    )
    def test_pages_from_elsewhere(self, ask, origin):
        assert "only those of this server may" in refused(raw(ask("prices"), "{}", origin=origin), 403)

    def test_pages_of_its_own(self, ask):
        client, body = ask("prices", names=["a.example"]), '{"rows": [{"a": 1, "b": 2}]}'
        for origin in ("http://127.0.0.1:8000", "https://a.example", "https://A.example:444"):
            assert raw(client, body, origin=origin).status_code == 200

    def test_names_of_hosts(self):
        given = {"a.b:80": "a.b", "[::1]:80": "::1", "A": "a", "a:b": "", ":80": "", "[x]": "", "a:80:80": ""}
        assert {text: host_name(text) for text in given} == given

    def test_an_unforeseen_error_says_nothing_of_the_program(self, ask, monkeypatch, capsys):
        def fail(*_):
            raise KeyError("secret")

        monkeypatch.setattr(ServedModel, "predict_json", fail)
        said = refused(raw(ask("prices"), "{}"), 500)
        assert "secret" not in said and "unforeseen" in said
        assert capsys.readouterr().err == "unexpected KeyError: 'secret'\n"


class TestManyAtOnce:
    def test_memory_is_counted_for_each_request_alone(self, ask):
        client, rows = ask("flowers"), {"rows": [row(colour="x" * 5000)]}
        with memory_limit(20_000):
            for _ in range(8):
                assert client.post("/predict", json=rows).status_code == 200
                assert csv_of(client, flowers(3)).status_code == 200
            too_large = {"rows": [row(colour="x" * 50_000)]}
            assert "bytes unpacked, more than the limit of 20,000" in refused(client.post("/predict", json=too_large))

    @pytest.fixture
    def first_of(self, ask, monkeypatch):
        """Sends requests at the same time; returns the first answer, before which no prediction ends, and the others.

        The network would complain in another answer if it were asked for two predictions at one time."""
        go, busy = threading.Event(), threading.Lock()

        def predict(model, body):
            assert busy.acquire(blocking=False) and go.wait(60)
            busy.release()
            return {}

        def send(number: int, **limits):
            async def send_all():
                transport = httpx2.ASGITransport(ask("prices", **limits).app)
                async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                    headers = {"content-type": "application/json"}
                    given = [client.post("/predict", content="{}", headers=headers) for _ in range(number)]
                    first, others = await asyncio.wait(map(asyncio.create_task, given), return_when="FIRST_COMPLETED")
                    go.set()
                    return first.pop().result(), [response.status_code for response in await asyncio.gather(*others)]

            return asyncio.run(send_all())

        monkeypatch.setattr(ServedModel, "predict_json", predict)
        return send

    def test_one_is_answered_at_a_time_and_too_many_are_refused(self, first_of, monkeypatch):
        monkeypatch.setattr(app, "AT_ONCE", 3)
        first, others = first_of(4)
        assert refused(first, 503) == "3 requests are being answered; try again in a moment" and others == [200] * 3

    def test_who_waits_too_long_is_told(self, first_of):
        first, others = first_of(2, seconds=0.05)
        assert refused(first, 503) == "others were answered for 0.05 s; try again in a moment" and others == [200]

    def test_what_never_arrives(self, ask):
        sent = []

        async def send(message):
            sent.append(message)

        async def ask_without_end():
            headers = [(b"host", b"localhost"), (b"content-type", b"text/csv")]
            path = {"path": "/predict.csv", "raw_path": b"/predict.csv", "query_string": b"", "root_path": ""}
            scope = {"type": "http", "method": "POST", "headers": headers, "server": ("localhost", 80), **path}
            await ask("prices", seconds=0.01).app(scope, asyncio.Event().wait, send)

        asyncio.run(ask_without_end())
        assert sent[0]["status"] == 408 and b"the request took more than 0.01 s to arrive" in sent[1]["body"]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal can't be sent to one process on Windows")
class TestCommand:
    @pytest.fixture
    def started(self, trained):
        """Starts the command as a user does; ends it if a test did not."""
        processes = []

        def start(*options: str) -> tuple[subprocess.Popen, str]:
            command = [sys.executable, "-m", "gpu_backprop", "serve", *options, "--device", "cpu"]
            process = subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            processes.append(process)
            said = process.stdout.readline()
            return process, re.fullmatch(r"serving \S+ at (http://\S+) \(Ctrl-C ends it\)\n", said)[1]

        yield start
        for process in processes:
            with process:
                process.kill()

    def test_a_free_port_a_real_request_and_ctrl_c(self, started):
        process, address = started("prices", "--port", "0")
        with urllib.request.urlopen(f"{address}/health") as response:
            assert json.load(response) == {"status": "ok"} and "server" not in response.headers
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:  # half a request, which ends nothing later
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: 100\r\n\r\n{")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (130, "", "gpu-backprop: interrupted\n")

    def test_a_signal_that_is_ignored_ends_nothing(self, started):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a program that is started keeps, as after nohup
        try:
            process, address = started("prices", "--port", "0")
        finally:
            signal.signal(signal.SIGINT, before)
        process.send_signal(signal.SIGINT)
        with urllib.request.urlopen(f"{address}/health") as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143

    @pytest.mark.parametrize("number", [pytest.param(n, id=n.name) for n in SIGNALS if n != signal.SIGINT])
    def test_other_signals(self, started, number):
        process, _ = started("prices/model.safetensors", "--port", "0")
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (exit_code(number), f"gpu-backprop: ended by {number.name}\n")


class TestMistakes:
    @pytest.fixture(autouse=True)
    def working_folder(self, trained, monkeypatch):
        monkeypatch.chdir(trained)

    def said(self, capsys, *options: str) -> str:
        assert main(["serve", *options]) == 1
        return " ".join(capsys.readouterr().err.split())

    def test_a_port_in_use(self, capsys):
        with listen("127.0.0.1", 0) as taken:
            port = str(taken.getsockname()[1])
            said = self.said(capsys, "prices", "--port", port)
        assert (
            said.startswith(f"gpu-backprop: port {port} of 127.0.0.1 is in use")
            and "choose another with --port" in said
        )

    @pytest.mark.parametrize("host", ["nothing.invalid", "x" * 300, "é" * 70])
    def test_a_host_that_is_none(self, capsys, host):
        assert "is no address of this machine" in self.said(capsys, "prices", "--host", host, "--port", "0")

    @pytest.mark.parametrize("name", ["http://a.example", "a.example:443", "a.example/", "", "bücher.example", "a b"])
    def test_a_name_that_no_browser_sends(self, capsys, name):
        with pytest.raises(SystemExit, match="2"):
            main(["serve", "prices", "--port", "0", "--allow-host", name])
        assert f"--allow-host: {name!r} is not the name of a host; give it alone" in capsys.readouterr().err

    def test_an_address_of_another_machine(self, capsys):
        assert "cannot be opened" in self.said(capsys, "prices", "--host", "192.0.2.1", "--port", "0")

    def test_a_run_that_is_none(self, capsys):
        assert "No such file" in self.said(capsys, "nothing") and "has no prediction intervals" in self.said(
            capsys, "flowers", "--interval", "0.9"
        )

    @pytest.mark.parametrize("port", ["65536", "-1", "x", "1.5"])
    def test_ports_that_are_none(self, capsys, port):
        with pytest.raises(SystemExit, match="2"):
            main(["serve", "prices", "--port", port])
        assert "--port" in capsys.readouterr().err

    def test_others_are_warned_of(self, capsys, monkeypatch):
        import uvicorn

        monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
        assert main(["serve", "prices", "--host", "0.0.0.0", "--port", "0"]) == 0
        assert "anybody who reaches this machine can ask the network" in " ".join(capsys.readouterr().err.split())
        assert main(["serve", "prices", "--port", "0"]) == 0 and not capsys.readouterr().err

    @pytest.mark.parametrize("absent", ["uvicorn", "starlette"])
    def test_the_extra_is_named(self, capsys, monkeypatch, absent):
        for name in [name for name in sys.modules if name.partition(".")[0] == absent or ".serving" in name]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, absent, None)
        assert "serve needs starlette and uvicorn: pip install 'gpu-backprop[serve]'" in self.said(capsys, "prices")
