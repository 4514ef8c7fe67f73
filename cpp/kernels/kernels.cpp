// The micro-kernels, one source for all ISA levels: the compiler's vector extensions give each level its
// own width. See kernels.h for the contract and docs/architecture.md for why nothing of the STL may be
// used here.
#include "kernels/kernels.h"

#include <math.h>
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#if !defined(PYCONV_ISA_LEVEL)
#error "compile with -DPYCONV_ISA_LEVEL=name"
#endif
#define PYCONV_TEXT_OF(name) #name
#define PYCONV_TEXT(name) PYCONV_TEXT_OF(name)

namespace pyconv::kernels::PYCONV_ISA_LEVEL {
namespace {

using Index = std::int64_t;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t IntVector __attribute__((vector_size(kLanes * 4)));
// The same without a promise of alignment; may_alias because it is read through float pointers.
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
// x - 0 is x for every x, -0 too, so this is a plain broadcast.
inline Vector splat(float x) { return x - Vector{}; }

// Keeps what the compiler knows of a vector from going further: a product is not drawn into the additions
// that follow, where it would be multiplied twice, and a load is not repeated at each of its uses.
inline Vector apart(Vector v) {
#if defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+v"(v));
#endif
  return v;
}

// The first `count` floats, fewer than a vector; the others are neither read nor written, and are 0 in v.
// load_after_zero: the same of a zero and the floats that follow it, where `count` may be a whole vector.
#if defined(__AVX512F__)
inline __mmask16 first_lanes(Index count) { return static_cast<__mmask16>((1U << count) - 1U); }
inline Vector load_part(const float* p, Index count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
inline void store_part(float* p, Vector v, Index count) { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
inline Vector load_after_zero(const float* p, Index count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(first_lanes(count) & ~1U), p - 1);
}
#elif defined(__AVX__)
inline __m256i first_lanes(Index count) {
  alignas(32) static constexpr std::int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - count));
}
inline Vector load_part(const float* p, Index count) { return _mm256_maskload_ps(p, first_lanes(count)); }
inline void store_part(float* p, Vector v, Index count) { _mm256_maskstore_ps(p, first_lanes(count), v); }
inline Vector load_after_zero(const float* p, Index count) {
  const __m256i lanes = _mm256_andnot_si256(first_lanes(1), first_lanes(count));
  return _mm256_maskload_ps(p - 1, lanes);
}
#else
inline Vector load_part(const float* p, Index count) {
  Vector v{};
  for (Index i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
inline void store_part(float* p, Vector v, Index count) {
  for (Index i = 0; i < count; ++i) p[i] = v[i];
}
inline Vector load_after_zero(const float* p, Index count) {
  Vector v{};
  for (Index i = 1; i < count; ++i) v[i] = p[i - 1];
  return v;
}
#endif

// Both return x where x is NaN: a NaN passes through every clamp.
inline Vector at_least(Vector x, Vector bound) { return x < bound ? bound : x; }
inline Vector at_most(Vector x, Vector bound) { return x > bound ? bound : x; }
// NaN where either is.
inline Vector maximum(Vector a, Vector b) { return b != b ? b : at_least(a, b); }
inline Vector minimum(Vector a, Vector b) { return b != b ? b : at_most(a, b); }
// All ones, which is a NaN, in the lanes where a or b is NaN; else all zeros. By name, since g++ takes two
// comparisons for it.
#if defined(__AVX512F__)
inline IntVector unordered(Vector a, Vector b) {
  return reinterpret_cast<IntVector>(_mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q), -1));
}
#elif defined(__AVX__)
inline IntVector unordered(Vector a, Vector b) {
  return reinterpret_cast<IntVector>(_mm256_cmp_ps(a, b, _CMP_UNORD_Q));
}
#else
inline IntVector unordered(Vector a, Vector b) { return (a != a) | (b != b); }
#endif

// Whether any lane of what a comparison made is true.
#if defined(__AVX512F__)
inline bool any(IntVector v) {
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(v)) != 0;
}
#elif defined(__AVX__)
inline bool any(IntVector v) { return _mm256_movemask_ps(reinterpret_cast<__m256>(v)) != 0; }
#elif defined(__SSE2__)
inline bool any(IntVector v) { return _mm_movemask_ps(reinterpret_cast<__m128>(v)) != 0; }
#else
inline bool any(IntVector v) { return (v[0] | v[1] | v[2] | v[3]) != 0; }
#endif

// The greatest of a window of four; NaN where any of them is.
inline Vector greatest_of_four(Vector a, Vector b, Vector c, Vector d) {
  const IntVector nan = unordered(a, b) | unordered(c, d);
  const Vector most = at_least(at_least(a, b), at_least(c, d));
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(most) | nan);
}

// -- Matrix product ----------------------------------------------------------------------------

// The clamped sums of a tile, of which only the first `columns` are wanted, to rows that lie `pitch` apart.
// Unrolled by force: a loop over sums[r] would have to keep all of them in memory.
template <int kRows, int kVectors>
inline void store_sums(const Vector (&sums)[kRows][kVectors], float* out, Index pitch, int columns) {
  if (columns == kVectors * kLanes) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(out + r * pitch + v * kLanes, sums[r][v]);
    }
    return;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const int left = columns - v * kLanes;
      if (left > 0) store_part(out + r * pitch + v * kLanes, sums[r][v], left < kLanes ? left : kLanes);
    }
  }
}

template <int kRows, int kVectors>
inline void clamp_sums(Vector (&sums)[kRows][kVectors], float lowest, float highest) {
  const Vector low = splat(lowest);
  const Vector high = splat(highest);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = at_most(at_least(sums[r][v], low), high);
  }
}

template <int kRows, int kVectors>
void matrix_tile(const MatrixTile& tile) {
  constexpr int kWidth = kVectors * kLanes;
  Vector sums[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const Vector bias = load(tile.bias + v * kLanes);
    for (int r = 0; r < kRows; ++r) sums[r][v] = bias;
  }

  const float* panel = tile.panel;
  const float* const* rows = tile.rows;
  for (Index tap = 0; tap < tile.taps; ++tap, rows += kRows) {
    const float* row[kRows];
    for (int r = 0; r < kRows; ++r) row[r] = rows[r];
    for (Index k = 0; k < tile.depth; ++k, panel += kWidth) {
      Vector weights[kVectors];
      for (int v = 0; v < kVectors; ++v) weights[v] = load(panel + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vector x = splat(row[r][k]);
        for (int v = 0; v < kVectors; ++v) sums[r][v] += x * weights[v];
      }
    }
  }

  clamp_sums(sums, tile.lowest, tile.highest);
  store_sums(sums, tile.out, tile.out_pitch, tile.columns);
}

// The sums, the weights and the broadcast value of a tile stay in registers.
constexpr int rows_that_fit(int vectors) {
  const int rows = (kRegisters - vectors - 1) / vectors;
  return rows > kMaxMatrixRows ? kMaxMatrixRows : rows;
}

// Many cores fetch ahead by themselves only as far as a page goes, so weights are asked for this many floats
// before they are used; those of smaller panels, while the panel before them is used.
constexpr Index kAhead = 2048;

// kRows rows on kPanels panels. Several panels at once only where the rows alone are too few sums to hide the
// latency of a multiply-add. While the first `fetches` rows of the panels are read, as many are asked for
// that lie `ahead` floats further on.
template <int kRows, int kVectors, int kPanels>
inline void block_tile(const MatrixBlock& block, const float* x, const float* panel, float* out, Index ahead,
                       Index fetches) {
  constexpr int kWidth = kVectors * kLanes;
  Vector sums[kPanels][kRows][kVectors];
  for (int p = 0; p < kPanels; ++p) {
    const float* bias = panel + p * block.panel_pitch + block.depth * kWidth;
    for (int v = 0; v < kVectors; ++v) {
      const Vector first = block.finish ? load(bias + v * kLanes) : Vector{};
      for (int r = 0; r < kRows; ++r) sums[p][r][v] = first;
    }
  }
  const float* row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = x + r * block.x_pitch;
  const float* weights[kPanels];
  for (int p = 0; p < kPanels; ++p) weights[p] = panel + p * block.panel_pitch;
  const auto add_products = [&](Index k) {
    Vector w[kPanels][kVectors];
    for (int p = 0; p < kPanels; ++p) {
      for (int v = 0; v < kVectors; ++v) w[p][v] = load(weights[p] + k * kWidth + v * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vector value = splat(row[r][k]);
      for (int p = 0; p < kPanels; ++p) {
        for (int v = 0; v < kVectors; ++v) sums[p][r][v] += value * w[p][v];
      }
    }
  };
  Index k = 0;
  for (; k < fetches; ++k) {
    for (int p = 0; p < kPanels; ++p) {
      for (int line = 0; line < kWidth; line += 16) {
        __builtin_prefetch(weights[p] + k * kWidth + ahead + line, 0, 2);
      }
    }
    add_products(k);
  }
  for (; k < block.depth; ++k) add_products(k);
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    if (block.finish) clamp_sums(sums[p], block.lowest, block.highest);
    store_sums(sums[p], out + p * kWidth, block.out_pitch, block.columns);
  }
}

