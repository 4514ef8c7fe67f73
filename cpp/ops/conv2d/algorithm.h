// What all algorithms of a two-dimensional convolution share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ops/activation.h"
#include "ops/operator.h"
#include "ops/window.h"

namespace pyconv {

// A convolution's attributes, checked. Each algorithm is a class that derives from it.
class Conv2dAlgorithm : public Operator {
 public:
  // Throws ArgumentError where the attributes do not fit x: (n, height, width, channels), however it lies in
  // memory.
  Conv2dAlgorithm(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels);

  std::string algorithm() const override;
  // Of the whole map, also where a fused pool leaves out pixels: what the definition asks for.
  std::int64_t flops() const override;

 protected:
  struct Pool {
    std::array<std::int64_t, 2> size;
    std::array<std::int64_t, 2> strides;
  };

  virtual std::string method() const = 0;

  // Adds `count` floats of the second input to y, of which y holds the sums, and activates the result.
  void add_residual(const float* residual, float* y, std::int64_t count) const;

  // Rows of the convolution that so many rows of the output need.
  std::int64_t map_rows(std::int64_t rows) const;

  // Rows of x, [begin, end), under the rows [first, last) of the convolution; outside the map there are none.
  struct SourceRows {
    std::int64_t begin;
    std::int64_t end;
  };
  SourceRows source_rows(std::int64_t first, std::int64_t last) const;

  // An image with its channels last, at least in those rows: where its pixel (0, 0) lies, or would lie. Where
  // x has its channels first, the rows are brought to `strip`, which holds (end - begin) * width_ * in_
  // floats.
  const float* channels_last(const float* x, std::int64_t image, SourceRows rows, float* strip) const;

  const kernels::KernelTable& kernels_;
  Array kernel_;
  std::vector<float> bias_;  // zeros where there is none
  bool channels_first_;      // whether x is (n, in, height, width)
  std::int64_t height_, width_, in_;
  std::int64_t groups_, out_;
  bool residual_;              // whether a second input is added before the activation
  ActivationSpec activation_;  // of the sums: linear where something is added to them first
  Window2d window_;
  std::optional<Pool> pool_;
  std::int64_t map_height_, map_width_;  // of the convolution's output, as far as it is needed
  std::int64_t out_height_, out_width_;  // after the fused pool

 private:
  ActivationSpec last_activation_;  // what the attributes ask for
};

// The frame around algorithms that go row by row: rows of the output are the units of work, taken in blocks;
// then come the activation and the fused max pool.
class RowwiseConv2d : public Conv2dAlgorithm {
 public:
  RowwiseConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels);

  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor& output) const override;
  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override;
  std::size_t workspace_size() const override;

 protected:
  // The convolution's rows [begin, end), map_width_ pixels each, with a clamping activation applied, to
  // (end - begin) * map_width_ * out_ floats at y. The workspace holds own_workspace() floats.
  virtual void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
                       float* workspace) const = 0;
  // Rows [begin, end) of the output after activation and pool. By default `compute` fills scratch memory
  // from which the pool reads.
  virtual void compute_pooled(const float* x, std::int64_t begin, std::int64_t end, float* y,
                              float* workspace) const;
  // Floats that `compute` needs for `rows` rows of the convolution; a multiple of a cache line's.
  virtual std::size_t own_workspace(std::int64_t rows) const = 0;

 private:
  void compute_activated(const float* x, std::int64_t begin, std::int64_t end, float* y,
                         float* workspace) const;

  // Rows of the output, with the residual, the activation and the pool: [begin, end), at y; `residual` is
  // what is added to them, or null.
  void run_rows(const float* x, const float* residual, std::int64_t begin, std::int64_t end, float* y,
                float* workspace) const;
  std::size_t strip_offset() const;  // in the workspace, behind what `compute` and the pool use

  std::int64_t block_rows_;  // of the output, that are computed in one go
  std::int64_t strip_rows_;  // of the output, whose rows of x are brought to channels last in one go
};

// The pointers to a window's taps, gathered pixel by pixel.
class TapGatherer {
 public:
  // `columns` is how many taps of a window's row are listed: all, or 1 where the row is read as a whole.
  TapGatherer(const Window2d& window, std::int64_t height, std::int64_t width, std::int64_t channels,
              std::int64_t columns);

  std::int64_t taps() const { return static_cast<std::int64_t>(offsets_.size()); }

  // pointers[t * step]: where tap t of the pixel (row, column) of the output reads its channels from
  // `channel` on; taps outside the map read at `zeros`.
  void gather(const float* x, std::int64_t row, std::int64_t column, std::int64_t channel, const float* zeros,
              const float** pointers, std::int64_t step) const;

 private:
  Window2d window_;
  std::int64_t height_, width_, channels_;
  std::int64_t columns_;
  std::vector<std::int64_t> offsets_;  // from the window's corner, in floats
};

// Floats that so many pointers take, rounded up to whole cache lines.
std::size_t pointer_floats(std::int64_t pointers);

// Each algorithm, and whether it can do a convolution.
std::unique_ptr<Operator> make_indirect_conv2d(const Attributes& attributes, const Shape& x,
                                               const kernels::KernelTable& kernels);
std::unique_ptr<Operator> make_depthwise_conv2d(const Attributes& attributes, const Shape& x,
                                                const kernels::KernelTable& kernels);
// Whether x has its channels first, and nothing is fused but an activation: what all that goes from planes to
// planes asks for.
bool planes_fit(const Attributes& attributes);

// From planes to planes: both x and the output have their channels first.
std::unique_ptr<Operator> make_depthwise_planes_conv2d(const Attributes& attributes, const Shape& x,
                                                       const kernels::KernelTable& kernels);
std::unique_ptr<Operator> make_pointwise_planes_conv2d(const Attributes& attributes, const Shape& x,
                                                       const kernels::KernelTable& kernels);
std::unique_ptr<Operator> make_pointwise_conv2d(const Attributes& attributes, const Shape& x,
                                                const kernels::KernelTable& kernels);
std::unique_ptr<Operator> make_stencil_conv2d(const Attributes& attributes, const Shape& x,
                                              const kernels::KernelTable& kernels, bool exact);
std::unique_ptr<Operator> make_winograd_conv2d(const Attributes& attributes, const Shape& x,
                                               const kernels::KernelTable& kernels);
bool depthwise_conv2d_fits(const Attributes& attributes, const Shape& x);
bool depthwise_planes_conv2d_fits(const Attributes& attributes, const Shape& x);
bool pointwise_planes_conv2d_fits(const Attributes& attributes, const Shape& x);
bool pointwise_conv2d_fits(const Attributes& attributes, const Shape& x);
bool stencil_conv2d_fits(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels);
bool winograd_conv2d_fits(const Attributes& attributes, const Shape& x);

}  // namespace pyconv
