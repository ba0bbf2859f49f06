// Matrix products.
//
// A kernel works out a tile of c at a time, in registers: some rows of a few vectors. What it reads is copied before
// where that pays, a panel of b so that it stays in the fastest cache, a block of a for the one behind it. A sum over
// more numbers than a panel has rows goes on where it stopped. So each number of c is the sum over k in order, one fma
// after the other, wherever it stands and whichever part works it out: a network in a population gets the bits that it
// gets alone, and on any number of threads.
#include "math.hpp"

#if defined(__AVX512F__)
static const i64 WIDTH = 64 / sizeof(real);
#elif defined(__AVX__)
static const i64 WIDTH = 32 / sizeof(real);
#else
static const i64 WIDTH = 16 / sizeof(real);
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
static const int ROWS = 8, WIDEST = 2;  // rows and vectors of a tile at most: so many sums fit the registers
#else
static const int ROWS = 4, WIDEST = 3;
#endif
static const i64 LONGEST = 256;                                 // rows of a panel at most, which fits the fastest cache
static const i64 TALLEST = (1 << 19) / LONGEST / sizeof(real);  // of a block, 512 KB
static const i64 MANY = 8;                                      // panels from which on it pays to copy a into a block
static const i64 TALL = 96;                                     // rows of c from which on it pays to copy b into panels
static const i64 LARGE = 32768 / sizeof(real);                  // where b is so large
static const i64 APART = 1024 / sizeof(real);                   // rows of c that are fetched before they are written
static const int FEW = ROWS / 4, WIDE = 8;  // rows of c up to which a tile has more vectors, and how many: of one row

template<int size> struct Bits { typedef int type; };
template<> struct Bits<8> { typedef i64 type; };

typedef float Floats __attribute__((vector_size(sizeof(real) * WIDTH)));
typedef double Doubles __attribute__((vector_size(sizeof(real) * WIDTH)));
typedef real Vector __attribute__((vector_size(sizeof(real) * WIDTH), aligned(sizeof(real)), may_alias));

