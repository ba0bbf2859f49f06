"""One step of an optimizer over the flat buffers, by its rule. Where gradient_factor is 0 it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gpu_backprop.backend.device import ALIGNMENT, Device
from gpu_backprop.backend.formula import Array, Call, Calls, call
from gpu_backprop.backend.numpy_ops.blocks import in_blocks
from gpu_backprop.backend.numpy_ops.scratch import Scratch
from gpu_backprop.backend.update_rule import UpdateRule, largest_gradient

CHANGE, GRADIENT = 6, 7
"""Slots of scratch memory: a rule may use those below."""


class Section(NamedTuple):
    """Parameters of a run, from where to where, with the factors of their decay and penalties."""

    start: int
    end: int
    decay: float
    penalty: float


def update(
    device: Device, w: Array, g: Array, moments: Array | None, rule: UpdateRule, hyper: Array,
    gradient_factor: Array | None, groups: Array | None, half_parameters: Array | None,
) -> Calls:  # fmt: skip
    everything = tuple(_step(device, w, g, moments, rule, hyper, None, groups, half_parameters))
    if gradient_factor is None:
        yield from everything
        return
    factors = gradient_factor
    scaled = tuple(_step(device, w, g, moments, rule, hyper, factors, groups, half_parameters))

    def bind(one: slice) -> tuple[Call, ...]:
        half = None if half_parameters is None else half_parameters[one]
        found = None if moments is None else moments[:, one]
        return tuple(_step(device, w[one], g[one], found, rule, hyper[one], factors[one], groups, half))

    alone = [bind(slice(model, model + 1)) for model in range(factors.size)] if factors.ndim else []

    def run() -> None:
        if (factors == 1).all():
            chosen = [everything]
        elif factors.all():
            chosen = [scaled]
        else:
            chosen = [alone[model] for model in np.flatnonzero(factors)]  # none without a models axis
        for calls in chosen:
            for one in calls:
                one()

    yield run


def _step(
    device: Device, w: Array, g: Array, moments: Array | None, rule: UpdateRule, hyper: Array, factor: Array | None,
    groups: Array | None, half_parameters: Array | None,
) -> Calls:  # fmt: skip
    """Works out the coefficients, and changes one group after the other."""
    values = device.empty((*hyper.shape[:-1], len(rule.coefficients) + len(rule.of_gradient)), w.dtype)
    columns = [values[k, ...] if w.ndim == 1 else values[:, k : k + 1] for k in range(values.shape[-1])]
    yield _coefficients(rule, hyper, values)
    scale = None
    if factor is not None:
        scale = device.empty((*factor.shape, 1) if factor.ndim else (), w.dtype)
        yield partial(np.copyto, scale, factor[..., None] if factor.ndim else factor, "same_kind")
    for part, rate, sections in _runs(groups, w):
        keeps: dict[float, Array] = {}
        for decay in {section.decay for section in sections} - {0} if rule.decays else ():
            keep = keeps[decay] = device.empty(hyper.shape[:-1] + (1,) * (w.ndim - 1), w.dtype)
            eta, lam = (hyper[..., 1 + [*rule.settings].index(name)] for name in ("learning_rate", "weight_decay"))
            yield partial(_keep, eta, lam, rate * decay, keep)
        half = None if half_parameters is None else half_parameters[..., part]
        found = () if moments is None else moments[..., part]
        formula = partial(_change, rule, rate, sections, [*keeps])
        yield from in_blocks(
            device, formula, w[..., part], g[..., part], scale, half, *keeps.values(), *found, *columns, axes=w.ndim
        )


def _change(
    rule: UpdateRule, rate: float, sections: Sequence[Section], decays: Sequence[float], work: Scratch, w: Array,
    g: Array, scale: Array | None, half_parameters: Array | None, *arrays: Array,
) -> Calls:  # fmt: skip
    """W ← keep·W − rate·change of a block, and its copy."""
    change, own = work.full(CHANGE), work.full(GRADIENT)
    keeps, arrays = dict(zip(decays, arrays, strict=False)), arrays[len(decays) :]
    named = dict(zip((*rule.moments, *rule.coefficients, *rule.of_gradient), arrays, strict=True))
    places = [(slice(max(0, s.start - work.row), max(0, s.end - work.row)), s) for s in sections]
    parts = [(part, section) for part, section in places if w[..., part].size]
    if scale is not None:
        yield call(np.multiply, g, scale, out=own)
        g = own
    if rule.clips:
        yield call(np.maximum, g, named.pop("clip_below"), out=own)
        yield call(np.minimum, own, named.pop("clip_above"), out=own)
        g = own
    for name in ("penalty_l2", "penalty_l1"):
        if (coefficient := named.pop(name, None)) is None or not any(section.penalty for _, section in parts):
            continue
        for part, (*_, penalty) in parts:
            one, slope, into = w[..., part], change[..., part], own[..., part]
            if penalty:
                if name == "penalty_l1":
                    yield call(np.sign, one, out=slope)
                yield call(np.multiply, slope if name == "penalty_l1" else one, coefficient, out=slope)
                if penalty != 1:
                    yield call(np.multiply, slope, penalty, out=slope)
                yield call(np.add, g[..., part], slope, out=into)
            elif g is not own:
                yield partial(np.copyto, into, g[..., part])
        g = own
    yield from rule.numpy(w, g, change, work, **named)
    for part, section in parts:
        if section.decay in keeps:
            yield call(np.multiply, w[..., part], keeps[section.decay], out=w[..., part])
    if rate != 1:
        yield call(np.multiply, change, rate, out=change)
    yield call(np.subtract, w, change, out=w)
    if half_parameters is not None:
        yield partial(np.copyto, half_parameters, w, "unsafe")


def _coefficients(rule: UpdateRule, hyper: Array, values: Array) -> Call:
    """A call that turns hyper into coefficients in the working dtype."""
    texts, largest = [*rule.coefficients.values(), *rule.of_gradient.values()], largest_gradient(values.dtype)
    found = rule.evaluator(texts)

    def one() -> None:
        values[:] = found(largest, *hyper.tolist())  # a number takes half the time of an array with one

    def each() -> None:
        for k, value in enumerate(found(largest, *hyper.T)):
            values[:, k] = value

    return one if hyper.ndim == 1 else each


def _keep(eta: Array, lam: Array, factor: float, keep: Array) -> None:
    """keep = 1 − ηλ·factor"""
    keep[...] = (1 - eta * lam * factor).reshape(keep.shape)


def _runs(groups: Array | None, w: Array) -> Iterator[tuple[slice, float, list[Section]]]:
    """Yields runs of neighbouring blocks whose factor of the rate is the same, and not 0, as a place among the
    parameters, that factor, and their sections, whose other factors are the same. A rule does all of a run at once: for
    small parameters a call of NumPy costs more than what it does."""
    if groups is None:
        yield slice(None), 1.0, [Section(0, w.shape[-1], 1.0, 1.0)]
        return
    size = ALIGNMENT // w.itemsize
    for start, end in _alike(groups[:1]):
        others = groups[1:, start:end]
        sections = [Section(a * size, b * size, *others[:, a].tolist()) for a, b in _alike(others)]
        if rate := groups[0, start].item():
            yield slice(start * size, end * size), rate, sections


def _alike(columns: Array) -> Iterable[tuple[int, int]]:
    """Finds from where to where neighbouring columns are the same."""
    changes = np.flatnonzero(np.any(np.diff(columns), axis=0)) + 1
    return pairwise([0, *changes.tolist(), columns.shape[-1]])