// The tile of `count` rows, 1 <= count <= kRows.
template <int kRows, int kVectors>
inline void block_rows(const MatrixBlock& block, Index count, const float* x, const float* panel, float* out,
                       Index ahead, Index fetches) {
  if constexpr (kRows > 1) {
    if (count < kRows) {
      return block_rows<kRows - 1, kVectors>(block, count, x, panel, out, ahead, fetches);
    }
  }
  block_tile<kRows, kVectors, 1>(block, x, panel, out, ahead, fetches);
}

template <int kVectors>
void matrix_block(const MatrixBlock& block) {
  constexpr int kMost = rows_that_fit(kVectors);
  constexpr Index kWidth = kVectors * kLanes;
  const Index ahead = block.depth * kWidth < kAhead ? block.depth * kWidth : kAhead;
  const Index fetches = block.fetch ? block.depth : 0;
  Index panel = 0;
  const auto weights = [&] { return block.panel + panel * block.panel_pitch; };
  const auto out = [&] { return block.out + panel * kWidth; };
  if constexpr (kVectors == 2) {
    if (block.rows == 1) {
      for (; panel + 4 <= block.panels; panel += 4) {
        block_tile<1, 2, 4>(block, block.x, weights(), out(), ahead, fetches);
      }
    } else if (block.rows == 2) {
      for (; panel + 2 <= block.panels; panel += 2) {
        block_tile<2, 2, 2>(block, block.x, weights(), out(), ahead, fetches);
      }
    }
  }
  // Tiles as equal as may be, since those of few rows waste what they load: `larger` of them have a row more.
  const Index tiles = (block.rows + kMost - 1) / kMost;
  const Index rows = tiles == 1 ? block.rows : block.rows / tiles;
  const Index larger = block.rows - rows * tiles;
  for (; panel < block.panels; ++panel) {
    const float* x = block.x;
    float* y = out();
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index count = tile < larger ? rows + 1 : rows;
      block_rows<kMost, kVectors>(block, count, x, weights(), y, ahead, tile == 0 ? fetches : 0);
      x += count * block.x_pitch;
      y += count * block.out_pitch;
    }
  }
}

// -- Convolution with few input channels -------------------------------------------------------

