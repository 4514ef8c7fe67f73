// The contract of the micro-kernels: one table of function pointers for each ISA level.
//
// kernels.cpp is compiled once for each level, with the level's compiler flags. It knows raw pointers
// and its own tile, nothing else: no STL, no exceptions, no threads, no operator. Everything around the
// inner loops (shapes, padding, packing, splitting the work) stands in cpp/ops and is compiled once, for
// the baseline CPU.
//
// All sizes, pitches and steps count floats. No pointer needs more alignment than a float's unless said.
#pragma once

#include <cstdint>

namespace pyconv::kernels {

// The most rows of any matrix tile. More were no faster where they fit in the registers: eight rows of
// two vectors reach the peak, and eight row pointers still fit in the integer registers.
inline constexpr int kMaxMatrixRows = 8;
// The most vectors across a panel.
inline constexpr int kMaxPanelVectors = 2;

// One tile of a matrix product with gathered rows, the indirect convolution of Dukhan, "The Indirect
// Convolution Algorithm" (2019): row r of the left matrix is the concatenation, over the taps t, of the
// `depth` floats at rows[t * R + r], where R is the number of rows of the tile.
//
//   out[r, j] = clamp(bias[j] + sum over t, k of rows[t * R + r][k] * panel[(t * depth + k) * W + j])
//
// for 0 <= j < columns, where W is the width of the panel. With one tap it is an ordinary product.
struct MatrixTile {
  const float* const* rows;  // taps * R pointers
  std::int64_t taps;
  std::int64_t depth;
  const float* panel;  // taps * depth * W floats, aligned to 64 bytes
  const float* bias;   // W floats, aligned to 64 bytes
  float* out;
  std::int64_t out_pitch;  // from a row of `out` to the next
  int columns;             // how many of the W columns to store, 1 to W
  float lowest;            // the bounds of clamp, -inf and inf for none; NaN passes through
  float highest;
};
using MatrixKernel = void (*)(const MatrixTile&);

// Any number of rows of a matrix product, which lie `x_pitch` apart, on panels that follow each other: panel
// p begins panel_pitch floats after the one before, has its bias behind its depth * W weights, and its sums
// go W columns further on. Without `finish` the bias is left out and nothing is clamped:
//
//   out[r * out_pitch + p * W + j] = clamp(bias_p[j] + sum over k of x[r * x_pitch + k] * panel_p[k * W + j])
//
// for 0 <= r < rows, 0 <= p < panels and 0 <= j < columns; columns < W only where there is one panel. A sum
// is taken over ascending k, however many rows there are. With `fetch`, what lies behind a panel is asked for
// while it is read, into the second-level cache.
struct MatrixBlock {
  const float* x;
  std::int64_t x_pitch;
  std::int64_t rows;
  std::int64_t depth;
  const float* panel;  // aligned to 64 bytes
  std::int64_t panels;
  std::int64_t panel_pitch;
  float* out;
  std::int64_t out_pitch;
  int columns;
  bool finish;
  bool fetch;
  float lowest;  // as for MatrixTile
  float highest;
};
using MatrixBlockKernel = void (*)(const MatrixBlock&);

// Winograd's minimal filtering F(m x m, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2016): a tile of m by m outputs of a 3x3 convolution takes n * n products, n = m + 2, in place
// of 9 * m * m. Element (i, j) of a transformed tile lies in plane n * i + j.
//
// The transforms are those of Toom and Cook at n - 1 finite points p and infinity: with M(x) the product of
// all x - p, row p of B^T holds the coefficients of M(x) / (x - p), and the last row those of M(x).
//
// The input's side: planes of B^T d B for the tile d of n by n pixels, `channels` floats each.
struct WinogradInput {
  const float* const* pixels;  // n * n pointers, row by row
  std::int64_t channels;
  float* planes;
  std::int64_t plane_pitch;  // from a plane to the next
};

// The output's side: A^T m A + bias, clamped, for tiles side by side. Plain: m rows of m pixels a tile, of
// which the map may hold fewer at its edges. Pooled: the maximum of every two by two of them.
struct WinogradOutput {
  const float* planes;
  std::int64_t plane_pitch;
  std::int64_t tile_pitch;  // from a tile to the next within a plane
  std::int64_t tiles;
  const float* bias;  // filled up to whole vectors
  int channels;       // of this panel
  float* out;
  std::int64_t row_pitch;     // from a row of pixels to the next
  std::int64_t column_pitch;  // from a pixel to the next
  std::int64_t rows;          // of pixels to store, at most what a tile has
  std::int64_t columns;       // pixels to store in a row, at most what all tiles have
  float lowest;
  float highest;
};

// The transforms for tiles of m by m outputs.
struct WinogradKernels {
  int tile;              // m
  const double* points;  // m + 1 of them
  void (*input)(const WinogradInput&);
  void (*output)(const WinogradOutput&);
  void (*output_pooled)(const WinogradOutput&);  // null for an odd m
};
inline constexpr int kWinogradTiles = 3;

// One pixel of a depthwise convolution:
//   out[c] = clamp(bias[c] + sum over t of taps[t][c] * weights[t * channels + c])
struct DepthwisePixel {
  const float* const* taps;
  std::int64_t count;  // taps
  std::int64_t channels;
  const float* weights;
  const float* bias;
  float* out;
  float lowest;
  float highest;
};

// Pixels of a depthwise convolution, side by side along one row, whose taps all lie inside the map:
//   out[j * channels + c] = clamp(bias[c] + sum over u, v of
//       rows[u][(j * stride + v) * channels + c] * weights[(u * width + v) * channels + c])
// There is a kernel for each of a few windows and strides, which reads a pixel once for all its windows.
struct DepthwiseRow {
  const float* const* rows;  // one for each row of the window
  std::int64_t channels;
  const float* weights;
  const float* bias;
  float* out;
  std::int64_t columns;
  float lowest;
  float highest;
};
struct DepthwiseKernel {
  int window;  // rows and columns
  int stride;  // in pixels
  void (*run)(const DepthwiseRow&);
};
inline constexpr int kDepthwiseKernels = 4;

// Rows of one plane of a depthwise convolution of three by three taps, stride 1, as wide as its map, with a
// column of padding to its left and one to its right:
//   out[i * width + j] = clamp(bias + sum over u, v of x(first + i + u, j + v - 1) * weights[u * 3 + v])
// for 0 <= i < rows, where x(i, j) is x[i * width + j], and 0 outside the map.
struct DepthwisePlane {
  const float* x;
  const float* zeros;  // `width` of them, for the rows above and below the map
  std::int64_t height;
  std::int64_t width;
  const float* weights;
  float bias;
  float lowest;
  float highest;
  std::int64_t first;  // the row of x under the upper taps of the first output; may be negative
  std::int64_t rows;
  float* out;
};

// A convolution whose window holds so few floats that a vector's worth of filters stays in registers while
// it slides along a row of x; there is a kernel for each of a few sizes of window.
//   out[j * channels + o] = clamp(bias[o] + sum over u, d of
//       x[u * row_pitch + j * column_step + d] * weight(u, d, o))
// or the maximum of that over the two rows and columns 2j, 2j + 1 that a pool of two by two covers, where
// the next row of the convolution begins row_step floats after x.
struct StencilRow {
  const float* x;
  std::int64_t row_pitch;
  std::int64_t row_step;
  std::int64_t column_step;
  const float* weights;  // [vector of channels][u * depth + d][lane], filled up with zeros
  const float* bias;     // filled up to whole vectors
  std::int64_t columns;  // outputs
  std::int64_t channels;
  float* out;
  float lowest;
  float highest;
};
using StencilKernel = void (*)(const StencilRow&);

// The kernels for a window of `height` rows of `depth` floats.
struct StencilKernels {
  int height;
  int depth;
  StencilKernel plain;
  StencilKernel pooled;
};
inline constexpr int kStencilSizes = 3;

// Pooling windows that lie wholly inside the map, side by side along one row of outputs:
//   out[j * channels + c] = reduction over u, v of map[u * row_pitch + (j * stride + v) * channels + c]
// for 0 <= u < height, 0 <= v < width; the reduction is the maximum, or the sum times `scale`.
struct PoolRow {
  const float* map;
  std::int64_t row_pitch;
  std::int64_t height;
  std::int64_t width;
  std::int64_t stride;   // in pixels
  std::int64_t columns;  // outputs
  std::int64_t channels;
  float scale;
  float* out;
  std::int64_t out_step;  // from an output to the next
};

// Functions of one number, applied to each element. The docs of the ONNX operator of that name define
// each; alpha and beta are its parameters.
enum class Activation : int {
  kLinear,
  kClip,  // min(max(x, alpha), beta): ReLU is (0, inf), ReLU6 (0, 6)
  kLeakyRelu,
  kElu,
  kSelu,
  kSigmoid,
  kTanh,
  kSoftplus,
  kSoftsign,
  kSwish,
  kHardSigmoid,
  kHardSwish,
  kGelu,
  kGeluTanh,
  kMish,
  kExp,
  kLog,
  kSqrt,
  kAbs,
  kNegative,
  kReciprocal,
  kErf,
  kQuantize,
};

enum class Binary : int { kAdd, kSubtract, kMultiply, kDivide, kMaximum, kMinimum, kPower };

// A product with a matrix whose elements take fewer bits than a float. Its columns are cut into strips of two
// vectors, W = 2 * lanes, each of which a kernel reads from front to end; `group` rows lie interleaved, so
// that what is multiplied together comes into one register:
//
//   element (k, j) stands in strip j / W, at position (k / group * W + j % W) * group + k % group; rows and
//   columns that fill up the last group and strip are zero
//
//   out[r, j] = clamp(bias[j] + scales[j] * sum over k of x[r, k] * matrix(k, j))
//
// for 0 <= j < columns. The order of the sum does not depend on `rows`.
struct NarrowProduct {
  const void* x;         // rows of `depth` elements: floats, or int16 for integer products
  std::int64_t x_pitch;  // from a row of x to the next, in its elements
  std::int64_t rows;
  std::int64_t depth;
  const void* matrix;
  std::int64_t strip_bytes;  // from a strip to the next
  const float* scales;       // filled up to whole strips
  const float* bias;         // likewise
  float* out;
  std::int64_t out_pitch;
  std::int64_t columns;
  float lowest;  // the bounds of clamp; NaN passes through
  float highest;
};

// bfloat16 is the upper half of a float.
struct NarrowKernel {
  int group;
  void (*run)(const NarrowProduct&);
};

struct KernelTable {
  const char* name;  // the ISA level: "baseline", "avx2", "avx512"
  int lanes;         // floats in a vector

