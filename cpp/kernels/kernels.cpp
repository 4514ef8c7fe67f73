// The micro-kernels, one source for all ISA levels: the compiler's vector extensions give each level its
// own width. See kernels.h for the contract and docs/architecture.md for why nothing of the STL may be
// used here.
#include "kernels/kernels.h"

#include <math.h>

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

inline Vector load_part(const float* p, Index count) {
  Vector v{};
  for (Index i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
inline void store_part(float* p, Vector v, Index count) {
  for (Index i = 0; i < count; ++i) p[i] = v[i];
}

// Both return x where x is NaN: a NaN passes through every clamp.
inline Vector at_least(Vector x, Vector bound) { return x < bound ? bound : x; }
inline Vector at_most(Vector x, Vector bound) { return x > bound ? bound : x; }

// -- Matrix product ----------------------------------------------------------------------------

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

  const Vector lowest = splat(tile.lowest);
  const Vector highest = splat(tile.highest);
  for (int r = 0; r < kRows; ++r) {
    float* out = tile.out + r * tile.out_pitch;
    for (int v = 0; v < kVectors; ++v) {
      const Vector y = at_most(at_least(sums[r][v], lowest), highest);
      const int left = tile.columns - v * kLanes;
      if (left >= kLanes) {
        store(out + v * kLanes, y);
      } else {
        store_part(out + v * kLanes, y, left);
      }
    }
  }
}

// The sums, the weights and the broadcast value of a tile stay in registers.
constexpr int rows_that_fit(int vectors) {
  const int rows = (kRegisters - vectors - 1) / vectors;
  return rows > kMaxMatrixRows ? kMaxMatrixRows : rows;
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
    for (int p = 0; p < kPool; ++p) {
      for (int q = 0; q < kPool; ++q) most = at_least(most, sums[c][p][q]);
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

template <class Load, class Store>
inline void winograd_transform_input(Load load_pixel, Store store_plane) {
  Vector rows[4][4];
  for (int j = 0; j < 4; ++j) {
    const Vector d0 = load_pixel(j), d1 = load_pixel(4 + j), d2 = load_pixel(8 + j), d3 = load_pixel(12 + j);
    rows[0][j] = d0 - d2;
    rows[1][j] = d1 + d2;
    rows[2][j] = d2 - d1;
    rows[3][j] = d1 - d3;
  }
  for (int i = 0; i < 4; ++i) {
    store_plane(4 * i, rows[i][0] - rows[i][2]);
    store_plane(4 * i + 1, rows[i][1] + rows[i][2]);
    store_plane(4 * i + 2, rows[i][2] - rows[i][1]);
    store_plane(4 * i + 3, rows[i][1] - rows[i][3]);
  }
}

void winograd_input(const WinogradInput& tile) {
  Index c = 0;
  for (; c + kLanes <= tile.channels; c += kLanes) {
    winograd_transform_input([&](int p) { return load(tile.pixels[p] + c); },
                             [&](int p, Vector v) { store(tile.planes + p * tile.plane_pitch + c, v); });
  }
  if (const Index left = tile.channels - c; left > 0) {
    winograd_transform_input(
        [&](int p) { return load_part(tile.pixels[p] + c, left); },
        [&](int p, Vector v) { store_part(tile.planes + p * tile.plane_pitch + c, v, left); });
  }
}

template <bool kPooled>
void winograd_output(const WinogradOutput& row) {
  const Vector lowest = splat(row.lowest);
  const Vector highest = splat(row.highest);
  for (Index c = 0; c < row.channels; c += kLanes) {
    const Index lanes = row.channels - c < kLanes ? row.channels - c : kLanes;
    const Vector bias = load(row.bias + c);
    const auto put = [&](float* out, Vector v) {
      const Vector y = at_most(at_least(v + bias, lowest), highest);
      if (lanes == kLanes) {
        store(out + c, y);
      } else {
        store_part(out + c, y, lanes);
      }
    };
    for (Index t = 0; t < row.tiles; ++t) {
      const float* planes = row.planes + t * row.tile_pitch + c;
      Vector sums[2][4];
      for (int j = 0; j < 4; ++j) {
        const Vector m0 = load(planes + j * row.plane_pitch);
        const Vector m1 = load(planes + (4 + j) * row.plane_pitch);
        const Vector m2 = load(planes + (8 + j) * row.plane_pitch);
        const Vector m3 = load(planes + (12 + j) * row.plane_pitch);
        sums[0][j] = m0 + m1 + m2;
        sums[1][j] = m1 - m2 - m3;
      }
      Vector y[2][2];
      for (int i = 0; i < 2; ++i) {
        y[i][0] = sums[i][0] + sums[i][1] + sums[i][2];
        y[i][1] = sums[i][1] - sums[i][2] - sums[i][3];
      }
      if constexpr (kPooled) {
        put(row.out + t * row.column_pitch, at_least(at_least(y[0][0], y[0][1]), at_least(y[1][0], y[1][1])));
      } else {
        for (Index i = 0; i < row.rows; ++i) {
          float* out = row.out + i * row.row_pitch + 2 * t * row.column_pitch;
          put(out, y[i][0]);
          if (2 * t + 1 < row.columns) put(out + row.column_pitch, y[i][1]);
        }
      }
    }
  }
}

// -- Convolution and pooling of single pixels --------------------------------------------------

void depthwise(const DepthwisePixel& pixel) {
  const Vector lowest = splat(pixel.lowest);
  const Vector highest = splat(pixel.highest);
  Index c = 0;
  for (; c + kLanes <= pixel.channels; c += kLanes) {
    Vector sum = load(pixel.bias + c);
    for (Index t = 0; t < pixel.count; ++t) {
      sum += load(pixel.taps[t] + c) * load(pixel.weights + t * pixel.channels + c);
    }
    store(pixel.out + c, at_most(at_least(sum, lowest), highest));
  }
  if (const Index left = pixel.channels - c; left > 0) {
    Vector sum = load_part(pixel.bias + c, left);
    for (Index t = 0; t < pixel.count; ++t) {
      sum += load_part(pixel.taps[t] + c, left) * load_part(pixel.weights + t * pixel.channels + c, left);
    }
    store_part(pixel.out + c, at_most(at_least(sum, lowest), highest), left);
  }
}

void max_pool(const float* const* taps, Index count, Index channels, float* out) {
  Index c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Vector most = load(taps[0] + c);
    for (Index t = 1; t < count; ++t) most = at_least(most, load(taps[t] + c));
    store(out + c, most);
  }
  for (; c < channels; ++c) {
    float most = taps[0][c];
    for (Index t = 1; t < count; ++t) most = most < taps[t][c] ? taps[t][c] : most;
    out[c] = most;
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
  for (Index j = 0; j < row.columns; ++j, corner += row.stride * row.channels, out += row.channels) {
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
  const auto maximum = [](Vector a, Vector b) { return at_least(a, b); };
  if (row.height == 2 && row.width == 2) {
    pool_row<2, 2>(row, maximum, splat(1.0F));
  } else {
    pool_row<0, 0>(row, maximum, splat(1.0F));
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

inline Vector power_of_two(IntVector n) { return reinterpret_cast<Vector>((n + 127) << 23); }

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by the polynomial of Cephes' expf
// (S. L. Moshier). 2^n is multiplied in two halves, so that results near the ends of the range
// overflow to infinity and underflow to zero by themselves.
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
  p = p * r * r + r + 1.0F;
  // NaN has no integer; any will do, since p is NaN and stays so.
  const IntVector whole = __builtin_convertvector(n == n ? n : Vector{}, IntVector);
  const IntVector half = whole >> 1;
  return p * power_of_two(half) * power_of_two(whole - half);
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
      return map(x, y, count, [=](Vector v) { return v * sigmoid(a * v); });
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
    case Binary::kMaximum:  // a NaN on either side gives NaN
      return combine(a, a_step, b, b_step, y, count,
                     [](Vector u, Vector v) { return v != v ? v : at_least(u, v); });
    case Binary::kMinimum:
      return combine(a, a_step, b, b_step, y, count,
                     [](Vector u, Vector v) { return v != v ? v : at_most(u, v); });
    case Binary::kPower:
      for (Index i = 0; i < count; ++i) y[i] = powf(a[i * a_step], b[i * b_step]);
      return;
  }
}

// -- Softmax -----------------------------------------------------------------------------------

void softmax(const float* x, float* y, Index count, bool logarithm) {
  // The greatest element is subtracted first, so that no exponential overflows.
  float most = x[0];
  for (Index i = 1; i < count; ++i) most = most < x[i] ? x[i] : most;
  const Vector shift = splat(most);
  map(x, y, count, [=](Vector v) { return exponential(v - shift); });
  float sum = 0.0F;
  for (Index i = 0; i < count; ++i) sum += y[i];
  if (logarithm) {
    const Vector total = splat(most + logf(sum));
    map(x, y, count, [=](Vector v) { return v - total; });
  } else {
    const Vector scale = splat(1.0F / sum);
    map(y, y, count, [=](Vector v) { return v * scale; });
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
    {stencil<3, 3>(), stencil<5, 5>(), stencil<3, 9>()},
    &winograd_input,
    &winograd_output<false>,
    &winograd_output<true>,
    &depthwise,
    &max_pool,
    &average_pool,
    &max_pool_row,
    &average_pool_row,
    &activate,
    &binary,
    &softmax,
    &saturate,
};

}  // namespace

const KernelTable& table() { return kTable; }

}  // namespace pyconv::kernels::PYCONV_ISA_LEVEL
