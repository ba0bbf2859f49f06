"""Whoever waits for the compiler at a terminal is told so; its command is for --debug."""

from __future__ import annotations

import argparse
import logging
import sys

import pytest

from gpu_backprop.commands.announcing import announce_compiling


@pytest.mark.parametrize(
    ("terminal", "options", "said"),
    [
        (True, {}, ["words"]),
        (False, {}, []),
        (True, {"quiet": True}, []),
        (True, {"debug": True}, ["words", "command"]),
        (False, {"debug": True, "quiet": True}, ["words", "command"]),
    ],
)
def test_what_is_said(capsys, monkeypatch, terminal, options, said):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logger = logging.getLogger("gpu_backprop.compiler")
    before = logger.level, logger.propagate, list(logger.handlers)
    with announce_compiling(argparse.Namespace(**{"debug": False} | options)):
        logger.info("words")
        logger.debug("command")
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()) == ("", said)
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_nothing_is_said_where_there_is_no_standard_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with announce_compiling(argparse.Namespace(debug=True)):
        logging.getLogger("gpu_backprop.compiler").info("words")
    assert capsys.readouterr().out == ""
