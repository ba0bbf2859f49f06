// What every program has beside its kernels; it is compiled once for each kind of program.
#include "host.hpp"
#include "program.hpp"

int main(int argc, char** argv) { return program(kernels, argc, argv); }
