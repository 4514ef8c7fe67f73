#include "base/errors.h"

namespace pyconv {

ArgumentError::ArgumentError(const std::string& operation, const std::string& argument,
                             const std::string& expected, const std::string& got)
    : std::invalid_argument(operation + ": " + argument + ": expected " + expected + ", got " + got) {}

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (axis > 0) text += ", ";
    text += shape[axis] == kBatch ? std::string("n") : std::to_string(shape[axis]);
  }
  if (shape.rank() == 1) text += ",";
  return text + ")";
}

}  // namespace pyconv
