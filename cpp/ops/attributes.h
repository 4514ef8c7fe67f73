// The named settings of an operator, as they come from Python.
#pragma once

#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/shape.h"

namespace pyconv {

// A constant array: weights, biases.
struct Array {
  Shape shape;
  std::vector<float> values;
};

// Settings by name. A getter marks its name as used; `check_all_used` then refuses the rest, so that a
// misspelt attribute is an error and not a silent default.
class Attributes {
 public:
  using Value = std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>, Array>;

  // `operation` names the operator in error messages.
  explicit Attributes(std::string operation) : operation_(std::move(operation)) {}
  void set(const std::string& name, Value value) { values_[name] = std::move(value); }

  const std::string& operation() const { return operation_; }
  bool has(const std::string& name) const;

  // Each throws ArgumentError where the attribute has another type, or is missing without a default.
  std::int64_t integer(const std::string& name, std::int64_t otherwise) const;
  double number(const std::string& name, double otherwise) const;
  std::string text(const std::string& name, const std::string& otherwise) const;
  std::vector<std::int64_t> integers(const std::string& name) const;
  std::vector<std::int64_t> integers(const std::string& name, std::vector<std::int64_t> otherwise) const;
  const Array& array(const std::string& name) const;
  // Null where there is none.
  const Array* optional_array(const std::string& name) const;

  // Throws ArgumentError naming the attributes that nobody asked for.
  void check_all_used() const;

 private:
  const Value* find(const std::string& name) const;
  template <class T>
  const T* find_as(const std::string& name, const char* kind) const;

  std::string operation_;
  std::map<std::string, Value> values_;
  mutable std::set<std::string> used_;
};

}  // namespace pyconv
