// Naive loops in double precision: the oracle that the tests hold every operator against.
//
// Written from the definitions, one obvious loop nest an operator, with nothing shared with cpp/ops but
// the attributes: a mistake in one is unlikely to stand in the other.
#pragma once

#include <span>
#include <vector>

#include "base/dtype.h"
#include "ops/attributes.h"

namespace pyconv::reference {

struct Tensor {
  Shape shape;
  std::vector<double> values;  // of whatever dtype, as real numbers
  DType dtype = DType::kFloat32;
};

// The same names, attributes and layouts as make_operator; shapes are concrete. Throws ArgumentError
// for a name that it does not have.
Tensor run(const Attributes& attributes, std::span<const Tensor> inputs);

}  // namespace pyconv::reference
