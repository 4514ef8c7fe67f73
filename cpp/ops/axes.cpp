#include "ops/axes.h"

#include <algorithm>

#include "base/errors.h"

namespace pyconv {

namespace {

int checked_axis(const Attributes& attributes, const std::string& name, const Shape& x, std::int64_t axis) {
  if (axis < -x.rank() || axis >= x.rank()) {
    throw ArgumentError(
        attributes.operation(), name,
        "from " + std::to_string(-x.rank()) + " to " + std::to_string(x.rank() - 1) + " for " + to_string(x),
        std::to_string(axis));
  }
  const int result = static_cast<int>(axis < 0 ? axis + x.rank() : axis);
  if (result == 0 && x.has_batch()) {
    throw ArgumentError(attributes.operation(), name, "another axis than the batch of " + to_string(x),
                        std::to_string(axis));
  }
  return result;
}

}  // namespace

int parse_axis(const Attributes& attributes, const Shape& x, std::int64_t otherwise) {
  return checked_axis(attributes, "axis", x, attributes.integer("axis", otherwise));
}

std::vector<int> parse_axes(const Attributes& attributes, const Shape& x) {
  std::vector<int> axes;
  for (const std::int64_t axis : attributes.integers("axes")) {
    axes.push_back(checked_axis(attributes, "axes", x, axis));
  }
  std::sort(axes.begin(), axes.end());
  axes.erase(std::unique(axes.begin(), axes.end()), axes.end());
  return axes;
}

}  // namespace pyconv
