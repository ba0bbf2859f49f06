"""The commands of gpu-backprop; arguments/ says what can be typed, cli.py what went wrong."""
