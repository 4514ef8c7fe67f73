#include <algorithm>

#include "ops/conv2d/algorithm.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

// Where a patch's row is contiguous in x it is one long tap; only padding and dilation, and groups, which
// read some channels of each pixel, keep the taps of a row apart.
std::int64_t taps_in_row(const Window2d& window, std::int64_t groups) {
  const WindowAxis& axis = window.width;
  const bool whole = groups == 1 && axis.dilation == 1 && axis.pad_begin == 0 && axis.pad_end == 0;
  return whole ? 1 : axis.kernel;
}

// The indirect convolution (Dukhan 2019): a matrix product whose left rows are the patches of x, gathered
// by pointers instead of copied as im2col does. Taps outside the map point at zeros.
class IndirectConv2d final : public RowwiseConv2d {
 public:
  IndirectConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : RowwiseConv2d(attributes, x, kernels),
        gatherer_(window_, height_, width_, in_, taps_in_row(window_, groups_)),
        depth_(kernel_.shape[0] * kernel_.shape[1] * kernel_.shape[2] / gatherer_.taps()),
        zeros_(static_cast<std::size_t>(depth_)) {
    std::fill_n(zeros_.data(), depth_, 0.0F);
    const std::int64_t group_out = out_ / groups_;
    for (std::int64_t g = 0; g < groups_; ++g) {
      matrices_.emplace_back(kernel_.values.data() + g * group_out, 1, gatherer_.taps() * depth_, group_out,
                             out_, bias_.data() + g * group_out, kernels);
    }
    kernel_.values = {};  // the panels hold them now
  }

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
               float* workspace) const override {
    const auto** pointers = reinterpret_cast<const float**>(workspace);
    const std::int64_t pixels = (end - begin) * map_width_;
    const std::int64_t group_in = in_ / groups_;
    const std::int64_t group_out = out_ / groups_;
    const std::int64_t most = matrices_[0].max_rows();
    kernels::MatrixTile tile{};
    tile.taps = gatherer_.taps();
    tile.depth = depth_;
    tile.out_pitch = out_;
    tile.lowest = activation_.lowest();
    tile.highest = activation_.highest();
    for (std::int64_t first = 0, block; first < pixels; first += block) {
      block = std::min(kBlockPixels, pixels - first);
      for (std::int64_t g = 0; g < groups_; ++g) {
        for (std::int64_t done = 0, count; done < block; done += count) {
          count = balanced_tile(done, block, most);
          gather_tile(x, begin * map_width_ + first + done, count, g * group_in,
                      pointers + gatherer_.taps() * done);
        }
        // A panel goes over the whole block while it is in the first-level cache.
        const PackedMatrix& matrix = matrices_[static_cast<std::size_t>(g)];
        for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) {
          for (std::int64_t done = 0, count; done < block; done += count) {
            count = balanced_tile(done, block, most);
            tile.rows = pointers + gatherer_.taps() * done;
            tile.out = y + (first + done) * out_ + g * group_out + matrix.first_column(panel);
            matrix.multiply(tile, count, panel);
          }
        }
      }
    }
  }

  std::size_t own_workspace(std::int64_t) const override {
    return pointer_floats(gatherer_.taps() * kBlockPixels);
  }

  std::string method() const override {
    if (window_.height.kernel == 1 && window_.width.kernel == 1) return "matrix product";
    return groups_ == 1 ? "indirect matrix product" : "indirect matrix product by group";
  }

 private:
  static constexpr std::int64_t kBlockPixels = 64;

  // pointers[t * count + r]: tap t of the r-th pixel from `first` on, numbered along the rows of the map.
  void gather_tile(const float* x, std::int64_t first, std::int64_t count, std::int64_t channel,
                   const float** pointers) const {
    std::int64_t row = first / map_width_;
    std::int64_t column = first % map_width_;
    for (std::int64_t r = 0; r < count; ++r) {
      gatherer_.gather(x, row, column, channel, zeros_.data(), pointers + r, count);
      if (++column == map_width_) {
        column = 0;
        ++row;
      }
    }
  }

  TapGatherer gatherer_;
  std::int64_t depth_;  // floats in a tap
  AlignedBuffer zeros_;
  std::vector<PackedMatrix> matrices_;  // one a group
};

}  // namespace

std::unique_ptr<Operator> make_indirect_conv2d(const Attributes& attributes, const Shape& x,
                                               const kernels::KernelTable& kernels) {
  return std::make_unique<IndirectConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
