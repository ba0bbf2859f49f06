"""Assaults: many hostile or unlucky things done to the program, and a count of those that it did not survive.

Each is a command, `python bench/assault/NAME.py`; `--quick` does few of them, which CI does, and `make proof` does all.
"""
