"""The page of `gpu-backprop serve` in a real browser, at the widths of a telephone and of a desk, light and dark: a row
is typed, a file is dropped, a digit is drawn, and what is seen is what the network predicts.

python bench/browser.py [--pictures FOLDER]

Needs playwright (pip install playwright) and a Chromium: one that is installed, or `playwright install chromium`.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
COMMAND = sys.executable, "-m", "gpu_backprop"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
LOOKS = ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark"))
ONE = ((0.5, 0.1), (0.5, 0.9))
SEVEN = ((0.25, 0.15), (0.75, 0.15), (0.45, 0.9))
"""Digits as lines from point to point, in parts of the board."""


def prepare(folder: Path) -> None:
    """Write tables, one of more rows than the page shows, and train a network of each kind."""
    rng = np.random.default_rng(0)
    lines = ["length,width,colour,seen,species"]
    for row in range(300):
        kind, day = row % 3, f"2026-{row % 12 + 1:02}-{row % 28 + 1:02}"
        colour = rng.choice(["blue", "white", "red"][: kind + 1])
        lines.append(f"{rng.normal(4 + 2 * kind, 0.4):.2f},{rng.normal(kind, 0.3):.2f},{colour},{day},{'ABC'[kind]}")
    (folder / "flowers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    area = rng.uniform(30, 200, 300)
    houses = [f'{a:.1f},"${2000 * a + rng.normal(0, 9000):,.2f}"' for a in area]
    (folder / "houses.csv").write_text("\n".join(["area,price", *houses]) + "\n", encoding="utf-8")
    for run, words in {
        "flowers": ["flowers.csv", "--target", "species"],
        "houses": ["houses.csv", "--target", "price"],
        "digits": ["digits"],
    }.items():
        words = [*COMMAND, "train", *words, "--out", run, "--device", "cpu", "--quiet"]
        subprocess.run(words, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)


@contextmanager
def served(folder: Path, run: str) -> Iterator[str]:
    """Serve a run; yields its address."""
    words = [*COMMAND, "serve", run, "--port", "0", "--device", "cpu"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}  # it says which signal ended it
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, **quiet) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None, f"{run} is not served"
            yield found[0]
        finally:
            process.terminate()


def drop(page: Any, name: str, text: str) -> None:
    """Drop a file on the page, as from a window of files."""
    script = (
        """([name, text]) => { const held = new DataTransfer(); held.items.add(new File([text], name)); return held }"""
    )
    held = page.evaluate_handle(script, [name, text])
    page.dispatch_event("#drop", "drop", {"dataTransfer": held})


def use_table(page: Any, folder: Path) -> None:
    """Type a row and drop a file, for a network that tells classes apart."""
    page.get_by_label("length").fill("3.9")
    page.get_by_label("width").fill("0")
    page.get_by_label("colour").select_option("blue")
    page.get_by_label("seen").fill("2026-05-05")
    page.keyboard.press("Enter")
    page.wait_for_selector("#one .said")
    assert page.inner_text("#one .said") == "A" and page.locator("#one .bars .track").count() == 3
    page.get_by_label("length").fill("long")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#one .error")
    assert "'long' in column 'length'" in page.inner_text("#one .error")
    page.get_by_role("button", name="Typical values").click()
    page.wait_for_selector("#one .said")
    drop(page, "flowers.csv", (folder / "flowers.csv").read_text(encoding="utf-8"))
    page.wait_for_selector("#many table")
    assert page.locator("#many tbody tr").count() == 100 and "300 rows" in page.inner_text("#many .summary")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download all").click()
    assert waiting.value.suggested_filename == "flowers-predictions.csv"
    words = [*COMMAND, "predict", "flowers", "flowers.csv", "--device", "cpu"]
    expected = subprocess.run(words, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True).stdout
    assert Path(waiting.value.path()).read_bytes() == expected
    first = next(csv.DictReader(io.StringIO(expected.decode())))
    assert page.locator("#many tbody tr").first.inner_text().split()[1] == first["prediction"]


def use_quantities(page: Any, folder: Path) -> None:
    """Ask for a price, with its interval."""
    page.get_by_label("area").fill("100")
    page.keyboard.press("Enter")
    page.wait_for_selector("#one .interval")
    value, low, high = (
        float(re.sub("[$,]", "", page.inner_text(place)))
        for place in ("#one .said", "#one .ends span:first-child", "#one .ends span:last-child")
    )
    assert low < value < high and 150_000 < value < 250_000, (low, value, high)


def use_board(page: Any, folder: Path) -> None:
    """Draw digits, and type the numbers of two."""
    board = page.locator("#board").bounding_box()
    for digit, points in {"1": ONE, "7": SEVEN}.items():
        page.get_by_role("button", name="Clear").click()
        page.wait_for_selector("#draw .said", state="detached")
        places = [(board["x"] + x * board["width"], board["y"] + y * board["height"]) for x, y in points]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=12)
        page.mouse.up()
        page.wait_for_selector("#draw .said")
        assert page.inner_text("#draw .said") == digit, f"a {digit} is taken for {page.inner_text('#draw .said')}"
    page.get_by_label("64 numbers").fill(" ".join(["0"] * 64) + "\n" + ",".join(["9"] * 64))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#numbers table")
    assert page.locator("#numbers tbody tr").count() == 2


USES = {"flowers": use_table, "houses": use_quantities, "digits": use_board}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where to put a picture of each page")
    pictures = parser.parse_args().pictures
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("not run: playwright is not installed")
        return 0
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        found = shutil.which("chromium") or shutil.which("google-chrome") or play.chromium.executable_path
        if not Path(found).exists():
            print("not run: there is no Chromium")
            return 0
        prepare(folder := Path(name))
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for run, use in USES.items():
            with served(folder, run) as address:
                for width, scheme in LOOKS:
                    context = browser.new_context(
                        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
                    )
                    page, complaints = context.new_page(), list[str]()
                    page.on("console", lambda said, to=complaints: to.append(said.text))
                    page.on("pageerror", lambda error, to=complaints: to.append(str(error)))
                    page.goto(address)
                    page.wait_for_selector("section:not([hidden])")
                    use(page, folder)
                    refused = [said for said in complaints if "status of 400" not in said]
                    assert not refused, refused
                    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is too wide"
                    if pictures is not None:
                        pictures.mkdir(parents=True, exist_ok=True)
                        page.screenshot(path=pictures / f"{run}-{width}-{scheme}.png", full_page=True)
                    context.close()
                    print(f"{run}, {width} pixels, {scheme}: works")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
