#include "ops/narrow_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace pyconv {

namespace {

// A multiple of every strip's width.
constexpr std::int64_t kPanelColumns = 64;

std::uint16_t bfloat16_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);  // stays one
  // Half of what is cut off, less a bit where the half would be rounded to an odd number.
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

std::int8_t int8_of(float value, float scale) {
  const float steps = std::nearbyint(value / scale);
  return static_cast<std::int8_t>(std::isnan(steps) ? 0.0F : std::clamp(steps, -128.0F, 127.0F));
}

}  // namespace

std::vector<float> int8_scales(const float* values, std::int64_t k, std::int64_t n) {
  std::vector<float> scales(static_cast<std::size_t>(n), 0.0F);
  for (std::int64_t i = 0; i < k * n; ++i) {
    float& most = scales[static_cast<std::size_t>(i % n)];
    most = std::max(most, std::abs(values[i]));
  }
  for (float& scale : scales) scale = scale > 0.0F ? scale / 127.0F : 1.0F;
  return scales;
}

NarrowMatrix::NarrowMatrix(const float* values, std::int64_t k, std::int64_t n,
                           const std::vector<float>& bias, Storage storage, const std::vector<float>& scales,
                           bool integers, float x_scale, const kernels::KernelTable& kernels)
    : depth_(k),
      kernel_(storage == Storage::kBfloat16 ? &kernels.bfloat16_product
              : integers                    ? &kernels.integer_product
                                            : &kernels.int8_product) {
  const std::int64_t element_bytes = storage == Storage::kBfloat16 ? 2 : 1;
  const std::int64_t group = kernel_->group;
  const std::int64_t width = 2 * kernels.lanes;  // of a strip
  strip_bytes_ = (k + group - 1) / group * group * width * element_bytes;
  const auto strips = static_cast<std::size_t>((n + width - 1) / width);
  for (std::int64_t first = 0; first < n; first += kPanelColumns) {
    const std::int64_t offset = first / width * strip_bytes_;
    panels_.push_back({first, std::min(kPanelColumns, n - first), static_cast<std::size_t>(offset)});
  }
  const auto buffer = [](std::size_t floats) {
    AlignedBuffer zeros(floats);
    std::fill_n(zeros.data(), floats, 0.0F);
    return zeros;
  };
  const std::size_t size = strips * static_cast<std::size_t>(strip_bytes_);
  values_ = buffer((size + sizeof(float) - 1) / sizeof(float));
  scales_ = buffer(strips * static_cast<std::size_t>(width));
  biases_ = buffer(strips * static_cast<std::size_t>(width));

  std::vector<float> units = scales;
  if (storage == Storage::kBfloat16) units.assign(static_cast<std::size_t>(n), 1.0F);
  if (units.empty()) units = int8_scales(values, k, n);
  for (std::int64_t column = 0; column < n; ++column) {
    scales_.data()[column] = units[static_cast<std::size_t>(column)] * (integers ? x_scale : 1.0F);
    biases_.data()[column] = bias[static_cast<std::size_t>(column)];
  }
  for (std::int64_t row = 0; row < k; ++row) {
    for (std::int64_t column = 0; column < n; ++column) {
      const float value = values[row * n + column];
      const std::int64_t place = (row / group * width + column % width) * group + row % group;
      char* const target = bytes() + column / width * strip_bytes_ + place * element_bytes;
      if (storage == Storage::kBfloat16) {
        const std::uint16_t half = bfloat16_of(value);
        std::memcpy(target, &half, sizeof half);
      } else {
        const std::int8_t steps = int8_of(value, units[static_cast<std::size_t>(column)]);
        std::memcpy(target, &steps, sizeof steps);
      }
    }
  }
}

void NarrowMatrix::multiply(kernels::NarrowProduct& product, std::int64_t panel_index) const {
  const Panel& panel = at(panel_index);
  product.depth = depth_;
  product.matrix = bytes() + panel.values;
  product.strip_bytes = strip_bytes_;
  product.scales = scales_.data() + panel.first;
  product.bias = biases_.data() + panel.first;
  product.columns = panel.columns;
  kernel_->run(product);
}

}  // namespace pyconv
