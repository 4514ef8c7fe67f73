// Building a program, value by value.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "program/program.h"

namespace pyconv {

// Values are numbers from 0 on, in the order in which they were made. Every call throws ArgumentError for
// values that do not exist, shapes that do not fit and attributes that an operator does not have.
class ProgramBuilder {
 public:
  explicit ProgramBuilder(const kernels::KernelTable& kernels) : kernels_(&kernels) {}

  // A tensor given at each run. Axis 0 may be kBatch; all other sizes are fixed.
  int input(const std::string& name, const TensorType& type);
  // A tensor that never changes; its elements are copied.
  int constant(const ConstTensor& tensor);
  // What an operator makes of other values; `name` is for people to read.
  int add(const Attributes& attributes, const std::vector<int>& inputs, const std::string& name);

  const TensorType& type(int value) const;

  // The program that computes these values, without the steps that none of them needs. The builder is
  // empty afterwards.
  std::unique_ptr<Program> build(const std::vector<int>& outputs, int threads);

 private:
  const Value& at(int value) const;

  const kernels::KernelTable* kernels_;
  Program::Parts parts_;
};

}  // namespace pyconv
