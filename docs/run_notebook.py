"""Run every cell of docs/notebook.ipynb in a fresh kernel, and store what they show: python docs/run_notebook.py.

With a path behind it, it is written there instead. Nothing of the machine is kept but what the cells themselves show.
It needs nbclient and ipykernel, which the extra `test` has.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run() -> nbformat.NotebookNode:
    """The notebook with what its cells show now; an error in one of them is raised."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False, resources=where)
        client.execute(env=os.environ | {"IPYTHONDIR": folder})  # without what its user has IPython do
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


if __name__ == "__main__":
    nbformat.write(run(), sys.argv[1] if len(sys.argv) > 1 else NOTEBOOK)
