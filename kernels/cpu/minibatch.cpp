// The rows of a minibatch.
#include "port.hpp"

// to = from, of the rows that order[cursor ...] names; an index out of range is clamped.
BP_DEV void gather_rows(
    const u8* from, u8* to, const i64* order, i64 cursor, i64 samples, i64 places, i64 row, Range r) {
  for (i64 k = r.begin; k < r.end; k++) {
    const i64 place = cursor + k < places ? cursor + k : places - 1, ahead = place + 4 < places ? place + 4 : place;
    const i64 named = order[place], sample = named < 0 ? 0 : named < samples ? named : samples - 1;
    if (u64(order[ahead]) < u64(samples))
      for (i64 line = 0; line < row && line < 512; line += 64) __builtin_prefetch(from + order[ahead] * row + line);
    __builtin_memcpy(to + k * row, from + sample * row, u64(row));
  }
}

// x, target and weights of the samples that order[cursor ...] names. Places of a model from row_counts on hold no row,
// and have the weight -0.
BP_CPU void gather(
    const u8* x,            // [samples, x_row]?
    u8* x_out,              // [models, rows, x_row]? by rows
    const u8* target,       // [samples, target_row]?
    u8* target_out,         // [models, rows, target_row]? by rows
    const u8* weights,      // [samples, weight_row]?
    const u8* own_weights,  // [models, samples, weight_row]? in place of weights
    u8* weights_out,        // [models, rows, weight_row]? by rows
    const i64* order,       // [models, places]
    const i64* cursor,      // [1]
    const i64* row_counts,  // [models]?
    i64 samples, i64 places, i64 models, i64 rows, i64 x_row, i64 target_row, i64 weight_row, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  for (i64 model = 0; model < models; model++, order += places) {
    if (x) gather_rows(x, x_out + model * rows * x_row, order, cursor[0], samples, places, x_row, r);
    if (target)
      gather_rows(target, target_out + model * rows * target_row, order, cursor[0], samples, places, target_row, r);
    if (!weights_out) continue;
    const u8* const from = own_weights ? own_weights + model * samples * weight_row : weights;
    u8* const to = weights_out + model * rows * weight_row;
    gather_rows(from, to, order, cursor[0], samples, places, weight_row, r);
    const i64 left = row_counts ? row_counts[model] - cursor[0] : r.end;
    for (i64 k = left < r.begin ? r.begin : left; k < r.end; k++) reinterpret_cast<real*>(to)[k] = -real(0.0);
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
