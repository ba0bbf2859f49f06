"""Checkpoints: all that a fit goes on from, written while it runs, so that a fit that was ended goes on to the same
bits."""
