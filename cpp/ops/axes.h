// Axes named by attributes.
#pragma once

#include "ops/attributes.h"

namespace pyconv {

// The attribute `axis` as 0 <= axis < rank; negative values count from the end. Throws ArgumentError where
// it is out of range, or is the batch (axis 0 of a shape inside a program).
int parse_axis(const Attributes& attributes, const Shape& x, std::int64_t otherwise);

// The same for a value of another attribute, `name`.
int parse_axis(const Attributes& attributes, const Shape& x, const std::string& name, std::int64_t axis);

// The same for each value of the attribute `axes`, sorted, without doubles.
std::vector<int> parse_axes(const Attributes& attributes, const Shape& x);

}  // namespace pyconv