BP_DEV Vector load(const real* from) { return *reinterpret_cast<const Vector*>(from); }
BP_DEV void store(real* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

// to = the first numbers of a vector, by rows. It is a function of its own because compilers then make instructions for a
// part of a vector.
__attribute__((noinline)) static void copy_lanes(
    const real* from, i64 from_row, real* to, i64 to_row, i64 rows, i64 lanes) {
  for (; rows > 0; rows--, from += from_row, to += to_row)
    for (int l = 0; l < WIDTH; l++)
      if (l < int(lanes)) to[l] = from[l];
}

BP_DEV Vector fma(Vector a, Vector b, Vector c) {
#if defined(__clang__)
#pragma clang fp contract(on)
  return a * b + c;
#elif defined(__AVX512F__)  // the loop below gives the same instruction, and takes GCC a sixth of the time for this text
  return sizeof(real) == 4 ? Vector(__builtin_ia32_vfmaddps512_mask(Floats(a), Floats(b), Floats(c), -1, 4))
                           : Vector(__builtin_ia32_vfmaddpd512_mask(Doubles(a), Doubles(b), Doubles(c), -1, 4));
#else
  for (i64 l = 0; l < WIDTH; l++) c[l] = fma(a[l], b[l], c[l]);
  return c;
#endif
}

// Number (r, c) is at[r row + c column].
struct Matrix {
  const real* at;
  i64 row, column;  // one of which is 1

  Matrix from(i64 r, i64 c) const { return {at + r * row + c * column, row, column}; }
  Matrix transposed() const { return {at, column, row}; }
};

// c = a b, or c + a b: R rows of so many columns, which are C vectors. The last of several begins earlier where it is not
// full: both have the same numbers then.
template<int R, int C>
static void multiply_tile(
    const real* a, i64 a_row, i64 a_column, const real* b, i64 b_row, real* c, i64 c_row, i64 k, i64 columns,
    bool begins) {
  Vector sum[R][C] = {};
  real some[R * WIDTH];  // of the tile, where there is no full vector
  const bool full = C > 1 || columns == WIDTH;
  const i64 last = C > 1 ? columns - WIDTH : 0;
  real* at = full ? c : some;
  i64 row = full ? c_row : WIDTH;
  if (!begins) {
    if (!full) copy_lanes(c, c_row, some, row, R, columns);
    BP_UNROLLED
    for (int r = 0; r < R; r++) {
      BP_UNROLLED
      for (int v = 0; v < C; v++) sum[r][v] = load(at + r * row + (v < C - 1 ? v * WIDTH : last));
    }
  }
  const real *a3 = a + 3 * a_row, *a6 = a + 6 * a_row, *b_last = b + last;
  for (; k > 0; k--) {
    Vector of_b[C];
    BP_UNROLLED
    for (int v = 0; v < C; v++) of_b[v] = load(v < C - 1 ? b + v * WIDTH : b_last);
    BP_UNROLLED
    for (int r = 0; r < R; r++) {
      const Vector of_a = *((r < 3 ? a : r < 6 ? a3 : a6) + r % 3 * a_row) - Vector{};
      BP_UNROLLED
      for (int v = 0; v < C; v++) sum[r][v] = fma(of_a, of_b[v], sum[r][v]);
    }
    b += b_row, b_last += b_row, a += a_column, a3 += a_column, a6 += a_column;
    asm("" : "+r"(b), "+r"(b_last), "+r"(a), "+r"(a3), "+r"(a6));  // or each row has a pointer, more than registers
  }
  asm("" : "+r"(at), "+r"(row));  // or it has found all rows of c before
  BP_UNROLLED
  for (int r = 0; r < R; r++) {
    BP_UNROLLED
    for (int v = 0; v < C; v++) store(at + r * row + (v < C - 1 ? v * WIDTH : last), sum[r][v]);
  }
  if (!full) copy_lanes(some, row, c, c_row, R, columns);
}

// The same for more rows. Tiles of a lie so many numbers apart.
template<int C, int R = ROWS>
static void multiply_panel(
    Matrix a, i64 tile, const real* b, i64 b_row, real* c, i64 c_row, i64 m, i64 k, i64 columns, bool begins) {
  for (; m >= R; m -= R, a.at += tile, c += R * c_row) {
    if (c_row > APART)
      for (i64 r = 0; r < R; r++)
        for (i64 v = 0; v < C; v++) __builtin_prefetch(c + r * c_row + v * WIDTH, 1);
    multiply_tile<R, C>(a.at, a.row, a.column, b, b_row, c, c_row, k, columns, begins);
  }
  if constexpr (R > 1)
    if (m > 0) multiply_panel<C, R / 2>(a, R / 2 * a.row, b, b_row, c, c_row, m, k, columns, begins);
}

#if defined(__clang__) || __GNUC__ >= 12
#define BP_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BP_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Row{__VA_ARGS__})
#endif

// 0, 1, ... N - 1
template<int... L> struct Lanes {};
template<int N, int... L> struct Counted : Counted<N - 1, N - 1, L...> {};
template<int... L> struct Counted<0, L...> { typedef Lanes<L...> lanes; };

// Rows of N numbers, which are as whole numbers because more units of a processor move those.
template<int N> struct Square {
  typedef typename Bits<sizeof(real)>::type Row
      __attribute__((vector_size(N * sizeof(real)), aligned(sizeof(real)), may_alias));
  Row row[N];

  // Two rows, half of the rows apart, become their numbers in turns. The bits of a number's place, row and column, turn
  // to the left by one.
  template<int... L> void interleave(Lanes<L...>) {
    Row next[N];
    BP_UNROLLED
    for (int r = 0; r < N / 2; r++) {
      next[2 * r] = BP_SHUFFLE(row[r], row[r + N / 2], (L / 2 + L % 2 * N)...);
      next[2 * r + 1] = BP_SHUFFLE(row[r], row[r + N / 2], (N / 2 + L / 2 + L % 2 * N)...);
    }
    BP_UNROLLED
    for (int r = 0; r < N; r++) row[r] = next[r];
  }
};

// to = the transpose of from, in squares. The last rows or columns are taken again where no square is left.
template<int N>
static void transpose_squares(const real* from, real* to, i64 rows, i64 columns, i64 from_row, i64 to_row) {
  for (i64 c = 0; c < columns; c += N) {
    for (i64 r = 0; r < rows; r += N) {
      const i64 column = c + N < columns ? c : columns - N, row = r + N < rows ? r : rows - N;
      Square<N> square;
      BP_UNROLLED
      for (int k = 0; k < N; k++)
        square.row[k] = *reinterpret_cast<const typename Square<N>::Row*>(from + (row + k) * from_row + column);
      BP_UNROLLED
      for (int turns = 1; turns < N; turns *= 2) square.interleave(typename Counted<N>::lanes());
      BP_UNROLLED
      for (int k = 0; k < N; k++)
        *reinterpret_cast<typename Square<N>::Row*>(to + (column + k) * to_row + row) = square.row[k];
    }
  }
}

// to = the transpose of from
static void transpose(const real* from, real* to, i64 rows, i64 columns, i64 from_row, i64 to_row) {
  const i64 least = rows < columns ? rows : columns;
  if (least >= WIDTH) return transpose_squares<WIDTH>(from, to, rows, columns, from_row, to_row);
  if (least >= 4) return transpose_squares<4>(from, to, rows, columns, from_row, to_row);
  for (i64 r = 0; r < rows; r++)
    for (i64 c = 0; c < columns; c++) to[c * to_row + r] = from[r * from_row + c];
}

// to = from, by rows
static void copy(Matrix from, real* to, i64 to_row, i64 rows, i64 columns) {
  if (from.column != 1) return transpose(from.at, to, columns, rows, from.column, to_row);
  const i64 full = columns / WIDTH * WIDTH;
  for (i64 r = 0; r < rows; r++)
    for (i64 c = 0; c < full; c += WIDTH) store(to + r * to_row + c, load(from.at + r * from.row + c));
  if (full < columns) copy_lanes(from.at + full, from.row, to + full, to_row, rows, columns - full);
}

// c = a b of one column and one row, by rows of c
static void multiply_outer(Matrix a, const real* b, real* c, i64 c_row, i64 m, i64 n) {
  for (; m > 0; m--, a.at += a.row, c += c_row) {
    const Vector of_a = *a.at - Vector{};
    for (i64 column = 0; column < n; column += WIDTH) {
      const i64 first = column + WIDTH <= n ? column : n - WIDTH;
      store(c + first, fma(of_a, load(b + first), Vector{}));
    }
  }
}

typedef void (*Panel)(Matrix, i64, const real*, i64, real*, i64, i64, i64, i64, bool);
static const Panel PANELS[] = {multiply_panel<1>, multiply_panel<2>, multiply_panel<WIDEST>};
static const Panel PANELS_OF_FEW[WIDE] = {multiply_panel<1, FEW>, multiply_panel<2, FEW>, multiply_panel<3, FEW>,
                                          multiply_panel<4, FEW>, multiply_panel<5, 1>,   multiply_panel<6, 1>,
                                          multiply_panel<7, 1>,   multiply_panel<8, 1>};

// c = a b
static void multiply(Matrix a, Matrix b, real* c, i64 c_row, i64 m, i64 n, i64 k) {
  static thread_local real block[TALLEST * LONGEST] __attribute__((aligned(64)));
  real panel[LONGEST * WIDE * WIDTH] __attribute__((aligned(64)));
  if (k == 1 && n >= WIDTH && b.column == 1) return multiply_outer(a, b.at, c, c_row, m, n);
  const bool wasteful = n < WIDEST * WIDTH && n % WIDTH;  // its transpose has whole vectors
  if (wasteful && n < m && (a.column != 1 || n <= WIDTH / 2)) {
    for (i64 i = 0; i < m; i += LONGEST) {
      const i64 rows = m - i < LONGEST ? m - i : LONGEST;
      const bool there = n == 1 && c_row == 1;
      real* const turned = there ? c + i : panel;
      multiply(b.transposed(), a.from(i, 0).transposed(), turned, LONGEST, n, rows, k);
      if (!there) transpose(panel, c + i * c_row, n, rows, LONGEST, c_row);
    }
    return;
  }
  const i64 vectors = (n + WIDTH - 1) / WIDTH;
  const i64 widest = m > FEW || b.column != 1 ? WIDEST : m == 1 ? WIDE : WIDE / 2;
  const i64 panels = (vectors + widest - 1) / widest;
  const i64 pieces = k > LONGEST ? (k + LONGEST - 1) / LONGEST : 1, longest = (k + pieces - 1) / pieces;
  const bool copy_a = panels >= MANY, copy_b = b.column != 1 || (m >= TALL && n * k >= LARGE);
  for (i64 piece = 0; piece < pieces; piece++) {
    const i64 first = piece * longest, length = k - first < longest ? k - first : longest;
    for (i64 i = 0; i < m; i += TALLEST) {
      const i64 rows = m - i < TALLEST ? m - i : TALLEST;
      Matrix of_a = a.from(i, first);
      i64 tile = ROWS * a.row;
      if (copy_a) {
        for (i64 r = 0; r < rows; r += ROWS)
          copy(of_a.from(r, 0).transposed(), block + r * length, ROWS, length, rows - r < ROWS ? rows - r : ROWS);
        of_a = {block, 1, ROWS}, tile = ROWS * length;
      }
      for (i64 p = 0; p < panels; p++) {
        const i64 begin = vectors * p / panels, C = vectors * (p + 1) / panels - begin, width = C * WIDTH;
        const i64 column = begin * WIDTH, columns = n - column < width ? n - column : width;
        const Matrix of_b = b.from(first, column);
        const bool copied = copy_b || columns < WIDTH;
        if (copied) copy(of_b, panel, width, length, columns);
        (widest > WIDEST ? PANELS_OF_FEW : PANELS)[C - 1](
            of_a, tile, copied ? panel : of_b.at, copied ? width : b.row, c + i * c_row + column, c_row, rows, length,
            columns, piece == 0);
      }
    }
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
BP_DEV void multiply_matrices(Matrix a, Matrix b, real* c, i64 c_row, i64 m, i64 n, i64 k, i64 ours) {
  if (!m || !n) return;
  if (ours) return multiply(a, b, c, c_row, m, n, k);
  const int ta = a.column == 1 ? PLAIN : TRANSPOSED, tb = b.column == 1 ? PLAIN : TRANSPOSED;
  const i64 of_a = a.row * a.column, of_b = b.row * b.column;
  if (gemm64)
    gemm64(BY_ROWS, ta, tb, m, n, k, 1, a.at, of_a, b.at, of_b, 0, c, c_row);
  else
    gemm(BY_ROWS, ta, tb, int(m), int(n), int(k), 1, a.at, int(of_a), b.at, int(of_b), 0, c, int(c_row));
}

// c = a b, where the rows of a and c are those of a minibatch: a part has some of them.
BP_CPU void matmul_by_rows(
    const real* a,  // [models, m, k] by rows
    const real* b,  // [models, k, n] [n, k] where it is transposed
    real* c,        // [models, m, n] by rows
    i64 a_step, i64 b_step, i64 c_step, i64 models, i64 m, i64 n, i64 k, i64 b_transposed, i64 ours, i64 part,
    i64 parts) {
  const Range r = rows_of(m, part, parts);
  for (i64 model = 0; model < models; model++, a += a_step, b += b_step, c += c_step)
    multiply_matrices(
        Matrix{a, k, 1}.from(r.begin, 0), b_transposed ? Matrix{b, 1, k} : Matrix{b, n, 1}, c + r.begin * n, n,
        r.end - r.begin, n, k, ours);
}

// c = a b: a part has some of the models, or where these are few, a block of rows or of columns, whichever are more.
BP_CPU void matmul(
    const real* a,  // [models, m, k] [k, m] where it is transposed
    const real* b,  // [models, k, n] [n, k] where it is transposed
    real* c,        // [models, m, n]
    i64 a_step, i64 b_step, i64 c_step, i64 models, i64 m, i64 n, i64 k, i64 a_transposed, i64 b_transposed, i64 ours,
    i64 part, i64 parts) {
  const i64 each = models >= parts, wide = m < n;
  const Range chosen = each ? part_of(models, part, parts, 1) : Range{0, models};
  const Range rows = each || wide ? Range{0, m} : part_of(m, part, parts, 16);
  const Range columns = each || !wide ? Range{0, n} : part_of(n, part, parts, 16);
  for (i64 model = chosen.begin; model < chosen.end; model++) {
    const real *const of_a = a + model * a_step, *const of_b = b + model * b_step;
    multiply_matrices(
        (a_transposed ? Matrix{of_a, 1, m} : Matrix{of_a, k, 1}).from(rows.begin, 0),
        (b_transposed ? Matrix{of_b, 1, k} : Matrix{of_b, n, 1}).from(0, columns.begin),
        c + model * c_step + rows.begin * n + columns.begin, n, rows.end - rows.begin, columns.end - columns.begin, k,
        ours);
  }
}
