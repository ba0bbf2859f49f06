"""What each command of gpu-backprop does; arguments.py says what can be typed, cli.py what went wrong."""
