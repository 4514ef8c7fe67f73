#include <algorithm>

#include "ops/conv2d/algorithm.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

// A window of one pixel at unit strides: a matrix product of pixels by channels as they lie.
class PointwiseConv2d final : public RowwiseConv2d {
 public:
  PointwiseConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : RowwiseConv2d(attributes, x, kernels),
        matrix_(kernel_.values.data(), 1, in_, out_, out_, bias_.data(), kernels) {
    kernel_.values = {};  // the panels hold them now
  }

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y, float*) const override {
    kernels::MatrixBlock block{};
    block.x_pitch = in_;
    block.out_pitch = out_;
    block.finish = true;
    block.lowest = activation_.lowest();
    block.highest = activation_.highest();
    const std::int64_t pixels = (end - begin) * map_width_;
    for (std::int64_t done = 0; done < pixels; done += block.rows) {
      block.rows = balanced_tile(done, pixels, kBlockPixels);
      block.x = x + (begin * width_ + done) * in_;
      block.out = y + done * out_;
      matrix_.multiply(block, 0, matrix_.panels());
    }
  }

  std::size_t own_workspace(std::int64_t) const override { return 0; }
  std::string method() const override { return "matrix product"; }

 private:
  // So many rows meet a panel while it is in the first-level cache.
  static constexpr std::int64_t kBlockPixels = 96;

  PackedMatrix matrix_;
};

}  // namespace

bool pointwise_conv2d_fits(const Attributes& attributes, const Shape& x) {
  const Shape& kernel = attributes.array("kernel").shape;
  if (kernel.rank() != 4 || kernel[0] != 1 || kernel[1] != 1 || kernel[2] != x[3]) return false;
  const Window2d window = Window2d::parse(attributes, 1, 1, false);
  const auto alone = [](const WindowAxis& axis) {
    return axis.stride == 1 && axis.pad_begin == 0 && axis.pad_end == 0;
  };
  // A fused pool may leave columns of the map out, between which the rest would not lie side by side.
  const bool pooled = attributes.has("pool_size") || attributes.has("pool_strides");
  return alone(window.height) && alone(window.width) && !pooled;
}

std::unique_ptr<Operator> make_pointwise_conv2d(const Attributes& attributes, const Shape& x,
                                                const kernels::KernelTable& kernels) {
  return std::make_unique<PointwiseConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
