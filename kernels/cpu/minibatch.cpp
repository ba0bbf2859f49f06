// What every training does besides its layers: it takes the rows of a minibatch, counts, and adds squares up.
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

#if defined(__x86_64__)
// So many bytes no cache keeps until somebody reads them. Written past the caches, they push nothing out of these, and
// need not be read first.
static const i64 PAST_CACHES = 4 << 20;
typedef i64 Piece __attribute__((vector_size(16), may_alias));
BP_DEV void copy_past_caches(const u8* source, u8* destination, i64 bytes) {
  const i64 head = i64(-u64(destination) & 15), end = head + (bytes - head) / 16 * 16;
  __builtin_memcpy(destination, source, u64(head));
  for (i64 k = head; k < end; k += 16) {
    Piece piece;
    __builtin_memcpy(&piece, source + k, 16);
#if defined(__clang__)
    __builtin_nontemporal_store(piece, reinterpret_cast<Piece*>(destination + k));
#else
    __builtin_ia32_movntdq(reinterpret_cast<Piece*>(destination + k), piece);
#endif
  }
  __builtin_ia32_sfence();
  __builtin_memcpy(destination + end, source + end, u64(bytes - end));
}
#endif

// destination = source
BP_CPU void copy(
    const u8* source,  // [size]
    u8* destination,   // [size]
    i64 size, i64 part, i64 parts) {
  const Range r = part_of(size, part, parts, 4096);
  const i64 bytes = r.end - r.begin;
#if defined(__x86_64__)
  if (bytes >= PAST_CACHES) return copy_past_caches(source + r.begin, destination + r.begin, bytes);
#endif
  __builtin_memcpy(destination + r.begin, source + r.begin, u64(bytes));
}

// order = 0, 1, ... as shuffle of a Generator of NumPy leaves it: the number in each place, from the last one on, changes
// places with the one at the first place drawn that is not beyond it. Numbers are drawn with as many bits as the place
// has. Where one is beyond, no processor can foresee: then the number changes places with itself, and is drawn for again.
extern "C" void bp_shuffle(i64* order, i64 rows, void* state, u32 (*next_uint32)(void*)) {
  for (i64 k = 0; k < rows; k++) order[k] = k;
  for (i64 k = rows - 1; k > 0;) {
    const i64 mask = ~0u >> __builtin_clz(u32(k));
    while (k > mask / 2) {
      const i64 drawn = next_uint32(state) & mask, other = drawn <= k ? drawn : k, held = order[k];
      order[k] = order[other], order[other] = held;
      k -= drawn <= k;
    }
  }
}

static const i64 SUMS = 16;  // accumulators of a block

// The sums of the squares of `block_size` numbers each: the same for any number of parts.
BP_CPU void sum_block_squares(
    const real* a,   // [models, n]
    double* partial,  // [models, blocks]
    i64 models, i64 n, i64 blocks, i64 block_size, i64 part, i64 parts) {
  const Range r = part_of(blocks, part, parts, 1);
  for (i64 model = 0; model < models; model++) {
    for (i64 l = r.begin; l < r.end; l++) {
      const real* const of = a + model * n + l * block_size;
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
