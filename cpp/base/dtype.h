// The types that a tensor's elements may have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace pyconv {

enum class DType : std::uint8_t {
  kFloat32,
  kFloat64,
  kBool,
  kInt8,
  kUint8,
  kInt16,
  kUint16,
  kInt32,
  kInt64,
};

// Every one of them.
inline constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBool,
                                    DType::kInt8,    DType::kUint8,   DType::kInt16,
                                    DType::kUint16,  DType::kInt32,   DType::kInt64};

// Bytes of an element.
std::size_t size_of(DType dtype);

// NumPy's name, such as "float32".
const std::string& to_string(DType dtype);

// The type of that name; throws ArgumentError for a name that is none, with `operation` in front.
DType parse_dtype(const std::string& operation, const std::string& name);

// Calls f.operator()<T>() with the C++ type of a dtype.
template <class F>
decltype(auto) with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat64:
      return std::forward<F>(f).template operator()<double>();
    case DType::kBool:
      return std::forward<F>(f).template operator()<bool>();
    case DType::kInt8:
      return std::forward<F>(f).template operator()<std::int8_t>();
    case DType::kUint8:
      return std::forward<F>(f).template operator()<std::uint8_t>();
    case DType::kInt16:
      return std::forward<F>(f).template operator()<std::int16_t>();
    case DType::kUint16:
      return std::forward<F>(f).template operator()<std::uint16_t>();
    case DType::kInt32:
      return std::forward<F>(f).template operator()<std::int32_t>();
    case DType::kInt64:
      return std::forward<F>(f).template operator()<std::int64_t>();
    case DType::kFloat32:
      break;
  }
  return std::forward<F>(f).template operator()<float>();
}

}  // namespace pyconv
