"""What bench/gpu_check.py measures on a CUDA device, and how it is written down."""
