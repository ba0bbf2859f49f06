// Matrix products: small ones by kernels of our own, the others by the BLAS that NumPy brought.
//
// A kernel works out a tile of c at a time, in registers: some rows of one to four vectors. Nothing is packed but a
// transposed b. Where the columns are no whole vectors, the last vector begins earlier, and has some of them again. So
// each number of c is the sum over k in order, one fma after the other, wherever it stands and whichever part works it
// out: a network in a population gets the bits that it gets alone.
#include "math.hpp"

#if defined(__AVX512F__)
static const i64 WIDTH = 64 / sizeof(real);
#elif defined(__AVX__)
static const i64 WIDTH = 32 / sizeof(real);
#else
static const i64 WIDTH = 16 / sizeof(real);
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
static const int TILE = 16;  // vectors of a tile, half of the registers
#else
static const int TILE = 8;
#endif

// m n k of a small product at most. A BLAS packs its operands, which pays earlier where tiles are small.
extern "C" const i64 bp_largest_product = 1 << (TILE == 16 ? 24 : 19);

static const int WIDEST = 4;     // vectors of a row of a tile
static const i64 LONGEST = 256;  // k of a small product at most, as in compiled/ops/products.py

template<int size> struct Bits { typedef int type; };
template<> struct Bits<8> { typedef i64 type; };

typedef real Vector __attribute__((vector_size(sizeof(real) * WIDTH), aligned(sizeof(real)), may_alias));
typedef Bits<sizeof(real)>::type Four __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));

#if defined(__clang__)
#define BP_UNROLL _Pragma("unroll")
#else
#define BP_UNROLL _Pragma("GCC unroll 16")
#endif

