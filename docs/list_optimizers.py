"""Write the table of optimizers in docs/derivation.md, from their rules: python docs/list_optimizers.py."""

from __future__ import annotations

import re
from pathlib import Path

from gpu_backprop import OPTIMIZERS, Optimizer
from gpu_backprop.training.optimizer import symbol
from gpu_backprop.training.optimizers import RULES

PAGE = Path(__file__).resolve().parent / "derivation.md"
BEGIN, END = "<!-- optimizers: made by docs/list_optimizers.py -->", "<!-- end of optimizers -->"


def table() -> str:
    """Makes a row of each rule: its name, the lines of a step, and its settings with their defaults."""
    rows = ["| rule | a step | settings |", "| --- | --- | --- |"]
    for rule in RULES:
        name = f"`{rule.name}`" if rule.name in OPTIMIZERS else rule.name
        step = re.sub(r", (?=\S+ [←=])", "<br>", Optimizer(rule).formula)
        settings = ", ".join(f"{symbol(setting)} `{setting}={default:g}`" for setting, default in rule.settings.items())
        rows.append(f"| {name} | {step} | {settings} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """Returns the page with the table of today."""
    around = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return around.sub(lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
