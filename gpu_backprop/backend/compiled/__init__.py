"""The CPU with kernels of its own: C++ that the machine's compiler makes."""