BP_DEV Vector load(const real* from) { return *reinterpret_cast<const Vector*>(from); }
BP_DEV void store(real* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

BP_DEV Vector fma(Vector a, Vector b, Vector c) {
#if defined(__clang__)
#pragma clang fp contract(on)
  return a * b + c;
#else
  for (i64 l = 0; l < WIDTH; l++) c[l] = fma(a[l], b[l], c[l]);
  return c;
#endif
}

// c = a b: R rows of C vectors, the last of which begins at column `last`. The others that end in _row and _column are
// the elements from one of these to the next.
template<int R, int C>
static void multiply_tile(
    const real* a, const real* b, real* c, i64 k, i64 a_row, i64 a_column, i64 b_row, i64 c_row, i64 last) {
  Vector sum[R][C] = {};
  for (i64 i = 0; i < k; i++) {
    Vector of_b[C];
    BP_UNROLL
    for (int v = 0; v < C; v++) of_b[v] = load(b + i * b_row + (v < C - 1 ? v * WIDTH : last));
    BP_UNROLL
    for (int r = 0; r < R; r++) {
      const Vector of_a = a[r * a_row + i * a_column] - Vector{};
      BP_UNROLL
      for (int v = 0; v < C; v++) sum[r][v] = fma(of_a, of_b[v], sum[r][v]);
    }
  }
  BP_UNROLL
  for (int r = 0; r < R; r++) {
    BP_UNROLL
    for (int v = 0; v < C; v++) store(c + r * c_row + (v < C - 1 ? v * WIDTH : last), sum[r][v]);
  }
}

// c = a b, for columns that fit C vectors and no fewer
template<int C, int R = C == 1 ? 8 : C == 2 ? TILE / 2 : TILE / 4>
static void multiply_panel(
    const real* a, const real* b, real* c, i64 m, i64 k, i64 a_row, i64 a_column, i64 b_row, i64 c_row, i64 last) {
  i64 i = 0;
  for (; i + R <= m; i += R)
    multiply_tile<R, C>(a + i * a_row, b, c + i * c_row, k, a_row, a_column, b_row, c_row, last);
  if constexpr (R > 1)
    if (i < m)
      multiply_panel<C, R / 2>(a + i * a_row, b, c + i * c_row, m - i, k, a_row, a_column, b_row, c_row, last);
}

#if defined(__clang__) || __GNUC__ >= 12
#define BP_SHUFFLE __builtin_shufflevector
#else
#define BP_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Four{__VA_ARGS__})
#endif

// to = the transpose of 4 x 4 numbers, which are as whole numbers because more units of a processor move those
BP_DEV void transpose_four(const real* from, real* to, i64 from_row, i64 to_row) {
  Four row[4];
  BP_UNROLL
  for (int r = 0; r < 4; r++) row[r] = *reinterpret_cast<const Four*>(from + r * from_row);
  const Four a = BP_SHUFFLE(row[0], row[1], 0, 4, 1, 5), b = BP_SHUFFLE(row[0], row[1], 2, 6, 3, 7);
  const Four c = BP_SHUFFLE(row[2], row[3], 0, 4, 1, 5), d = BP_SHUFFLE(row[2], row[3], 2, 6, 3, 7);
  *reinterpret_cast<Four*>(to) = BP_SHUFFLE(a, c, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(to + to_row) = BP_SHUFFLE(a, c, 2, 3, 6, 7);
  *reinterpret_cast<Four*>(to + 2 * to_row) = BP_SHUFFLE(b, d, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(to + 3 * to_row) = BP_SHUFFLE(b, d, 2, 3, 6, 7);
}

// to = the transpose of four rows or more
static void transpose(const real* from, real* to, i64 rows, i64 columns, i64 from_row, i64 to_row) {
  i64 c = 0;
  for (; c + 4 <= columns; c += 4) {
    const real* const column = from + c;
    real* const row = to + c * to_row;
    for (i64 r = 0; r + 4 <= rows; r += 4) transpose_four(column + r * from_row, row + r, from_row, to_row);
    transpose_four(column + (rows - 4) * from_row, row + rows - 4, from_row, to_row);
  }
  for (; c < columns; c++)
    for (i64 r = 0; r < rows; r++) to[c * to_row + r] = from[r * from_row + c];
}

// c = a b, for n >= 16 and k <= LONGEST. Strides are the elements from one row to the next, or one column where
// transposed.
static void multiply_small(
    const real* a, const real* b, real* c, i64 m, i64 n, i64 k, i64 a_stride, i64 b_stride, i64 c_stride,
    i64 a_transposed, i64 b_transposed) {
  real panel[LONGEST / 2 * WIDEST * WIDTH];  // of the transpose of b
  const i64 a_row = a_transposed ? 1 : a_stride, a_column = a_transposed ? a_stride : 1;
  const i64 most = (k > LONGEST / 2 ? WIDEST / 2 : WIDEST) * WIDTH;  // so that a panel stays in the fastest cache
  for (i64 begin = 0; begin < n; begin += most) {
    const i64 first = begin + WIDTH < n ? begin : n - WIDTH, width = first + most < n ? most : n - first;
    const real* of_b = b + first * (b_transposed ? b_stride : 1);
    i64 b_row = b_stride;
    if (b_transposed) transpose(of_b, panel, width, k, b_stride, most), of_b = panel, b_row = most;
    const auto multiply = width > 3 * WIDTH ? multiply_panel<4>
                          : width > 2 * WIDTH ? multiply_panel<3>
                          : width > WIDTH ? multiply_panel<2> : multiply_panel<1>;
    multiply(a, of_b, c + first, m, k, a_row, a_column, b_row, c_stride, width - WIDTH);
  }
}

// The product of the BLAS, whose sizes are int or long long.
typedef void (*Gemm)(int, int, int, int, int, int, real, const real*, int, const real*, int, real, real*, int);
typedef void (*Gemm64)(int, int, int, i64, i64, i64, real, const real*, i64, const real*, i64, real, real*, i64);
static Gemm gemm;
static Gemm64 gemm64;
extern "C" void bp_set_product(void* product, i64 wide) {
  gemm = wide ? nullptr : reinterpret_cast<Gemm>(product);
  gemm64 = wide ? reinterpret_cast<Gemm64>(product) : nullptr;
}

static const int BY_ROWS = 101, PLAIN = 111, TRANSPOSED = 112;  // cblas.h

// c = a b, or a block of it
BP_DEV void multiply_matrices(
    const real* a, const real* b, real* c, i64 m, i64 n, i64 k, i64 a_stride, i64 b_stride, i64 c_stride,
    i64 a_transposed, i64 b_transposed, i64 small) {
  const int ta = a_transposed ? TRANSPOSED : PLAIN, tb = b_transposed ? TRANSPOSED : PLAIN;
  if (!m || !n) return;
  if (small)
    multiply_small(a, b, c, m, n, k, a_stride, b_stride, c_stride, a_transposed, b_transposed);
  else if (gemm64)
    gemm64(BY_ROWS, ta, tb, m, n, k, 1, a, a_stride, b, b_stride, 0, c, c_stride);
  else
    gemm(BY_ROWS, ta, tb, int(m), int(n), int(k), 1, a, int(a_stride), b, int(b_stride), 0, c, int(c_stride));
}

// c = a b, where the rows of a and c are those of a minibatch: a part has some of them.
BP_CPU void matmul_by_rows(
    const real* a,  // [models, m, k] by rows
    const real* b,  // [models, k, n] [n, k] where it is transposed
    real* c,        // [models, m, n] by rows
    i64 a_step, i64 b_step, i64 c_step, i64 models, i64 m, i64 n, i64 k, i64 b_transposed, i64 small, i64 part,
    i64 parts) {
  const Range r = rows_of(m, part, parts);
  for (i64 model = 0; model < models; model++, a += a_step, b += b_step, c += c_step)
    multiply_matrices(
        a + r.begin * k, b, c + r.begin * n, r.end - r.begin, n, k, k, b_transposed ? k : n, n, 0, b_transposed, small);
}

// c = a b: a part has some of the models, or where these are few, a block of rows or of columns, whichever are more.
BP_CPU void matmul(
    const real* a,  // [models, m, k] [k, m] where it is transposed
    const real* b,  // [models, k, n] [n, k] where it is transposed
    real* c,        // [models, m, n]
    i64 a_step, i64 b_step, i64 c_step, i64 models, i64 m, i64 n, i64 k, i64 a_transposed, i64 b_transposed, i64 small,
    i64 part, i64 parts) {
  const i64 a_stride = a_transposed ? m : k, b_stride = b_transposed ? k : n;
  const i64 each = models >= parts, wide = m < n && !small;
  const Range chosen = each ? part_of(models, part, parts, 1) : Range{0, models};
  const Range rows = each || wide ? Range{0, m} : part_of(m, part, parts, 16);
  const Range columns = each || !wide ? Range{0, n} : part_of(n, part, parts, 16);
  for (i64 model = chosen.begin; model < chosen.end; model++)
    multiply_matrices(
        a + model * a_step + rows.begin * (a_transposed ? 1 : a_stride),
        b + model * b_step + columns.begin * (b_transposed ? b_stride : 1),
        c + model * c_step + rows.begin * n + columns.begin, rows.end - rows.begin, columns.end - columns.begin, k,
        a_stride, b_stride, n, a_transposed, b_transposed, small);
}