// kColumns outputs at once, so that enough independent sums hide the latency of the multiply-adds.
template <int kHeight, int kDepth, int kPool, int kColumns>
inline void stencil_columns(const StencilRow& row, const float* x, const Vector* weights, Vector bias,
                            float* out, Index lanes) {
  Vector sums[kColumns][kPool][kPool] = {};
  for (int u = 0; u < kHeight; ++u) {
    for (int d = 0; d < kDepth; ++d) {
      const Vector weight = weights[u * kDepth + d];
      for (int c = 0; c < kColumns; ++c) {
        for (int p = 0; p < kPool; ++p) {
          for (int q = 0; q < kPool; ++q) {
            const float* source = x + (c * kPool + q) * row.column_step + p * row.row_step;
            sums[c][p][q] += splat(source[u * row.row_pitch + d]) * weight;
          }
        }
      }
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    Vector most = sums[c][0][0];
    if constexpr (kPool == 2) {
      most = greatest_of_four(most, sums[c][0][1], sums[c][1][0], sums[c][1][1]);
    }
    // A clamp never falls, nor does adding the bias: both may follow the maximum.
    const Vector y = at_most(at_least(most + bias, splat(row.lowest)), splat(row.highest));
    if (lanes == kLanes) {
      store(out + c * row.channels, y);
    } else {
      store_part(out + c * row.channels, y, lanes);
    }
  }
}

template <int kHeight, int kDepth, int kPool>
void stencil_row(const StencilRow& row) {
  constexpr int kFloats = kHeight * kDepth;
  constexpr int kSums = kFloats + 8 + 2 <= kRegisters ? 8 : 4;
  constexpr int kColumns = kSums / (kPool * kPool);
  for (Index o = 0; o < row.channels; o += kLanes) {
    Vector weights[kFloats];
    for (int k = 0; k < kFloats; ++k) weights[k] = load(row.weights + o * kFloats + k * kLanes);
    const Vector bias = load(row.bias + o);
    const Index lanes = row.channels - o < kLanes ? row.channels - o : kLanes;
    const float* x = row.x;
    float* out = row.out + o;
    Index j = 0;
    for (; j + kColumns <= row.columns; j += kColumns) {
      stencil_columns<kHeight, kDepth, kPool, kColumns>(row, x, weights, bias, out, lanes);
      x += kColumns * kPool * row.column_step;
      out += kColumns * row.channels;
    }
    for (; j < row.columns; ++j) {
      stencil_columns<kHeight, kDepth, kPool, 1>(row, x, weights, bias, out, lanes);
      x += kPool * row.column_step;
      out += row.channels;
    }
  }
}

template <int kHeight, int kDepth>
constexpr StencilKernels stencil() {
  return {kHeight, kDepth, &stencil_row<kHeight, kDepth, 1>, &stencil_row<kHeight, kDepth, 2>};
}

// -- Winograd's transforms ---------------------------------------------------------------------

// Points of small absolute value and few digits keep the error low: see docs/kernel.md.
constexpr double kPoints2[] = {0, 1, -1};
constexpr double kPoints4[] = {0, 0.75, -0.75, 1.5, -1.5};
constexpr double kPoints5[] = {0.375, -0.375, 0.875, -0.875, 1.5, -1.5};

template <int kTile>
struct WinogradTransform;

template <>
struct WinogradTransform<2> {
  static constexpr const double* kPoints = kPoints2;

  static void input(const Vector (&d)[4], Vector (&v)[4]) {
    v[0] = d[2] - d[0];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  static void output(const Vector (&m)[4], Vector (&y)[2]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
  }
};

// Points 0, a, -a, b, -b.
template <>
struct WinogradTransform<4> {
  static constexpr const double* kPoints = kPoints4;
  static constexpr float a = static_cast<float>(kPoints4[1]);
  static constexpr float b = static_cast<float>(kPoints4[3]);

  static void input(const Vector (&d)[6], Vector (&v)[6]) {
    v[0] = d[4] - (a * a + b * b) * d[2] + (a * a * b * b) * d[0];
    const Vector a_even = d[4] - (b * b) * d[2], a_odd = d[3] - (b * b) * d[1];
    v[1] = a_even + a * a_odd;
    v[2] = a_even - a * a_odd;
    const Vector b_even = d[4] - (a * a) * d[2], b_odd = d[3] - (a * a) * d[1];
    v[3] = b_even + b * b_odd;
    v[4] = b_even - b * b_odd;
    v[5] = d[5] - (a * a + b * b) * d[3] + (a * a * b * b) * d[1];
  }
  static void output(const Vector (&m)[6], Vector (&y)[4]) {
    const Vector a_even = m[1] + m[2], a_odd = m[1] - m[2];
    const Vector b_even = m[3] + m[4], b_odd = m[3] - m[4];
    y[0] = m[0] + a_even + b_even;
    y[1] = a * a_odd + b * b_odd;
    y[2] = (a * a) * a_even + (b * b) * b_even;
    y[3] = m[5] + (a * a * a) * a_odd + (b * b * b) * b_odd;
  }
};

// Points a, -a, b, -b, c, -c. Without 0 among them they come in pairs, which halves the error.
template <>
struct WinogradTransform<5> {
  static constexpr const double* kPoints = kPoints5;
  static constexpr float a = static_cast<float>(kPoints5[0]);
  static constexpr float b = static_cast<float>(kPoints5[2]);
  static constexpr float c = static_cast<float>(kPoints5[4]);

  // x^4 - (p^2 + q^2) x^2 + p^2 q^2 at three pixels, every other one from d[j] on.
  template <int j>
  static Vector quartic(const Vector (&d)[7], float p, float q) {
    return d[j + 4] - (p * p + q * q) * d[j + 2] + (p * p * q * q) * d[j];
  }

  static void input(const Vector (&d)[7], Vector (&v)[7]) {
    const Vector a_even = quartic<1>(d, b, c), a_odd = quartic<0>(d, b, c);
    v[0] = a_even + a * a_odd;
    v[1] = a_even - a * a_odd;
    const Vector b_even = quartic<1>(d, a, c), b_odd = quartic<0>(d, a, c);
    v[2] = b_even + b * b_odd;
    v[3] = b_even - b * b_odd;
    const Vector c_even = quartic<1>(d, a, b), c_odd = quartic<0>(d, a, b);
    v[4] = c_even + c * c_odd;
    v[5] = c_even - c * c_odd;
    v[6] = d[6] - (a * a + b * b + c * c) * d[4] + (a * a * b * b + a * a * c * c + b * b * c * c) * d[2] -
           (a * a * b * b * c * c) * d[0];
  }
  static void output(const Vector (&m)[7], Vector (&y)[5]) {
    const Vector a_even = m[0] + m[1], a_odd = m[0] - m[1];
    const Vector b_even = m[2] + m[3], b_odd = m[2] - m[3];
    const Vector c_even = m[4] + m[5], c_odd = m[4] - m[5];
    y[0] = a_even + b_even + c_even;
    y[1] = a * a_odd + b * b_odd + c * c_odd;
    y[2] = (a * a) * a_even + (b * b) * b_even + (c * c) * c_even;
    y[3] = (a * a * a) * a_odd + (b * b * b) * b_odd + (c * c * c) * c_odd;
    y[4] = m[6] + (a * a * a * a) * a_even + (b * b * b * b) * b_even + (c * c * c * c) * c_even;
  }
};

template <int kTile, class Load, class Store>
inline void winograd_transform_input(Load load_pixel, Store store_plane) {
  constexpr int n = kTile + 2;
  Vector columns[n][n];
  for (int j = 0; j < n; ++j) {
    Vector d[n], v[n];
    for (int i = 0; i < n; ++i) d[i] = load_pixel(n * i + j);
    WinogradTransform<kTile>::input(d, v);
    for (int i = 0; i < n; ++i) columns[i][j] = v[i];
  }
  for (int i = 0; i < n; ++i) {
    Vector v[n];
    WinogradTransform<kTile>::input(columns[i], v);
    for (int j = 0; j < n; ++j) store_plane(n * i + j, v[j]);
  }
}

template <int kTile>
void winograd_input(const WinogradInput& tile) {
  // Copied, or each store might have changed them for all that the compiler knows.
  const float* const* pixels = tile.pixels;
  float* planes = tile.planes;
  const Index pitch = tile.plane_pitch;
  Index c = 0;
  for (; c + kLanes <= tile.channels; c += kLanes, planes += kLanes) {
    winograd_transform_input<kTile>([=](int p) { return load(pixels[p] + c); },
                                    [=](int p, Vector v) { store(planes + p * pitch, v); });
  }
  if (const Index left = tile.channels - c; left > 0) {
    winograd_transform_input<kTile>([=](int p) { return load_part(pixels[p] + c, left); },
                                    [=](int p, Vector v) { store_part(planes + p * pitch, v, left); });
  }
}

template <int kTile, int kPool>
void winograd_output(const WinogradOutput& row) {
  constexpr int n = kTile + 2;
  constexpr int kSide = kTile / kPool;  // pixels of a tile along each axis, after the pool
  const Vector lowest = splat(row.lowest);
  const Vector highest = splat(row.highest);
  // Copied, or each store might have changed it for all that the compiler knows.
  const Index plane_pitch = row.plane_pitch, column_pitch = row.column_pitch, row_pitch = row.row_pitch;
  for (Index o = 0; o < row.channels; o += kLanes) {
    const Index lanes = row.channels - o < kLanes ? row.channels - o : kLanes;
    const Vector bias = load(row.bias + o);
    for (Index t = 0; t < row.tiles; ++t) {
      const float* planes = row.planes + t * row.tile_pitch + o;
      Vector rows[kTile][n];
      for (int j = 0; j < n; ++j) {
        Vector m[n], y[kTile];
        for (int i = 0; i < n; ++i) m[i] = load(planes + (n * i + j) * plane_pitch);
        WinogradTransform<kTile>::output(m, y);
        for (int i = 0; i < kTile; ++i) rows[i][j] = y[i];
      }
      const Index columns = row.columns - t * kSide < kSide ? row.columns - t * kSide : kSide;
      float* out = row.out + t * kSide * row.column_pitch + o;
      // The counts are constant and the exits inside, so that everything stays in registers.
      for (int i = 0; i < kSide; ++i, out += row_pitch) {
        if (i >= row.rows) break;
        Vector y[kPool][kTile];
        for (int p = 0; p < kPool; ++p) WinogradTransform<kTile>::output(rows[i * kPool + p], y[p]);
        for (int j = 0; j < kSide; ++j) {
          if (j >= columns) break;
          Vector most = y[0][j * kPool];
          if constexpr (kPool == 2)
            most = greatest_of_four(most, y[0][2 * j + 1], y[1][2 * j], y[1][2 * j + 1]);
          // A clamp never falls, nor does adding the bias: both may follow the maximum.
          const Vector clamped = at_most(at_least(most + bias, lowest), highest);
          if (lanes == kLanes) {
            store(out + j * column_pitch, clamped);
          } else {
            store_part(out + j * column_pitch, clamped, lanes);
          }
        }
      }
    }
  }
}

template <int kTile>
constexpr WinogradKernels winograd() {
  WinogradKernels kernels{kTile, WinogradTransform<kTile>::kPoints, &winograd_input<kTile>,
                          &winograd_output<kTile, 1>, nullptr};
  if constexpr (kTile % 2 == 0) kernels.output_pooled = &winograd_output<kTile, 2>;
  return kernels;
}

constexpr Index kStencilWindows = 32;  // outputs whose transformed input is held at once
constexpr Index kStencilPitch = (2 * kStencilWindows + 2 + 2 * kLanes) / kLanes * kLanes;
using StencilPlanes = float[4][kStencilPitch];

// The 16 weights of a transformed filter, for each channel of a vector: in registers where there are enough
// of them, else read from memory for each window.
template <bool kHeld>
struct FilterWeights {
  explicit FilterWeights(const float* filter) {
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) held[k] = apart(load(filter + k * kLanes));
  }
  Vector operator[](int k) const { return held[k]; }

  Vector held[16];
};
template <>
struct FilterWeights<false> {
  explicit FilterWeights(const float* filter) : weights(filter) {}
  // Held apart, or the compiler would read it again for each window that shares it.
  Vector operator[](int k) const { return apart(load(weights + k * kLanes)); }

  const float* weights;
};

// The pooled outputs of a vector of channels from what winograd_stencil_pooled makes of the input.
template <class Weights>
struct WinogradWindows {
  Weights weights;
  Vector bias, lowest, highest;
  Index lanes, pitch;  // of the output: channels that are left, and from one window to the next
  const StencilPlanes& span;
  const StencilPlanes& sum;
  const StencilPlanes& step;

  // Outputs j and those after it.
  template <int kWindows>
  void compute(Index j, float* out) const {
    Vector y[kWindows][2][2];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      Vector w[4];
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) w[p] = weights[4 * p + q];
      const StencilPlanes& source = q == 1 ? sum : q == 2 ? step : span;
#pragma GCC unroll 2
      for (int t = 0; t < kWindows; ++t) {
        const Index x = 2 * (j + t) + (q == 0 ? 0 : 1);
        const Vector m1 = apart(w[1] * splat(source[1][x]));
        const Vector m2 = apart(w[2] * splat(source[2][x]));
        const Vector column[2] = {w[0] * splat(source[0][x]) + (m1 + m2),
                                  w[3] * splat(source[3][x]) + (m1 - m2)};
        for (int p = 0; p < 2; ++p) {
          // The rows of A^T: (1, 1, 1, 0) and (0, 1, -1, 1).
          if (q == 0) y[t][p][0] = column[p];
          if (q == 1) {
            y[t][p][0] += column[p];
            y[t][p][1] = column[p];
          }
          if (q == 2) {
            y[t][p][0] += column[p];
            y[t][p][1] -= column[p];
          }
          if (q == 3) y[t][p][1] += column[p];
        }
      }
    }
    for (int t = 0; t < kWindows; ++t, out += pitch) {
      const Vector most = greatest_of_four(y[t][0][0], y[t][0][1], y[t][1][0], y[t][1][1]);
      const Vector clamped = at_most(at_least(most + bias, lowest), highest);
      if (lanes == kLanes) {
        store(out, clamped);
      } else {
        store_part(out, clamped, lanes);
      }
    }
  }
};

