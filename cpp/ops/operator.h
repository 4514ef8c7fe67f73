// What every operator is, and where they are all listed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"
#include "ops/attributes.h"

namespace pyconv {

// A half-open range of work units.
struct UnitRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// One operator with fixed attributes and fixed input shapes, but for the batch: axis 0 of an input may
// be kBatch, and then images are independent along it.
//
// The work of a call is cut into `units` that are independent of each other, so that any thread may do
// any range of them in any order; the result does not depend on who did which.
class Operator {
 public:
  virtual ~Operator() = default;

  // The output's shape; its axis 0 is kBatch where an input's is.
  const Shape& output_shape() const { return output_shape_; }
  DType output_dtype() const { return output_dtype_; }

  // How many units a call with these inputs has; shapes are concrete here.
  virtual std::int64_t units(std::span<const ConstTensor> inputs, const Tensor& output) const = 0;

  // Does the units of the range. `workspace` holds workspace_size() floats, aligned to kAlignment, and
  // is used by this call alone. The output never overlaps an input.
  virtual void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
                   float* workspace) const = 0;

  // Floats of scratch memory that one thread needs.
  virtual std::size_t workspace_size() const { return 0; }

  // How it is computed, for people to read.
  virtual std::string algorithm() const { return "direct"; }

  // Floating-point operations for one image (for the whole output where there is no batch).
  virtual std::int64_t flops() const { return 0; }

  // True where the output is the input under another shape, so that a program need not run it.
  virtual bool is_view() const { return false; }

 protected:
  Shape output_shape_;
  DType output_dtype_ = DType::kFloat32;
};

// Constructs the operator of that name; throws ArgumentError for an unknown name or attribute, or a shape or
// dtype that does not fit.
std::unique_ptr<Operator> make_operator(const Attributes& attributes, std::span<const TensorType> inputs,
                                        const kernels::KernelTable& kernels);

// The names that make_operator takes, sorted.
std::vector<std::string> operator_names();

}  // namespace pyconv
