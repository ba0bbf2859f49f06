// Sums of squares over the flat buffers, and averages of two.
#include "port.hpp"

static const i64 SUMS = 16;  // accumulators of a block

// The sums of the squares of `block_size` numbers each: the same for any number of parts.
BP_CPU void sum_block_squares(
    const float* a,   // [models, n]
    double* partial,  // [models, blocks]
    i64 models, i64 n, i64 blocks, i64 block_size, i64 part, i64 parts) {
  const Range r = part_of(blocks, part, parts, 1);
  for (i64 model = 0; model < models; model++) {
    for (i64 l = r.begin; l < r.end; l++) {
      const float* const of = a + model * n + l * block_size;
      const i64 count = (l + 1) * block_size < n ? block_size : n - l * block_size;
      double several[SUMS] = {}, rest = 0;
      i64 i = 0;
      for (; i + SUMS <= count; i += SUMS)
        for (i64 k = 0; k < SUMS; k++) several[k] += double(of[i + k]) * double(of[i + k]);
      for (; i < count; i++) rest += double(of[i]) * double(of[i]);
      for (i64 k = 0; k < SUMS; k++) rest += several[k];
      partial[model * blocks + l] = rest;
    }
  }
}

// out = partial added up, in their order
BP_CPU void add_block_sums(
    const double* partial,  // [models, blocks]
    double* out,            // [models]
    i64 models, i64 blocks, i64 part, i64 parts) {
  for (i64 model = part; model < models; model += parts) {
    double sum = 0;
    for (i64 l = 0; l < blocks; l++) sum += partial[model * blocks + l];
    out[model] = sum;
  }
}

// destination += add (source - pull destination), but where counted is 0
BP_CPU void blend(
    const float* source,    // [models, n]
    const double* numbers,  // [models, 2] add, pull
    const double* counted,  // [models]?
    float* destination,     // [models, n]
    i64 models, i64 n, i64 part, i64 parts) {
  const Range r = part_of(n, part, parts, BLOCK);
  for (i64 m = 0; m < models; m++) {
    const float add = float(numbers[m * 2]), pull = float(numbers[m * 2 + 1]);
    if (counted && counted[m] == 0) continue;
    for (i64 i = m * n + r.begin; i < m * n + r.end; i++)
      destination[i] += add * (source[i] - pull * destination[i]);
  }
}