// Winograd's F(2x2, 3x3) for one input channel: a row of StencilRow's pooled outputs, with the 16 weights of
// a transformed filter for each channel in registers where there are enough. The input's transform has no
// channels to run over, so it runs along the row: at pixel x of the four rows that it makes of four rows of
// pixels,
//   span[x] = r[x + 2] - r[x], sum[x] = r[x + 1] + r[x], step[x] = r[x + 1] - r[x],
// and the tile of output j finds its four columns at span[2j], sum[2j + 1], step[2j + 1] and span[2j + 1].
void winograd_stencil_pooled(const StencilRow& row) {
  // Where the weights do not stay in registers two windows share the reading of each.
  constexpr int kWindows = kRegisters >= 32 ? 1 : 2;
  using Weights = FilterWeights<(kRegisters >= 32)>;
  float rows[4][kStencilPitch + kLanes];
  StencilPlanes span, sum, step;
  for (Index first = 0; first < row.columns; first += kStencilWindows) {
    const Index left_over = row.columns - first;
    const Index tiles = left_over < kStencilWindows ? left_over : kStencilWindows;
    const Index pixels = 2 * tiles + 2;
    for (Index x = 0; x < pixels; x += kLanes) {
      const float* source = row.x + 2 * first + x;
      const Index left = pixels - x;
      Vector d[4], v[4];
      for (int i = 0; i < 4; ++i, source += row.row_pitch) {
        d[i] = left >= kLanes ? load(source) : load_part(source, left);
      }
      WinogradTransform<2>::input(d, v);
      for (int i = 0; i < 4; ++i) store(rows[i] + x, v[i]);
    }
    for (int i = 0; i < 4; ++i) {
      for (Index x = 0; x < pixels - 2; x += kLanes) {
        const Vector r0 = load(rows[i] + x), r1 = load(rows[i] + x + 1), r2 = load(rows[i] + x + 2);
        store(span[i] + x, r2 - r0);
        store(sum[i] + x, r1 + r0);
        store(step[i] + x, r1 - r0);
      }
    }
    for (Index o = 0; o < row.channels; o += kLanes) {
      float* out = row.out + first * row.channels + o;
      const Index channels = row.channels - o < kLanes ? row.channels - o : kLanes;
      const WinogradWindows<Weights> windows{Weights(row.weights + o * 16),
                                             load(row.bias + o),
                                             splat(row.lowest),
                                             splat(row.highest),
                                             channels,
                                             row.channels,
                                             span,
                                             sum,
                                             step};
      Index j = 0;
      for (; j + kWindows <= tiles; j += kWindows) windows.compute<kWindows>(j, out + j * row.channels);
      for (; j < tiles; ++j) windows.compute<1>(j, out + j * row.channels);
    }
  }
}

// -- Convolution and pooling of single pixels --------------------------------------------------

// A count of 0 is not known to the compiler; the usual nine taps are compiled apart and unrolled.
template <int kTaps>
inline void depthwise_taps(const DepthwisePixel& pixel) {
  const Index taps = kTaps > 0 ? kTaps : pixel.count;
  const Vector lowest = splat(pixel.lowest);
  const Vector highest = splat(pixel.highest);
  Index c = 0;
  for (; c + kLanes <= pixel.channels; c += kLanes) {
    Vector sum = load(pixel.bias + c);
    for (Index t = 0; t < taps; ++t) {
      sum += load(pixel.taps[t] + c) * load(pixel.weights + t * pixel.channels + c);
    }
    store(pixel.out + c, at_most(at_least(sum, lowest), highest));
  }
  if (const Index left = pixel.channels - c; left > 0) {
    Vector sum = load_part(pixel.bias + c, left);
    for (Index t = 0; t < taps; ++t) {
      sum += load_part(pixel.taps[t] + c, left) * load_part(pixel.weights + t * pixel.channels + c, left);
    }
    store_part(pixel.out + c, at_most(at_least(sum, lowest), highest), left);
  }
}

void depthwise(const DepthwisePixel& pixel) {
  if (pixel.count == 9) {
    depthwise_taps<9>(pixel);
  } else {
    depthwise_taps<0>(pixel);
  }
}

// A vector's worth of channels, or, at the end of a pixel, the `count` that are left of it. Two types and not
// a number, so that no load has to ask.
struct WholeVector {
  Vector load(const float* p) const { return kernels::PYCONV_ISA_LEVEL::load(p); }
  void store(float* p, Vector v) const { kernels::PYCONV_ISA_LEVEL::store(p, v); }
};
struct PartOfVector {
  Index count;
  Vector load(const float* p) const { return load_part(p, count); }
  void store(float* p, Vector v) const { store_part(p, v, count); }
};

// kColumns outputs at once: each input of theirs is loaded once, and their sums hide each other's latency. x
// is the first output, c the first channel.
template <int kWindow, int kStride, int kColumns, class Lanes>
inline void depthwise_columns(const DepthwiseRow& row, Index x, Index c, Lanes lanes, Vector bias) {
  constexpr int kInputs = (kColumns - 1) * kStride + kWindow;
  // Copied, or each store might have changed them for all that the compiler knows.
  const Index channels = row.channels;
  const Vector lowest = splat(row.lowest), highest = splat(row.highest);
  Vector sums[kColumns];
  for (int j = 0; j < kColumns; ++j) sums[j] = bias;
#pragma GCC unroll 1
  for (int u = 0; u < kWindow; ++u) {
    const float* input = row.rows[u] + x * kStride * channels + c;
    const float* weights = row.weights + u * kWindow * channels + c;
    Vector taps[kWindow];
    for (int v = 0; v < kWindow; ++v) taps[v] = apart(lanes.load(weights + v * channels));
#pragma GCC unroll 32
    for (int i = 0; i < kInputs; ++i, input += channels) {
      // Held apart, or the compiler would read it from memory again for each of its products.
      const Vector pixel = apart(lanes.load(input));
#pragma GCC unroll 8
      for (int v = 0; v < kWindow; ++v) {
        const int j = i - v;
        if (j >= 0 && j % kStride == 0 && j / kStride < kColumns) sums[j / kStride] += pixel * taps[v];
      }
    }
  }
  float* out = row.out + x * channels + c;
#pragma GCC unroll 8
  for (int j = 0; j < kColumns; ++j, out += channels) {
    lanes.store(out, at_most(at_least(sums[j], lowest), highest));
  }
}

// Blocks of kColumns outputs from x on, then of half as many, and so on.
template <int kWindow, int kStride, int kColumns, class Lanes>
inline void depthwise_blocks(const DepthwiseRow& row, Index x, Index c, Lanes lanes, Vector bias) {
  for (; x + kColumns <= row.columns; x += kColumns) {
    depthwise_columns<kWindow, kStride, kColumns>(row, x, c, lanes, bias);
  }
  if constexpr (kColumns > 1) depthwise_blocks<kWindow, kStride, kColumns / 2>(row, x, c, lanes, bias);
}

template <int kWindow, int kStride>
void depthwise_row(const DepthwiseRow& row) {
  Index c = 0;
  for (; c + kLanes <= row.channels; c += kLanes) {
    depthwise_blocks<kWindow, kStride, 8>(row, 0, c, WholeVector{}, load(row.bias + c));
  }
  if (const Index left = row.channels - c; left > 0) {
    depthwise_blocks<kWindow, kStride, 2>(row, 0, c, PartOfVector{left}, load_part(row.bias + c, left));
  }
}

// Where the vectors of a row of a plane stand: how they read the three taps of a window's row around p, and
// write.
struct AmidRow {
  Vector left(const float* p) const { return load(p - 1); }
  Vector centre(const float* p) const { return load(p); }
  Vector right(const float* p) const { return load(p + 1); }
  void store(float* p, Vector v) const { kernels::PYCONV_ISA_LEVEL::store(p, v); }
};
struct BeginOfRow : AmidRow {
  Vector left(const float* p) const { return load_after_zero(p, kLanes); }
};
struct EndOfRow : AmidRow {
  Vector right(const float* p) const { return load_part(p + 1, kLanes - 1); }
};
struct WholeRow {
  Index width;  // at most a vector's
  Vector left(const float* p) const { return load_after_zero(p, width); }
  Vector centre(const float* p) const { return load_part(p, width); }
  Vector right(const float* p) const { return load_part(p + 1, width - 1); }
  void store(float* p, Vector v) const { store_part(p, v, width); }
};

// A vector of each of kRows rows of the output, so that a row of x is read once for its three windows.
template <int kRows>
class PlaneRows {
 public:
  PlaneRows(const DepthwisePlane& plane, const Vector (&weights)[9], Index row)
      : weights_(weights),
        bias_(splat(plane.bias)),
        lowest_(splat(plane.lowest)),
        highest_(splat(plane.highest)),
        width_(plane.width),
        out_(plane.out + row * plane.width) {
    for (int u = 0; u < kRows + 2; ++u) {
      const Index i = plane.first + row + u;
      rows_[u] = i < 0 || i >= plane.height ? plane.zeros : plane.x + i * plane.width;
    }
  }

