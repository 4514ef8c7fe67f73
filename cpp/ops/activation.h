// Activation functions by name, alone or at the end of another operator.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "ops/operator.h"

namespace pyconv {

// What follows a convolution or a dense product. A clamp is done by the matrix kernel itself; any other
// function runs over what the kernel wrote, while that is still in the first-level cache.
struct ActivationSpec {
  std::string name = "linear";
  kernels::Activation function = kernels::Activation::kLinear;
  float alpha = 0.0F;
  float beta = 0.0F;

  // Reads activation, alpha and beta; throws ArgumentError for an unknown name.
  static ActivationSpec parse(const Attributes& attributes);

  bool is_clamp() const;
  float lowest() const;   // -inf unless it is a clamp
  float highest() const;  // inf unless it is a clamp
  // ", fused relu", or nothing for linear.
  std::string fused_text() const;
};

std::unique_ptr<Operator> make_activation(const Attributes& attributes, std::span<const Shape> inputs,
                                          const kernels::KernelTable& kernels);

}  // namespace pyconv
