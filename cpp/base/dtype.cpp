#include "base/dtype.h"

#include <array>

#include "base/errors.h"

namespace pyconv {

namespace {

const std::array<std::string, std::size(kDTypes)>& names() {
  static const std::array<std::string, std::size(kDTypes)> table = {
      "float32", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "int64"};
  return table;
}

}  // namespace

std::size_t size_of(DType dtype) {
  return with_type(dtype, []<class T>() { return sizeof(T); });
}

const std::string& to_string(DType dtype) { return names()[static_cast<std::size_t>(dtype)]; }

DType parse_dtype(const std::string& operation, const std::string& name) {
  std::string all;
  for (const DType dtype : kDTypes) {
    if (to_string(dtype) == name) return dtype;
    all += (all.empty() ? "" : ", ") + to_string(dtype);
  }
  throw ArgumentError(operation, "dtype", "one of " + all, "'" + name + "'");
}

}  // namespace pyconv