  template <class Place>
  void compute(Index j, Place place) const {
    Vector sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = bias_;
#pragma GCC unroll 8
    for (int u = 0; u < kRows + 2; ++u) {
      const float* p = rows_[u] + j;
      // Held apart, or the compiler would read them from memory again for each of their products.
      const Vector taps[3] = {apart(place.left(p)), apart(place.centre(p)), apart(place.right(p))};
#pragma GCC unroll 3
      for (int v = 0; v < 3; ++v) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          if (u - r >= 0 && u - r < 3) sums[r] += taps[v] * weights_[(u - r) * 3 + v];
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      place.store(out_ + r * width_ + j, at_most(at_least(sums[r], lowest_), highest_));
    }
  }

 private:
  const Vector (&weights_)[9];
  Vector bias_, lowest_, highest_;
  Index width_;
  float* out_;
  const float* rows_[kRows + 2];
};

// Blocks of kRows rows of the output from `row` on, then of half as many, and so on.
template <int kRows>
inline void depthwise_plane_rows(const DepthwisePlane& plane, const Vector (&weights)[9], Index row) {
  for (; row + kRows <= plane.rows; row += kRows) {
    const PlaneRows<kRows> rows(plane, weights, row);
    if (plane.width <= kLanes) {
      rows.compute(0, WholeRow{plane.width});
      continue;
    }
    rows.compute(0, BeginOfRow{});
    Index j = kLanes;
    for (; j + kLanes < plane.width; j += kLanes) rows.compute(j, AmidRow{});
    // Its first columns may be computed twice, to the same bits.
    rows.compute(plane.width - kLanes, EndOfRow{});
  }
  if constexpr (kRows > 1) depthwise_plane_rows<kRows / 2>(plane, weights, row);
}

void depthwise_plane(const DepthwisePlane& plane) {
  Vector weights[9];
  for (int t = 0; t < 9; ++t) weights[t] = splat(plane.weights[t]);
  depthwise_plane_rows<4>(plane, weights, 0);
}

void max_pool(const float* const* taps, Index count, Index channels, float* out) {
  Index c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Vector most = load(taps[0] + c);
    for (Index t = 1; t < count; ++t) most = maximum(most, load(taps[t] + c));
    store(out + c, most);
  }
  if (const Index left = channels - c; left > 0) {
    Vector most = load_part(taps[0] + c, left);
    for (Index t = 1; t < count; ++t) most = maximum(most, load_part(taps[t] + c, left));
    store_part(out + c, most, left);
  }
}

void average_pool(const float* const* taps, Index count, Index channels, float scale, float* out) {
  Index c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Vector sum = load(taps[0] + c);
    for (Index t = 1; t < count; ++t) sum += load(taps[t] + c);
    store(out + c, sum * scale);
  }
  for (; c < channels; ++c) {
    float sum = taps[0][c];
    for (Index t = 1; t < count; ++t) sum += taps[t][c];
    out[c] = sum * scale;
  }
}

// Sizes of 0 are not known to the compiler; the window of two by two, which nearly every small network
// has, is compiled apart and unrolled.
template <int kHeight, int kWidth, class Combine>
inline void pool_row(const PoolRow& row, Combine combine, Vector scale) {
  const Index height = kHeight > 0 ? kHeight : row.height;
  const Index width = kWidth > 0 ? kWidth : row.width;
  const float* corner = row.map;
  float* out = row.out;
  for (Index j = 0; j < row.columns; ++j, corner += row.stride * row.channels, out += row.out_step) {
    Index c = 0;
    for (; c + kLanes <= row.channels; c += kLanes) {
      Vector result = load(corner + c);
      for (Index u = 0; u < height; ++u) {
        for (Index v = u == 0 ? 1 : 0; v < width; ++v) {
          result = combine(result, load(corner + u * row.row_pitch + v * row.channels + c));
        }
      }
      store(out + c, result * scale);
    }
    if (const Index left = row.channels - c; left > 0) {
      Vector result = load_part(corner + c, left);
      for (Index u = 0; u < height; ++u) {
        for (Index v = u == 0 ? 1 : 0; v < width; ++v) {
          result = combine(result, load_part(corner + u * row.row_pitch + v * row.channels + c, left));
        }
      }
      store_part(out + c, result * scale, left);
    }
  }
}

void max_pool_row(const PoolRow& row) {
  const auto most = [](Vector a, Vector b) { return maximum(a, b); };
  if (row.height == 2 && row.width == 2) {
    pool_row<2, 2>(row, most, splat(1.0F));
  } else {
    pool_row<0, 0>(row, most, splat(1.0F));
  }
}

void average_pool_row(const PoolRow& row) {
  const auto sum = [](Vector a, Vector b) { return a + b; };
  if (row.height == 2 && row.width == 2) {
    pool_row<2, 2>(row, sum, splat(row.scale));
  } else {
    pool_row<0, 0>(row, sum, splat(row.scale));
  }
}

// -- Functions of one number -------------------------------------------------------------------

// p * 2^n for whole n beyond all exponents, which overflows to infinity and underflows to zero by itself.
#if defined(__AVX512F__)
inline Vector scaled(Vector p, Vector n) { return _mm512_maskz_scalef_ps(0xFFFF, p, n); }
#else
inline Vector power_of_two(IntVector n) { return reinterpret_cast<Vector>((n + 127) << 23); }
inline Vector scaled(Vector p, Vector n) {
  // NaN has no integer; any will do where p is NaN and stays so.
  const IntVector whole = __builtin_convertvector(n == n ? n : Vector{}, IntVector);
  const IntVector half = whole >> 1;
  return p * power_of_two(half) * power_of_two(whole - half);
}
#endif

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by the polynomial of Cephes' expf
// (S. L. Moshier).
inline Vector exponential(Vector x) {
  x = at_most(at_least(x, splat(-104.0F)), splat(89.0F));
  const Vector magic = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const Vector n = (x * 1.44269504F + magic) - magic;
  const Vector r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  Vector p = splat(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  return scaled(p * r * r + r + 1.0F, n);
}

inline Vector absolute(Vector x) { return x < 0.0F ? -x : x; }

inline Vector sigmoid(Vector x) { return 1.0F / (1.0F + exponential(-x)); }

// Cephes' tanhf: a polynomial near zero, where 1 - 2 / (e^2x + 1) would cancel.
inline Vector hyperbolic_tangent(Vector x) {
  const Vector size = absolute(x);
  const Vector z = x * x;
  Vector p = splat(-5.70498872745e-3F);
  p = p * z + 2.06390887954e-2F;
  p = p * z - 5.37397155531e-2F;
  p = p * z + 1.33314422036e-1F;
  p = p * z - 3.33332819422e-1F;
  const Vector near = p * z * x + x;
  const Vector far = 1.0F - 2.0F / (exponential(size + size) + 1.0F);
  return size < 0.625F ? near : (x < 0.0F ? -far : far);
}

// Near zero Cephes' erff; elsewhere formula 7.1.26 of Abramowitz and Stegun, whose error is 1.5e-7.
inline Vector error_function(Vector x) {
  const Vector size = absolute(x);
  const Vector z = x * x;
  Vector p = splat(7.853861353153693e-5F);
  p = p * z - 8.010193625184903e-4F;
  p = p * z + 5.188327685732524e-3F;
  p = p * z - 2.685381193529856e-2F;
  p = p * z + 1.128358514861418e-1F;
  p = p * z - 3.761262582423300e-1F;
  p = p * z + 1.128379165726710F;
  const Vector near = p * x;
  const Vector t = 1.0F / (1.0F + 0.3275911F * size);
  Vector q = splat(1.061405429F);
  q = q * t - 1.453152027F;
  q = q * t + 1.421413741F;
  q = q * t - 0.284496736F;
  q = q * t + 0.254829592F;
  const Vector far = 1.0F - q * t * exponential(-z);
  return size < 1.0F ? near : (x < 0.0F ? -far : far);
}

// The nearest multiple of the scale, ties to the even one, of the 256 that a byte can count: from `below` of
// them below zero upwards. What ONNX's QuantizeLinear and DequantizeLinear make of x together.
inline Vector quantized_steps(Vector x, Vector scale, Vector below) {
  // Clamped first, since adding the magic number, 1.5 * 2^23, rounds only what is far below it.
  const Vector steps = at_most(at_least(x / scale, -below), 255.0F - below);
  const Vector magic = splat(12582912.0F);
  return (steps + magic) - magic;
}

template <class F>
inline void map(const float* x, float* y, Index count, F f) {
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, f(load(x + i)));
  if (i < count) store_part(y + i, f(load_part(x + i, count - i)), count - i);
}

template <class F>
inline void map_scalar(const float* x, float* y, Index count, F f) {
  for (Index i = 0; i < count; ++i) y[i] = f(x[i]);
}

inline float softplus(float x) { return x > 0.0F ? x + log1pf(expf(-x)) : log1pf(expf(x)); }