  // matrix[v - 1][r - 1] computes r rows of a panel of v vectors, for 1 <= r <= matrix_rows[v - 1].
  int matrix_rows[kMaxPanelVectors];
  MatrixKernel matrix[kMaxPanelVectors][kMaxMatrixRows];
  // matrix_block[v - 1] is for panels of v vectors.
  MatrixBlockKernel matrix_block[kMaxPanelVectors];

  StencilKernels stencils[kStencilSizes];

  WinogradKernels winograd[kWinogradTiles];  // by ascending tile
  // The pooled stencil of a 3x3 window over one channel, at column_step 1 and row_step row_pitch, by the
  // smallest tile: `weights` holds 16 planes of a transformed filter in place of 9 floats.
  StencilKernel winograd_stencil_pooled;

  DepthwiseKernel depthwise_rows[kDepthwiseKernels];
  void (*depthwise)(const DepthwisePixel&);
  void (*depthwise_plane)(const DepthwisePlane&);

  // out[c] = max over t of taps[t][c]; out[c] = scale * sum over t of taps[t][c]. count >= 1.
  void (*max_pool)(const float* const* taps, std::int64_t count, std::int64_t channels, float* out);
  void (*average_pool)(const float* const* taps, std::int64_t count, std::int64_t channels, float scale,
                       float* out);
  void (*max_pool_row)(const PoolRow&);
  void (*average_pool_row)(const PoolRow&);

