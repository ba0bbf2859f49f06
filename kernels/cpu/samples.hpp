// What the operations that choose samples share.
#include "port.hpp"

// Of the row at `first` in the order of a model: which sample it is; an index out of range is clamped. Of one that comes
// soon, the beginning is brought to the cache.
BP_DEV i64 sample_at(
    const i64* order, i64 first, i64 samples, i64 places, const u8* source, i64 step, i64 length) {
  const i64 place = first < places ? first : places - 1, ahead = place + 4 < places ? place + 4 : place;
  if (u64(order[ahead]) < u64(samples))
    for (i64 line = 0; line < length && line < 512; line += 64) __builtin_prefetch(source + order[ahead] * step + line);
  return order[place] < 0 ? 0 : order[place] < samples ? order[place] : samples - 1;
}

// The weights of places that hold no row, from `left` on, become -0.
BP_DEV void mark_empty(real* weights, i64 left, Range r) {
  for (i64 k = left < r.begin ? r.begin : left; k < r.end; k++) weights[k] = real(-0.0);
}