void activate(Activation function, float alpha, float beta, const float* x, float* y, Index count) {
  const Vector a = splat(alpha);
  const Vector b = splat(beta);
  switch (function) {
    case Activation::kLinear:
      return map(x, y, count, [](Vector v) { return v; });
    case Activation::kClip:
      return map(x, y, count, [=](Vector v) { return at_most(at_least(v, a), b); });
    case Activation::kLeakyRelu:
      return map(x, y, count, [=](Vector v) { return v < 0.0F ? a * v : v; });
    case Activation::kElu:
      return map(x, y, count, [=](Vector v) { return v < 0.0F ? a * (exponential(v) - 1.0F) : v; });
    case Activation::kSelu:
      return map(x, y, count, [=](Vector v) { return b * (v < 0.0F ? a * (exponential(v) - 1.0F) : v); });
    case Activation::kSigmoid:
      return map(x, y, count, [](Vector v) { return sigmoid(v); });
    case Activation::kTanh:
      return map(x, y, count, [](Vector v) { return hyperbolic_tangent(v); });
    case Activation::kSoftplus:
      return map_scalar(x, y, count, [](float v) { return softplus(v); });
    case Activation::kSoftsign:
      return map(x, y, count, [](Vector v) { return v / (1.0F + absolute(v)); });
    case Activation::kSwish:
      return map(x, y, count, [=](Vector v) { return v / (1.0F + exponential(-a * v)); });
    case Activation::kHardSigmoid:
      return map(x, y, count, [=](Vector v) { return at_most(at_least(a * v + b, Vector{}), splat(1.0F)); });
    case Activation::kHardSwish:
      return map(x, y, count, [](Vector v) {
        return v * at_most(at_least(v * (1.0F / 6.0F) + 0.5F, Vector{}), splat(1.0F));
      });
    case Activation::kGelu:
      return map(x, y, count, [](Vector v) { return 0.5F * v * (1.0F + error_function(v * 0.707106781F)); });
    case Activation::kGeluTanh:
      return map(x, y, count, [](Vector v) {
        return 0.5F * v * (1.0F + hyperbolic_tangent(0.797884561F * (v + 0.044715F * v * v * v)));
      });
    case Activation::kMish:
      return map_scalar(x, y, count, [](float v) { return v * tanhf(softplus(v)); });
    case Activation::kExp:
      return map(x, y, count, [](Vector v) { return exponential(v); });
    case Activation::kLog:
      return map_scalar(x, y, count, [](float v) { return logf(v); });
    case Activation::kSqrt:
      return map_scalar(x, y, count, [](float v) { return sqrtf(v); });
    case Activation::kAbs:
      return map(x, y, count, [](Vector v) { return absolute(v); });
    case Activation::kNegative:
      return map(x, y, count, [](Vector v) { return -v; });
    case Activation::kReciprocal:
      return map(x, y, count, [](Vector v) { return 1.0F / v; });
    case Activation::kErf:
      return map(x, y, count, [](Vector v) { return error_function(v); });
    case Activation::kQuantize:
      return map(x, y, count, [=](Vector v) { return a * quantized_steps(v, a, b); });
  }
}

// -- Functions of two numbers ------------------------------------------------------------------

template <class F>
inline void combine(const float* a, Index a_step, const float* b, Index b_step, float* y, Index count, F f) {
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector left = a_step == 0 ? splat(*a) : load(a + i);
    const Vector right = b_step == 0 ? splat(*b) : load(b + i);
    store(y + i, f(left, right));
  }
  if (const Index left_over = count - i; left_over > 0) {
    const Vector left = a_step == 0 ? splat(*a) : load_part(a + i, left_over);
    const Vector right = b_step == 0 ? splat(*b) : load_part(b + i, left_over);
    store_part(y + i, f(left, right), left_over);
  }
}

void binary(Binary function, const float* a, Index a_step, const float* b, Index b_step, float* y,
            Index count) {
  switch (function) {
    case Binary::kAdd:
      return combine(a, a_step, b, b_step, y, count, [](Vector u, Vector v) { return u + v; });
    case Binary::kSubtract:
      return combine(a, a_step, b, b_step, y, count, [](Vector u, Vector v) { return u - v; });
    case Binary::kMultiply:
      return combine(a, a_step, b, b_step, y, count, [](Vector u, Vector v) { return u * v; });
    case Binary::kDivide:
      return combine(a, a_step, b, b_step, y, count, [](Vector u, Vector v) { return u / v; });
    case Binary::kMaximum:
      return combine(a, a_step, b, b_step, y, count, [](Vector u, Vector v) { return maximum(u, v); });
    case Binary::kMinimum:
      return combine(a, a_step, b, b_step, y, count, [](Vector u, Vector v) { return minimum(u, v); });
    case Binary::kPower:
      for (Index i = 0; i < count; ++i) y[i] = powf(a[i * a_step], b[i * b_step]);
      return;
  }
}

// -- Transposing -------------------------------------------------------------------------------

#if defined(__AVX__)
// Eight rows of eight floats in registers: pairs, then pairs of pairs, then halves of a register are
// exchanged.
constexpr Index kTransposed = 8;
inline void transpose_tile(const float* x, Index x_pitch, float* y, Index y_pitch) {
  __m256 rows[8], pairs[8], fours[8];
  for (int r = 0; r < 8; ++r) rows[r] = _mm256_loadu_ps(x + r * x_pitch);
  for (int r = 0; r < 8; r += 2) {
    pairs[r] = _mm256_unpacklo_ps(rows[r], rows[r + 1]);
    pairs[r + 1] = _mm256_unpackhi_ps(rows[r], rows[r + 1]);
  }
  for (int r = 0; r < 8; r += 4) {
    for (int i = 0; i < 2; ++i) {
      fours[r + 2 * i] = _mm256_shuffle_ps(pairs[r + i], pairs[r + i + 2], 0x44);
      fours[r + 2 * i + 1] = _mm256_shuffle_ps(pairs[r + i], pairs[r + i + 2], 0xEE);
    }
  }
  for (int r = 0; r < 4; ++r) {
    _mm256_storeu_ps(y + r * y_pitch, _mm256_permute2f128_ps(fours[r], fours[r + 4], 0x20));
    _mm256_storeu_ps(y + (r + 4) * y_pitch, _mm256_permute2f128_ps(fours[r], fours[r + 4], 0x31));
  }
}
#else
constexpr Index kTransposed = 4;
inline void transpose_tile(const float* x, Index x_pitch, float* y, Index y_pitch) {
  for (Index r = 0; r < 4; ++r) {
    for (Index c = 0; c < 4; ++c) y[c * y_pitch + r] = x[r * x_pitch + c];
  }
}
#endif

// A strip of columns that is a cache line wide goes down all rows, so that each line of x is read once. The
// rows lie far apart, in more places than a core can fetch ahead from by itself, so the next strip is asked
// for.
void transpose(const float* x, Index x_pitch, Index rows, Index columns, float* y, Index y_pitch) {
  constexpr Index kStrip = 16;
  const auto rest = [=](Index r, Index r_end, Index c, Index c_end) {
    for (; r < r_end; ++r) {
      for (Index i = c; i < c_end; ++i) y[i * y_pitch + r] = x[r * x_pitch + i];
    }
  };
  for (Index strip = 0; strip < columns; strip += kStrip) {
    const Index end = strip + kStrip < columns ? strip + kStrip : columns;
    Index r = 0;
    for (; r + kTransposed <= rows; r += kTransposed) {
      for (Index i = 0; i < kTransposed; ++i) __builtin_prefetch(x + (r + i) * x_pitch + end, 0, 3);
      Index c = strip;
      for (; c + kTransposed <= end; c += kTransposed) {
        transpose_tile(x + r * x_pitch + c, x_pitch, y + c * y_pitch + r, y_pitch);
      }
      rest(r, r + kTransposed, c, end);
    }
    rest(r, rows, strip, end);
  }
}

// -- Rows --------------------------------------------------------------------------------------

// One number of all lanes, which are put together by halves: lane i with lane i ^ n, n halving.
template <class F>
inline float across(Vector v, F f) {
#if defined(__AVX512F__)
  // Masked, with all of the mask set: g++ warns of what its own unmasked ones leave open.
  v = f(v, _mm512_maskz_shuffle_f32x4(0xFFFF, v, v, 0x4E));
  v = f(v, _mm512_maskz_shuffle_f32x4(0xFFFF, v, v, 0xB1));
  v = f(v, _mm512_maskz_shuffle_ps(0xFFFF, v, v, 0x4E));
  v = f(v, _mm512_maskz_shuffle_ps(0xFFFF, v, v, 0xB1));
#elif defined(__AVX__)
  v = f(v, _mm256_permute2f128_ps(v, v, 0x01));
  v = f(v, _mm256_shuffle_ps(v, v, 0x4E));
  v = f(v, _mm256_shuffle_ps(v, v, 0xB1));
#else
  v = f(v, Vector{v[2], v[3], v[0], v[1]});
  v = f(v, Vector{v[1], v[0], v[3], v[2]});
#endif
  return v[0];
}

