#include "ops/window.h"

#include <algorithm>

#include "base/errors.h"

namespace pyconv {

namespace {

// Far beyond any real network, and small enough that no product of two overflows.
constexpr std::int64_t kMost = std::int64_t{1} << 30;

std::string list_text(const std::vector<std::int64_t>& values) {
  std::string text = "[";
  for (std::size_t i = 0; i < values.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(values[i]);
  return text + "]";
}

}  // namespace

std::int64_t WindowAxis::output_size(std::int64_t size, bool ceil_mode) const {
  const std::int64_t room = size + pad_begin + pad_end - extent();
  if (!ceil_mode) return room < 0 ? 0 : room / stride + 1;
  if (room <= -stride) return 0;
  const std::int64_t outputs = (room + stride - 1) / stride + 1;
  return (outputs - 1) * stride >= size + pad_begin ? outputs - 1 : outputs;
}

std::array<std::int64_t, 2> WindowAxis::inside(std::int64_t size, std::int64_t outputs) const {
  const std::int64_t first = (pad_begin + stride - 1) / stride;
  const std::int64_t room = size + pad_begin - extent();
  const std::int64_t end = room < 0 ? 0 : std::min(room / stride + 1, outputs);
  if (first >= end) return {0, 0};
  return {first, end};
}

std::array<std::int64_t, 2> WindowAxis::taps_inside(std::int64_t o, std::int64_t size) const {
  const std::int64_t first = begin(o) < 0 ? (-begin(o) + dilation - 1) / dilation : 0;
  const std::int64_t room = size - begin(o);
  const std::int64_t end = room <= 0 ? 0 : std::min(kernel, (room + dilation - 1) / dilation);
  return {std::min(first, end), end};
}

std::int64_t WindowAxis::most_taps_inside(std::int64_t size) const {
  return std::min(kernel, (size + dilation - 1) / dilation);
}

std::array<std::int64_t, 2> parse_pair(const Attributes& attributes, const std::string& name,
                                       std::int64_t otherwise) {
  const auto values = attributes.integers(name, {otherwise, otherwise});
  if (values.size() != 2 || values[0] < 1 || values[1] < 1 || values[0] > kMost || values[1] > kMost) {
    throw ArgumentError(attributes.operation(), name, "two integers of at least 1", list_text(values));
  }
  return {values[0], values[1]};
}

Window2d Window2d::parse(const Attributes& attributes, std::int64_t kernel_height, std::int64_t kernel_width,
                         bool pooling) {
  const auto strides = parse_pair(attributes, "strides", 1);
  const auto dilations = parse_pair(attributes, "dilations", 1);
  const auto pads = attributes.integers("pads", {0, 0, 0, 0});
  if (pads.size() != 4 || std::any_of(pads.begin(), pads.end(), [](auto p) { return p < 0 || p > kMost; })) {
    throw ArgumentError(attributes.operation(), "pads", "[top, left, bottom, right], each at least 0",
                        list_text(pads));
  }
  Window2d window;
  window.height = {kernel_height, strides[0], dilations[0], pads[0], pads[2]};
  window.width = {kernel_width, strides[1], dilations[1], pads[1], pads[3]};
  if (pooling) {
    window.ceil_mode = attributes.integer("ceil_mode", 0) != 0;
    for (const WindowAxis& axis : {window.height, window.width}) {
      if (axis.pad_begin >= axis.extent() || axis.pad_end >= axis.extent()) {
        throw ArgumentError(attributes.operation(), "pads", "pads smaller than the window",
                            list_text(pads) + " for a window of " + std::to_string(window.height.extent()) +
                                " by " + std::to_string(window.width.extent()));
      }
    }
  }
  return window;
}

std::array<std::int64_t, 2> Window2d::output_size(const std::string& operation, std::int64_t map_height,
                                                  std::int64_t map_width) const {
  const std::array<std::int64_t, 2> size = {height.output_size(map_height, ceil_mode),
                                            width.output_size(map_width, ceil_mode)};
  if (size[0] < 1 || size[1] < 1) {
    throw ArgumentError(operation, "x",
                        "a padded map of at least " + std::to_string(height.extent()) + " by " +
                            std::to_string(width.extent()) + ", the window's extent",
                        std::to_string(map_height + height.pad_begin + height.pad_end) + " by " +
                            std::to_string(map_width + width.pad_begin + width.pad_end));
  }
  return size;
}

}  // namespace pyconv
