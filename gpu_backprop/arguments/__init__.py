"""The command line of gpu-backprop: commands, options, the values they take, and their help."""

from gpu_backprop.arguments.parser import parse

__all__ = ["parse"]