  // y[i] = f(x[i]); y may be x.
  void (*activate)(Activation function, float alpha, float beta, const float* x, float* y,
                   std::int64_t count);

  // y[i] = f(a[i * a_step], b[i * b_step]) with steps 0 or 1.
  void (*binary)(Binary function, const float* a, std::int64_t a_step, const float* b, std::int64_t b_step,
                 float* y, std::int64_t count);

  // y[c * y_pitch + r] = x[r * x_pitch + c] for 0 <= r < rows and 0 <= c < columns.
  void (*transpose)(const float* x, std::int64_t x_pitch, std::int64_t rows, std::int64_t columns, float* y,
                    std::int64_t y_pitch);

  // Over rows of `count` floats, at least one, that follow each other: y[r] = scale * sum over i of
  // x[r * count + i]; the greatest of these, or the least; NaN where any is. Sums lose no more than those of
  // 64 floats in float32 do.
  void (*sum_rows)(const float* x, std::int64_t rows, std::int64_t count, double scale, float* y);
  void (*max_rows)(const float* x, std::int64_t rows, std::int64_t count, float* y);
  void (*min_rows)(const float* x, std::int64_t rows, std::int64_t count, float* y);

  // Rows as above: y[i] = (x[i] - mean) / sqrt(variance + epsilon) * scale[i] + bias[i]; y may be x.
  void (*normalize_rows)(const float* x, std::int64_t rows, std::int64_t count, float epsilon,
                         const float* scale, const float* bias, float* y);

  // Softmax, or its logarithm, of one row.
  void (*softmax)(const float* x, float* y, std::int64_t count, bool logarithm);

  NarrowKernel bfloat16_product;  // x in float, the matrix in bfloat16
  NarrowKernel int8_product;      // x in float, the matrix in int8
  // x in int16, the matrix in int8, summed in int32, which must not overflow; where the depth is odd, one
  // more element of each row of x can be read.
  NarrowKernel integer_product;
  // q[i] = x[i] / scale, rounded to the nearest integer, ties to even, between -below and 255 - below.
  void (*quantize)(const float* x, float scale, float below, std::int16_t* q, std::int64_t count);

  // Does 2 * lanes * 12 * iterations floating-point operations as fast as the core can, in registers.
  float (*saturate)(std::int64_t iterations);
};

// The stencil of that size, or null.
inline const StencilKernels* find_stencil(const KernelTable& table, std::int64_t height, std::int64_t depth) {
  for (const StencilKernels& stencil : table.stencils) {
    if (stencil.height == height && stencil.depth == depth) return &stencil;
  }
  return nullptr;
}

// The depthwise kernel for a window and stride, alike along both axes, or null.
inline const DepthwiseKernel* find_depthwise(const KernelTable& table, std::int64_t window,
                                             std::int64_t stride) {
  for (const DepthwiseKernel& kernel : table.depthwise_rows) {
    if (kernel.window == window && kernel.stride == stride) return &kernel;
  }
  return nullptr;
}

}  // namespace pyconv::kernels
