// The geometry of a sliding window: convolution and pooling share it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "ops/attributes.h"

namespace pyconv {

// One axis of a window. Output o covers the inputs o * stride - pad_begin + t * dilation for the taps
// 0 <= t < kernel; those outside [0, size) are padding.
struct WindowAxis {
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t dilation = 1;
  std::int64_t pad_begin = 0;
  std::int64_t pad_end = 0;

  // Inputs from the first tap to the last.
  std::int64_t extent() const { return (kernel - 1) * dilation + 1; }
  // The input under tap 0 of output o.
  std::int64_t begin(std::int64_t o) const { return o * stride - pad_begin; }
  // How many outputs an axis of `size` gives, as ONNX's Conv and MaxPool define it; with ceil_mode a last
  // window may hang over the end, by less than a stride, if it starts before it: the only one too. At most 0
  // where the window does not fit.
  std::int64_t output_size(std::int64_t size, bool ceil_mode) const;
  // The first of `outputs` outputs whose taps all lie inside [0, size), and the one after the last; {0, 0}
  // where there are none.
  std::array<std::int64_t, 2> inside(std::int64_t size, std::int64_t outputs) const;
  // The first tap of output o that lies inside [0, size), and the one after the last.
  std::array<std::int64_t, 2> taps_inside(std::int64_t o, std::int64_t size) const;
  // The most of such taps that any output has.
  std::int64_t most_taps_inside(std::int64_t size) const;
};

struct Window2d {
  WindowAxis height;
  WindowAxis width;
  bool ceil_mode = false;

  // Reads strides, dilations, pads [top, left, bottom, right] and, where `pooling`, ceil_mode; throws
  // ArgumentError for values out of range.
  static Window2d parse(const Attributes& attributes, std::int64_t kernel_height, std::int64_t kernel_width,
                        bool pooling);

  // The output's height and width; throws ArgumentError where the window does not fit into the map.
  std::array<std::int64_t, 2> output_size(const std::string& operation, std::int64_t height,
                                          std::int64_t width) const;
};

// Two integers of at least 1, such as strides; throws ArgumentError for anything else.
std::array<std::int64_t, 2> parse_pair(const Attributes& attributes, const std::string& name,
                                       std::int64_t otherwise);

}  // namespace pyconv