// The first `count` lanes of v, fewer than a vector; the others are `otherwise`.
inline Vector first_of(Vector v, Index count, Vector otherwise) {
  IntVector lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < static_cast<std::int32_t>(count) ? v : otherwise;
}

// The sum of f(x[i]): in float32 as long as no lane adds up more than 16 of them, and then in double
// precision.
template <class F>
inline double sum_of(const float* x, Index count, F f) {
  constexpr int kChains = 4;  // an addition waits for the one before it
  double total = 0.0;
  Index i = 0;
  do {
    const Index block = i + 16 * kChains * kLanes;
    const Index end = block < count ? block : count;
    Vector sums[kChains] = {};
    for (; i + kChains * kLanes <= end; i += kChains * kLanes) {
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) sums[c] += f(load(x + i + c * kLanes));
    }
    for (; i + kLanes <= end; i += kLanes) sums[0] += f(load(x + i));
    if (i < end) sums[1] += first_of(f(load_part(x + i, end - i)), end - i, Vector{});
    i = end;
    const Vector sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    total += static_cast<double>(across(sum, [](Vector a, Vector b) { return a + b; }));
  } while (i < count);
  return total;
}

// Rows of fewer elements are taken side by side, as many as a vector has lanes.
constexpr Index kShortRow = kLanes < 8 ? 8 : kLanes;

// Element 0 of each of them.
inline Vector column(const float* x, Index pitch) {
  Vector v{};
  for (int i = 0; i < kLanes; ++i) v[i] = x[i * pitch];
  return v;
}

void sum_rows(const float* x, Index rows, Index count, double scale, float* y) {
  Index r = 0;
  if (count < kShortRow) {
    // Those that are left are added up in the same order.
    const auto factor = static_cast<float>(scale);
    for (; r + kLanes <= rows; r += kLanes, x += kLanes * count) {
      Vector sum = column(x, count);
      for (Index i = 1; i < count; ++i) sum += column(x + i, count);
      store(y + r, sum * factor);
    }
    for (; r < rows; ++r, x += count) {
      float sum = x[0];
      for (Index i = 1; i < count; ++i) sum += x[i];
      y[r] = sum * factor;
    }
    return;
  }
  for (; r < rows; ++r, x += count) {
    y[r] = static_cast<float>(scale * sum_of(x, count, [](Vector v) { return v; }));
  }
}

// The greatest or the least of a row; NaN where any is.
template <bool kMax>
inline float extreme_of(const float* x, Index count) {
  const auto further = [](Vector a, Vector b) { return kMax ? at_least(a, b) : at_most(a, b); };
  // Of a short row the first element, and of a longer one some of the last, are read twice.
  const bool is_short = count < kLanes;
  Vector best[2] = {is_short ? first_of(load_part(x, count), count, splat(x[0])) : load(x), {}};
  best[1] = is_short ? best[0] : load(x + count - kLanes);
  IntVector nan = unordered(best[0], best[1]);
  Index i = kLanes;
  for (; i + 2 * kLanes < count; i += 2 * kLanes) {
    const Vector a = load(x + i), b = load(x + i + kLanes);
    nan |= unordered(a, b);
    best[0] = further(best[0], a);
    best[1] = further(best[1], b);
  }
  if (i + kLanes < count) {
    const Vector a = load(x + i);
    nan |= unordered(a, a);
    best[0] = further(best[0], a);
  }
  if (any(nan)) return __builtin_nanf("");
  return across(further(best[0], best[1]), further);
}

template <bool kMax>
void extreme_rows(const float* x, Index rows, Index count, float* y) {
  Index r = 0;
  if (count < kShortRow) {
    for (; r + kLanes <= rows; r += kLanes) {
      Vector best = column(x + r * count, count);
      for (Index i = 1; i < count; ++i) {
        const Vector v = column(x + r * count + i, count);
        best = kMax ? maximum(best, v) : minimum(best, v);
      }
      store(y + r, best);
    }
  }
  for (; r < rows; ++r) y[r] = extreme_of<kMax>(x + r * count, count);
}

void normalize_rows(const float* x, Index rows, Index count, float epsilon, const float* scale,
                    const float* bias, float* y) {
  const auto elements = static_cast<double>(count);
  for (Index r = 0; r < rows; ++r, x += count, y += count) {
    const Vector mean = splat(static_cast<float>(sum_of(x, count, [](Vector v) { return v; }) / elements));
    const double squares = sum_of(x, count, [=](Vector v) { return (v - mean) * (v - mean); });
    const Vector factor = splat(1.0F / sqrtf(static_cast<float>(squares / elements) + epsilon));
    Index i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      store(y + i, (load(x + i) - mean) * factor * load(scale + i) + load(bias + i));
    }
    if (const Index left = count - i; left > 0) {
      const Vector v = (load_part(x + i, left) - mean) * factor * load_part(scale + i, left);
      store_part(y + i, v + load_part(bias + i, left), left);
    }
  }
}

// -- Softmax -----------------------------------------------------------------------------------

void softmax(const float* x, float* y, Index count, bool logarithm) {
  // The greatest element is subtracted first, so that no exponential overflows.
  const Vector shift = splat(extreme_of<true>(x, count));
  map(x, y, count, [=](Vector v) { return exponential(v - shift); });
  const auto sum = static_cast<float>(sum_of(y, count, [](Vector v) { return v; }));
  if (logarithm) {
    // Not in one step: most + log(sum) would round away what is left of the elements near `most`.
    const Vector total = splat(logf(sum));
    map(x, y, count, [=](Vector v) { return (v - shift) - total; });
  } else {
    const Vector scale = splat(1.0F / sum);
    map(y, y, count, [=](Vector v) { return v * scale; });
  }
}

// -- Products with narrow weights --------------------------------------------------------------

typedef std::int8_t Bytes __attribute__((vector_size(kLanes)));
typedef std::int8_t BytePairs __attribute__((vector_size(kLanes * 2)));
typedef std::int16_t Shorts __attribute__((vector_size(kLanes * 2)));
typedef std::int16_t ShortPairs __attribute__((vector_size(kLanes * 4)));

