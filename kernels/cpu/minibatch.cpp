// The rows of a minibatch.
#include "samples.hpp"

// out = the samples that order[cursor ...] names. From row_counts on, places of a model hold no row: there, out is -0.
BP_CPU void gather(
    const u8* source,       // [models, samples, row]
    u8* out,                // [models, rows, row] by rows
    const i64* order,       // [models, places]
    const i64* cursor,      // [1]
    const i64* row_counts,  // [models]?
    i64 source_step, i64 models, i64 rows, i64 row, i64 samples, i64 places, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 m = 0; m < models; m++, source += source_step, order += places, out += rows * row) {
    for (i64 k = r.begin; k < r.end; k++) {
      const i64 sample = sample_at(order, cursor[0] + k, samples, places, source, row, row);
      __builtin_memcpy(out + k * row, source + sample * row, u64(row));
    }
    if (row_counts) mark_empty(reinterpret_cast<real*>(out), row_counts[m] - cursor[0], r);
  }
}

// counter += by
BP_CPU void advance(
    i64* counter,  // [models]
    i64 counter_step, i64 models, i64 by, i64 part, i64 parts) {
  const Range r = part_of(models, part, parts, 8);
  for (i64 model = r.begin; model < r.end; model++) counter[model * counter_step] += by;
}

// step += 1, random += 1, but where counted is 0
BP_CPU void count_step(
    double* step,           // [models]?
    i64* random,            // [models]? of one layer
    const double* counted,  // [models]?
    i64 step_step, i64 random_step, i64 models, i64 part, i64 parts) {
  for (i64 model = part; model < models; model += parts) {
    if (counted && counted[model] == 0) continue;
    if (step) step[model * step_step] += 1;
    if (random) random[model * random_step] += 1;
  }
}

// destination = source
BP_CPU void copy(
    const u8* source,  // [size]
    u8* destination,   // [size]
    i64 size, i64 part, i64 parts) {
  const Range r = part_of(size, part, parts, 4096);
  __builtin_memcpy(destination + r.begin, source + r.begin, u64(r.end - r.begin));
}
