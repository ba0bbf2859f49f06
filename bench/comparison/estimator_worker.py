"""The estimators of one library work in this process; processes.py starts it. See worker.py, which is its like."""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from lib import busy
from sklearn.base import is_classifier
from sklearn.model_selection import GridSearchCV, train_test_split

import gpu_backprop
from comparison import estimator_tasks as tasks
from comparison.worker import serve

VERSIONS = {tasks.OURS: gpu_backprop.__version__, tasks.THEIRS: sklearn.__version__}


class Commands:
    """The commands, see `worker.Commands`.

    Args:
        name: of the library.
    """

    def __init__(self, name: str) -> None:
        self.name, self.module = name, importlib.import_module(tasks.MODULES[name])
        self.call: Callable[[], Any] = int

    def load(self, folder: str | None, **task: Any) -> dict[str, Any]:
        """Does the work of a task once, and tells what it came to.

        Returns:
            "equal", which has to be the same for both libraries; and "loss", which an iteration ends with, and "first
            loss", or "scores" of the candidates of a search.
        """
        self.call = int
        gc.collect()  # what the task before held is free for this one
        self.task = task = tasks.Task(**task)
        x, y = tasks.rows(task, Path(folder) if folder else None)
        if task.way in tasks.SEARCHES:
            return self._search(task, x, y)
        if task.way == tasks.PARTIAL_FIT:
            return self._partial_fit(task, x, y)
        model = self._model(task, 1 if task.way == tasks.PREDICT else task.iterations)
        model.fit(x, y)
        self.call = (lambda: model.predict(x)) if task.way == tasks.PREDICT else (lambda: model.fit(x, y))
        return self._facts(model)

    def _model(self, task: tasks.Task, iterations: int, **settings: Any) -> Any:
        """Makes an estimator that does so many iterations."""
        if task.way == tasks.FULL_BATCH:
            settings |= {"solver": "lbfgs", "tol": 0.0}
        settings |= {"max_iter": iterations, "n_iter_no_change": iterations, "random_state": 0}
        cls = getattr(self.module, tasks.TABLES[task.table].estimator)
        return cls(early_stopping=task.way == tasks.EARLY, **settings)

    def _facts(self, model: Any) -> dict[str, Any]:
        size = sum(array.size for array in (*model.coefs_, *model.intercepts_))
        equal = {"parameters": size, "t_": int(model.t_), "n_iter_": model.n_iter_}
        if self.task.way != tasks.FULL_BATCH:  # of which scikit-learn makes float64
            equal["dtype"] = model.coefs_[0].dtype.name
        return {
            "version": VERSIONS[self.name], "equal": equal, "loss": float(model.loss_),
            "first loss": float(getattr(model, "loss_curve_", [model.loss_])[0]),  # scikit-learn's lbfgs keeps no curve
        }  # fmt: skip

    def _partial_fit(self, task: tasks.Task, x: Any, y: Any) -> dict[str, Any]:
        """A call goes through ten minibatches, one partial_fit each."""
        model = self._model(task, 1)
        classes = {"classes": np.unique(y)} if is_classifier(model) else {}
        size = tasks.ROWS_A_CALL
        batches = [(x[k : k + size], y[k : k + size]) for k in range(0, min(len(y), tasks.CALLS * size), size)]

        def call() -> None:
            for rows, targets in batches:
                model.partial_fit(rows, targets, **classes)

        call()
        self.call = call
        return self._facts(model)

    def _search(self, task: tasks.Task, x: Any, y: Any) -> dict[str, Any]:
        """A call is a search by cross-validation, without training of the best in the end."""
        population = task.way == tasks.POPULATION_SEARCH
        grid = tasks.POPULATION_GRID if population else tasks.GRID
        grid = {name: values[-1:] for name, values in grid.items()} if task.quick else grid
        model, how = self._model(task, task.iterations), {"cv": tasks.FOLDS, "error_score": "raise"}
        if population and self.name == tasks.OURS:
            search = gpu_backprop.PopulationSearchCV(model, grid, **how)
        else:
            search = GridSearchCV(model, grid, n_jobs=tasks.SEARCHES[task.way], **how)
        search.fit(x, y)
        self.call = lambda: search.fit(x, y)
        scores = search.cv_results_["mean_test_score"].tolist()
        equal = {"candidates": len(scores)}
        best = {"best": search.best_params_, "best_index": int(search.best_index_)} if population else {}
        return {"version": VERSIONS[self.name], "equal": equal, "scores": scores, **best}

    def time(self, window: float) -> dict[str, Any]:
        """Does the work again, as often as fits into about so many seconds, and at least once; ms each."""
        seconds, done = 0.0, 0
        before = busy.Clocks.now()
        started = time.perf_counter()
        while not done or seconds * (done + 1) / done < window:
            self.call()
            done += 1
            seconds = time.perf_counter() - started
        disturbance = busy.Clocks.now().since(before)
        if tasks.SEARCHES.get(self.task.way):  # its own processes are others
            disturbance["others"] = 0.0
        return {"call": {"ms": 1e3 * seconds / done, "calls": done, **disturbance}}

    def score(self, folder: str | None, table: str, dtype: str, seed: int, quick: bool) -> dict[str, float]:
        """Fits with all defaults but the limit of the iterations, and scores the rows that were held out."""
        x, y = tasks.load(table, Path(folder) if folder else None, quick)
        x, test_x, y, test_y = train_test_split(x, y, test_size=0.25, random_state=seed)
        x, test_x = (part.astype(dtype) for part in tasks.scaled(x, test_x))
        cls = getattr(self.module, tasks.TABLES[table].estimator)
        model = cls(max_iter=2 if quick else tasks.TABLES[table].until, random_state=seed)
        started = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - started
        return {"score": float(model.score(test_x, test_y)), "iterations": model.n_iter_, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(serve(Commands(*sys.argv[1:])))
