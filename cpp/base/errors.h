// The one exception that the engine throws on purpose.
#pragma once

#include <stdexcept>
#include <string>

#include "base/shape.h"

namespace pyconv {

// An argument has the wrong shape, value or name. The message says which, what was expected and what
// came. Python sees it as pyconv.InputError.
class ArgumentError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;

  // "conv2d: strides: expected two values of at least 1, got [0, 1]"
  ArgumentError(const std::string& operation, const std::string& argument, const std::string& expected,
                const std::string& got);
};

// "(n, 28, 28, 1)": kBatch is written n.
std::string to_string(const Shape& shape);

}  // namespace pyconv