// A vector of any type from memory without alignment.
template <class V>
inline V load_as(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// kLanes bytes as floats, twice as many as int16, and sums of products of neighbours: lane i is
// a[2i] * b[2i] + a[2i + 1] * b[2i + 1]. By name, since g++ widens vectors piece by piece.
#if defined(__AVX512BW__)
// Masked, with all of the mask set: g++ warns of what its own unmasked ones leave open.
inline Vector load_bytes(const char* p) {
  const __m512i words = _mm512_maskz_cvtepi8_epi32(0xFFFF, load_as<__m128i>(p));
  return __builtin_convertvector(reinterpret_cast<IntVector>(words), Vector);
}
inline ShortPairs load_byte_pairs(const char* p) {
  return reinterpret_cast<ShortPairs>(_mm512_maskz_cvtepi8_epi16(0xFFFFFFFF, load_as<__m256i>(p)));
}
inline IntVector multiply_pairs(ShortPairs a, ShortPairs b) {
  return reinterpret_cast<IntVector>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
#elif defined(__AVX2__)
inline Vector load_bytes(const char* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline ShortPairs load_byte_pairs(const char* p) {
  return reinterpret_cast<ShortPairs>(_mm256_cvtepi8_epi16(load_as<__m128i>(p)));
}
inline IntVector multiply_pairs(ShortPairs a, ShortPairs b) {
  return reinterpret_cast<IntVector>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#else
inline Vector load_bytes(const char* p) { return __builtin_convertvector(load_as<Bytes>(p), Vector); }
inline ShortPairs load_byte_pairs(const char* p) {
  return __builtin_convertvector(load_as<BytePairs>(p), ShortPairs);
}
inline IntVector multiply_pairs(ShortPairs a, ShortPairs b) {
#if defined(__SSE2__)
  return reinterpret_cast<IntVector>(
      _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  const IntVector u = reinterpret_cast<IntVector>(a), v = reinterpret_cast<IntVector>(b);
  return (u << 16 >> 16) * (v << 16 >> 16) + (u >> 16) * (v >> 16);
#endif
}
#endif

// The two vectors of a strip, or of several beside each other, at one group of rows: vector v of the block.
template <class Weights>
inline const char* strip_vector(const char* group, Index strip_bytes, int v) {
  return group + v / 2 * strip_bytes + v % 2 * kLanes * Weights::kGroup * Weights::kBytes;
}

// Each of these adds to sums[r][v] what one group of rows of the matrix gives with `left` elements of each
// row of x: all of a group's, or fewer at the end.
struct Bfloat16Weights {
  static constexpr int kGroup = 2;
  static constexpr int kBytes = 2;
  using X = float;
  using Sum = Vector;

  template <int kRows, int kVectors>
  static void add(const float* x, Index pitch, const char* group, Index strip_bytes, Index left,
                  Sum (&sums)[kRows][kVectors]) {
    // All weights of one row of the matrix before those of the next: fewer of them are held at once.
    Vector weights[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const auto pair = load_as<IntVector>(strip_vector<Bfloat16Weights>(group, strip_bytes, v));
      weights[v] = reinterpret_cast<Vector>(pair << 16);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vector factor = splat(x[r * pitch]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * weights[v];
    }
    if (left < kGroup) return;
    for (int v = 0; v < kVectors; ++v) {
      const auto pair = load_as<IntVector>(strip_vector<Bfloat16Weights>(group, strip_bytes, v));
      weights[v] = reinterpret_cast<Vector>(pair & ~0xFFFF);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vector factor = splat(x[r * pitch + 1]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * weights[v];
    }
  }
};

struct Int8Weights {
  static constexpr int kGroup = 1;
  static constexpr int kBytes = 1;
  using X = float;
  using Sum = Vector;

  template <int kRows, int kVectors>
  static void add(const float* x, Index pitch, const char* group, Index strip_bytes, Index,
                  Sum (&sums)[kRows][kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector weights = load_bytes(strip_vector<Int8Weights>(group, strip_bytes, v));
      for (int r = 0; r < kRows; ++r) sums[r][v] += splat(x[r * pitch]) * weights;
    }
  }
};

struct IntegerWeights {
  static constexpr int kGroup = 2;
  static constexpr int kBytes = 1;
  using X = std::int16_t;
  using Sum = IntVector;

  template <int kRows, int kVectors>
  static void add(const std::int16_t* x, Index pitch, const char* group, Index strip_bytes, Index,
                  Sum (&sums)[kRows][kVectors]) {
    ShortPairs pairs[kRows];
    for (int r = 0; r < kRows; ++r) {
      const auto pair = load_as<std::int32_t>(x + r * pitch);
      pairs[r] = reinterpret_cast<ShortPairs>(pair - IntVector{});
    }
    for (int v = 0; v < kVectors; ++v) {
      const ShortPairs weights = load_byte_pairs(strip_vector<IntegerWeights>(group, strip_bytes, v));
      for (int r = 0; r < kRows; ++r) sums[r][v] += multiply_pairs(pairs[r], weights);
    }
  }
};

template <class Weights, int kRows, int kVectors>
inline void narrow_block(const NarrowProduct& product, Index row, Index strip) {
  using X = typename Weights::X;
  constexpr Index kGroupBytes = 2 * kLanes * Weights::kGroup * Weights::kBytes;
  const char* group = static_cast<const char*>(product.matrix) + strip * product.strip_bytes;
  const X* x = static_cast<const X*>(product.x) + row * product.x_pitch;
  typename Weights::Sum sums[kRows][kVectors] = {};
  Index k = 0;
  for (; k + Weights::kGroup <= product.depth; k += Weights::kGroup, group += kGroupBytes) {
    Weights::template add<kRows, kVectors>(x + k, product.x_pitch, group, product.strip_bytes,
                                           Weights::kGroup, sums);
  }
  if (k < product.depth) {
    Weights::template add<kRows, kVectors>(x + k, product.x_pitch, group, product.strip_bytes, 1, sums);
  }

  const Vector lowest = splat(product.lowest), highest = splat(product.highest);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const Index column = strip * 2 * kLanes + v * kLanes;
    const Index left = product.columns - column;
    if (left <= 0) break;
    const Vector scale = load(product.scales + column), bias = load(product.bias + column);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector sum = __builtin_convertvector(sums[r][v], Vector) * scale + bias;
      const Vector y = at_most(at_least(sum, lowest), highest);
      float* out = product.out + (row + r) * product.out_pitch + column;
      if (left >= kLanes) {
        store(out, y);
      } else {
        store_part(out, y, left);
      }
    }
  }
}

// Blocks of kVectors vectors from `strip` on, then of half as many, and so on.
template <class Weights, int kRows, int kVectors>
inline void narrow_strips(const NarrowProduct& product, Index row, Index strip) {
  constexpr Index kStrips = kVectors / 2;
  const Index strips = (product.columns + 2 * kLanes - 1) / (2 * kLanes);
  for (; strip + kStrips <= strips; strip += kStrips) {
    narrow_block<Weights, kRows, kVectors>(product, row, strip);
  }
  if constexpr (kStrips > 1) narrow_strips<Weights, kRows, kVectors / 2>(product, row, strip);
}

// Eight sums at once hide the latency of multiply-adds and leave 16 registers room for their operands.
template <class Weights, int kRows>
inline void narrow_rows(const NarrowProduct& product, Index row) {
  for (; row + kRows <= product.rows; row += kRows) narrow_strips<Weights, kRows, 8 / kRows>(product, row, 0);
  if constexpr (kRows > 1) narrow_rows<Weights, kRows / 2>(product, row);
}

template <class Weights>
void narrow_product(const NarrowProduct& product) {
  narrow_rows<Weights, 4>(product, 0);
}

template <class Weights>
constexpr NarrowKernel narrow_kernel() {
  return {Weights::kGroup, &narrow_product<Weights>};
}

void quantize(const float* x, float scale, float below, std::int16_t* q, Index count) {
  const Vector step = splat(scale), levels = splat(below);
  const auto convert = [=](Vector v) {
    const Vector steps = quantized_steps(v, step, levels);
    // NaN is no integer; it counts as 0.
    return __builtin_convertvector(__builtin_convertvector(steps == steps ? steps : Vector{}, IntVector),
                                   Shorts);
  };
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Shorts steps = convert(load(x + i));
    __builtin_memcpy(q + i, &steps, sizeof steps);
  }
  if (i < count) {
    const Shorts steps = convert(load_part(x + i, count - i));
    for (Index j = 0; i + j < count; ++j) q[i + j] = steps[j];
  }
}

// -- The machine's limit -----------------------------------------------------------------------

float saturate(Index iterations) {
  // Independent chains, enough to hide the latency of a fused multiply-add and few enough to stay in
  // 16 registers beside the factor.
  Vector sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = splat(static_cast<float>(i));
  const Vector factor = splat(0.999F);
  for (Index n = 0; n < iterations; ++n) {
    for (int i = 0; i < 12; ++i) sums[i] = sums[i] * factor + factor;
  }
  Vector total = sums[0];
  for (int i = 1; i < 12; ++i) total += sums[i];
  return total[0];
}

// -- The table ---------------------------------------------------------------------------------

template <int kVectors, int kRows>
constexpr MatrixKernel matrix_kernel() {
  if constexpr (kRows <= rows_that_fit(kVectors)) {
    return &matrix_tile<kRows, kVectors>;
  } else {
    return nullptr;
  }
}

#define PYCONV_MATRIX_KERNELS(v)                                                               \
  {matrix_kernel<v, 1>(), matrix_kernel<v, 2>(), matrix_kernel<v, 3>(), matrix_kernel<v, 4>(), \
   matrix_kernel<v, 5>(), matrix_kernel<v, 6>(), matrix_kernel<v, 7>(), matrix_kernel<v, 8>()}

constexpr KernelTable kTable = {
    PYCONV_TEXT(PYCONV_ISA_LEVEL),
    kLanes,
    {rows_that_fit(1), rows_that_fit(2)},
    {PYCONV_MATRIX_KERNELS(1), PYCONV_MATRIX_KERNELS(2)},
    {&matrix_block<1>, &matrix_block<2>},
    {stencil<3, 3>(), stencil<5, 5>(), stencil<3, 9>()},
    {winograd<2>(), winograd<4>(), winograd<5>()},
    &winograd_stencil_pooled,
    {{3, 1, &depthwise_row<3, 1>},
     {3, 2, &depthwise_row<3, 2>},
     {5, 1, &depthwise_row<5, 1>},
     {5, 2, &depthwise_row<5, 2>}},
    &depthwise,
    &depthwise_plane,
    &max_pool,
    &average_pool,
    &max_pool_row,
    &average_pool_row,
    &activate,
    &binary,
    &transpose,
    &sum_rows,
    &extreme_rows<true>,
    &extreme_rows<false>,
    &normalize_rows,
    &softmax,
    narrow_kernel<Bfloat16Weights>(),
    narrow_kernel<Int8Weights>(),
    narrow_kernel<IntegerWeights>(),
    &quantize,
    &saturate,
};

}  // namespace

const KernelTable& table() { return kTable; }

}  // namespace pyconv::kernels::PYCONV_ISA_LEVEL
