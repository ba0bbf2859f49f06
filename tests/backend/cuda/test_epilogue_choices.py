"""The file of choices: what several processes agree on."""

from __future__ import annotations

import os
import threading

import pytest

from gpu_backprop.backend.cuda.epilogues import NOT_FASTER, NOT_REMEMBERED, VARIABLE, Choices, mode
from gpu_backprop.backend.errors import InputError


@pytest.fixture
def choices(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Choices("a device")


def test_nothing_is_chosen_at_first(choices):
    assert choices.read() == {}


def test_the_first_choice_counts(choices):
    other = Choices("a device")  # as another process has it
    assert choices.add("one", "") == ""
    assert other.add("one", NOT_FASTER) == ""
    assert other.add("two", NOT_FASTER) == choices.add("two", "") == NOT_FASTER
    assert choices.read() == other.read() == {"one": "", "two": NOT_FASTER}


def test_each_device_has_its_own(choices):
    choices.add("one", "")
    assert Choices("another").read() == {}


@pytest.mark.parametrize("torn", ["one\tepilo", "one", "\x00\xff\n\t\t\n", "one\tplain\t", "one\tserves\t"])
def test_a_line_that_is_torn_says_nothing(choices, torn):
    choices.path.write_text(torn, encoding="latin-1")
    assert choices.read() == {}
    assert choices.add("one", NOT_FASTER) == NOT_FASTER


def test_many_at_once_agree(choices):
    told = []

    def choose(why):
        told.append(Choices("a device").add("one", why))

    threads = [threading.Thread(target=choose, args=(NOT_FASTER if k % 2 else "",)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [choices.read()["one"]] * 16


def test_without_a_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull + "/nowhere")
    choices = Choices("a device")
    assert choices.path is None and choices.read() == {}
    assert choices.add("one", "") == NOT_REMEMBERED


def test_a_file_that_cannot_be_written(choices):
    choices.path.mkdir()
    assert choices.add("one", "") == NOT_REMEMBERED
    assert choices.read() == {}


@pytest.mark.parametrize(("value", "expected"), [("", "auto"), ("auto", "auto"), ("on", "on"), ("off", "off")])
def test_the_mode(monkeypatch, value, expected):
    monkeypatch.setenv(VARIABLE, value)
    assert mode() == expected


def test_a_mode_that_there_is_not(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(InputError, match="must be auto, on or off, got '1'"):
        mode()
