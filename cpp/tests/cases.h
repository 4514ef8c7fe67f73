// Operators over the edges of their tiles and vectors, for the tests in C++.
#pragma once

#include <string>
#include <vector>

#include "base/tensor.h"
#include "ops/attributes.h"

namespace pyconv::tests {

// One operator on float32 inputs of fixed shapes.
struct Case {
  std::string name;
  Attributes attributes;
  std::vector<Shape> inputs;
};

std::vector<Case> convolution_cases();
std::vector<Case> other_cases();

// Numbers between -1 and 1, the same for the same shape.
Array uniform(const Shape& shape);

}  // namespace pyconv::tests
