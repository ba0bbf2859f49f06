"""CUDA: kernels through CuPy and NVRTC, products through cuBLAS. Only this folder imports cupy."""
