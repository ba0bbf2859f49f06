// Samples that do not lie in memory as a network takes them, such as a file's.
#include "samples.hpp"

// The numbers that are converted, as compiled/ops/minibatch.py lists them; COPIED are those that need not be.
enum { COPIED, U8, F16, F32, F64, I8, U16, I16, U32, I32, U64, I64, LONG, BF16 };

BP_DEV float float_of(u32 bits) {
  float number;
  __builtin_memcpy(&number, &bits, sizeof number);
  return number;
}
struct BFloat16 {
  unsigned short bits;
  BP_DEV operator float() const { return float_of(u32(bits) << 16); }
};
struct Half {
  unsigned short bits;
  BP_DEV operator float() const {
    const u32 size = bits & 0x7fffu, sign = u32(bits & 0x8000u) << 16;
    const float small = float(int(size)) * 0x1p-24f, one = float_of(sign | 0x3f800000u);
    const float normal = float_of((size << 13) + (size < 0x7c00u ? 112u << 23 : 224u << 23));
    return (size < 0x0400u ? small : normal) * one;
  }
};

template<class T> BP_DEV void convert_from(const u8* from, real* to, i64 n) {
  for (i64 i = 0; i < n; i++) {
    T number;
    __builtin_memcpy(&number, from + i * i64(sizeof(T)), sizeof(T));
    to[i] = real(number);
  }
}
static void convert(const u8* from, real* to, i64 n, i64 kind) {
  switch (kind) {
    case U8: return convert_from<u8>(from, to, n);
    case F16: return convert_from<Half>(from, to, n);
    case F32: return convert_from<float>(from, to, n);
    case F64: return convert_from<double>(from, to, n);
    case I8: return convert_from<signed char>(from, to, n);
    case U16: return convert_from<unsigned short>(from, to, n);
    case I16: return convert_from<short>(from, to, n);
    case U32: return convert_from<u32>(from, to, n);
    case I32: return convert_from<int>(from, to, n);
    case U64: return convert_from<u64>(from, to, n);
    case I64: return convert_from<i64>(from, to, n);
    case LONG: return convert_from<long double>(from, to, n);
    case BF16: return convert_from<BFloat16>(from, to, n);
  }
}

// The numbers of a sample, `size` bytes each, `step` bytes from one to the next.
struct Numbers {
  i64 n, size, step, kind, swapped;

  BP_DEV void take(const u8* from, u8* to) const {
    if (step == size && !swapped) return put(from, to, n);
    u8 packed[BLOCK];
    const i64 some = BLOCK / size, of_each = kind ? i64(sizeof(real)) : size;
    for (i64 i = 0; i < n; i += some, to += some * of_each) {
      const i64 here = n - i < some ? n - i : some;
      for (i64 k = 0; k < here; k++)
        for (i64 b = 0; b < size; b++) packed[k * size + b] = from[(i + k) * step + (swapped ? size - 1 - b : b)];
      put(packed, to, here);
    }
  }
  BP_DEV void put(const u8* from, u8* to, i64 count) const {
    if (kind == COPIED)
      __builtin_memcpy(to, from, u64(count * size));
    else
      convert(from, reinterpret_cast<real*>(to), count, kind);
  }
};

// out = the samples that order[cursor ...] names, as `gather` has them.
BP_CPU void gather_numbers(
    const u8* source,       // [models, extent] with the numbers of the first sample from `begin` on
    u8* out,                // [models, rows, row] by rows
    const i64* order,       // [models, places]
    const i64* cursor,      // [1]
    const i64* row_counts,  // [models]?
    i64 source_step, i64 models, i64 rows, i64 row, i64 samples, i64 places, i64 extent, i64 begin, i64 sample_bytes,
    i64 numbers, i64 number_bytes, i64 size, i64 kind, i64 swapped, i64 part, i64 parts) {
  const Range r = rows_of(rows, part, parts);
  const Numbers of = {numbers, size, number_bytes, kind, swapped};
  source += begin, (void)extent;
  for (i64 m = 0; m < models; m++, source += source_step, order += places, out += rows * row) {
    for (i64 k = r.begin; k < r.end; k++) {
      const i64 sample = sample_at(order, cursor[0] + k, samples, places, source, sample_bytes, size * numbers);
      of.take(source + sample * sample_bytes, out + k * row);
    }
    if (row_counts) mark_empty(reinterpret_cast<real*>(out), row_counts[m] - cursor[0], r);
  }
}
