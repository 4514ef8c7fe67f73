#include "ops/axes.h"

#include <algorithm>

#include "base/errors.h"

namespace pyconv {

int parse_axis(const Attributes& attributes, const Shape& x, const std::string& name, std::int64_t axis) {
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

int parse_axis(const Attributes& attributes, const Shape& x, std::int64_t otherwise) {
  return parse_axis(attributes, x, "axis", attributes.integer("axis", otherwise));
}

std::vector<int> parse_axes(const Attributes& attributes, const Shape& x) {
  std::vector<int> axes;
  for (const std::int64_t axis : attributes.integers("axes")) {
    axes.push_back(parse_axis(attributes, x, "axes", axis));
  }
  std::sort(axes.begin(), axes.end());
  axes.erase(std::unique(axes.begin(), axes.end()), axes.end());
  return axes;
}

}  // namespace pyconv
