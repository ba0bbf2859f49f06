"""docs/serving.md is true: its commands are run in order, its requests are sent, and it names every limit."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from gpu_backprop.cli import main
from gpu_backprop.commands import serve
from gpu_backprop.commands.serving.app import AT_ONCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
STEPS = [part.partition("\n")[::2] for block in BLOCKS for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]


def agrees(said: str, printed: str) -> bool:
    """Whether the page says what was printed; … stands for anything, and a line of it for any number of lines."""
    pattern = re.escape(said).replace("…", ".*")
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def send(client: TestClient, words: list[str]) -> str:
    """Send what curl would send."""
    options = dict(zip(words[1::2], words[2::2], strict=True))
    headers = dict([options["-H"].split(": ")]) if "-H" in options else {}
    headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    name = options.get("--data-binary", "").removeprefix("@")
    body = Path(name).read_bytes() if name else options["-d"].encode()
    return client.post(words[0], content=body, headers=headers).text


def test_the_page_is_true(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    served: list[TestClient] = []

    def run(server: uvicorn.Server, sockets: object) -> None:
        served.append(TestClient(server.config.app, base_url="http://127.0.0.1:8000"))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    made = [step for step in STEPS if step[0].startswith(("python", "gpu-backprop train"))]
    listen = serve.listen
    monkeypatch.setattr(serve, "listen", lambda host, port: listen(host, 0))
    sent = 0
    for command, said in [*made, *(step for step in STEPS if step not in made)]:
        program, *words = shlex.split(command)
        capsys.readouterr()
        if program == "python":
            runpy.run_path(str(ROOT / words[0]))
        elif program == "gpu-backprop":
            assert main(words) == 0
            printed = re.sub(r":\d+ \(", ":8000 (", capsys.readouterr().out)
            assert agrees(said, printed), printed
        elif program == "curl":
            printed = send(served[-1], words)
            assert agrees(said.removesuffix("\n"), printed.removesuffix("\n")), printed
            sent += 1
    assert sent == 5 and len(served) == 2
    assert served[-1].get("/", headers={"host": "flats.example.com"}).status_code == 200


def test_the_limits_are_those_of_the_program():
    options = re.findall(r"\| `(--[\w-]+)` \| ([^|]+) \|", PAGE)
    defaults = {"--max-bytes": 10_000_000, "--max-rows": 100_000, "--wait": 30.0, "--memory-limit": None}
    given = main.__globals__["parse"](["serve", "run"])
    assert {name: getattr(given, name[2:].replace("-", "_")) for name, _ in options} == defaults
    assert dict(options)["--max-rows"] == "100,000" and dict(options)["--wait"] == "30"
    assert f"at one time | | {AT_ONCE} | 503 |" in PAGE and f"open connections | | {serve.CONNECTIONS} | 503" in PAGE
    assert given.max_bytes == pytest.approx(10e6) and dict(options)["--max-bytes"] == "10 MB"
