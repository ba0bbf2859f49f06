// What every text for the CPU begins with.
//
// An operation is a function marked BP_CPU that does its part of the work: `part` of `parts`, counted from 0, its last
// two parameters. backend/signatures.py, which has the grammar of its head, reads it; arguments are checked against it,
// and backend/compiled/operations_text.py writes the function that unpacks them from slots. Two operations that access
// an array by rows need not wait for each other. All numbers are
// real, which is float or double: a definition that backend/compiled/operations_text.py puts before the text. A sum over
// many is double.
typedef long long i64;
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

static const i64 BLOCK = 1024;  // numbers that are worked on at a time, so that they stay in the cache

#define BP_CPU static
#define BP_DEV inline __attribute__((always_inline))  // as the functors of kernel_text.py are marked
// Called once for many rows: a copy wherever it is called makes nothing faster, and compiling slower.
#define BP_APART static __attribute__((noinline, unused))
// Before a loop of a few rounds, each of which becomes instructions of its own.
#if defined(__clang__)
#define BP_UNROLLED _Pragma("unroll")
#else
#define BP_UNROLLED _Pragma("GCC unroll 16")
#endif

// One argument of an operation.
union Slot {
  void* pointer;
  i64 integer;
  double number;
};

typedef void (*Operation)(const Slot*, i64 part, i64 parts);

// A part of 0 ... n, in multiples of `grain` but for the last.
struct Range {
  i64 begin, end;
};
BP_DEV Range part_of(i64 n, i64 part, i64 parts, i64 grain) {
  const i64 grains = (n + grain - 1) / grain, begin = grains * part / parts * grain;
  const i64 end = grains * (part + 1) / parts * grain;
  return {begin < n ? begin : n, end < n ? end : n};
}

// The rows of a part. Products are worked out in fours of them.
BP_DEV Range rows_of(i64 rows, i64 part, i64 parts) { return part_of(rows, part, parts, 4); }
