// The dynamic shared memory of a block, which a launch gives it; it begins at a multiple of 16 bytes.
#include "port.cuh"

#ifndef BP_BLOCK_MEMORY  // host.hpp brings its own
BP_DEV void* block_memory() {
  extern __shared__ Vec<u64, 2> block_bytes[];
  return block_bytes;
}
#endif
