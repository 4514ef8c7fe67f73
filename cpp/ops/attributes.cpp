#include "ops/attributes.h"

#include "base/errors.h"

namespace pyconv {

bool Attributes::has(const std::string& name) const { return values_.contains(name); }

const Attributes::Value* Attributes::find(const std::string& name) const {
  used_.insert(name);
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : &found->second;
}

template <class T>
const T* Attributes::find_as(const std::string& name, const char* kind) const {
  const Value* value = find(name);
  if (value == nullptr) return nullptr;
  if (const T* typed = std::get_if<T>(value)) return typed;
  throw ArgumentError(operation_, name, kind, "a value of another type");
}

std::int64_t Attributes::integer(const std::string& name, std::int64_t otherwise) const {
  const auto* value = find_as<std::int64_t>(name, "an integer");
  return value == nullptr ? otherwise : *value;
}

double Attributes::number(const std::string& name, double otherwise) const {
  const Value* value = find(name);
  if (value == nullptr) return otherwise;
  if (const auto* real = std::get_if<double>(value)) return *real;
  if (const auto* whole = std::get_if<std::int64_t>(value)) return static_cast<double>(*whole);
  throw ArgumentError(operation_, name, "a number", "a value of another type");
}

std::string Attributes::text(const std::string& name, const std::string& otherwise) const {
  const auto* value = find_as<std::string>(name, "a string");
  return value == nullptr ? otherwise : *value;
}

std::vector<std::int64_t> Attributes::integers(const std::string& name) const {
  const auto* value = find_as<std::vector<std::int64_t>>(name, "a list of integers");
  if (value == nullptr) throw ArgumentError(operation_, name, "a list of integers", "nothing");
  return *value;
}

std::vector<std::int64_t> Attributes::integers(const std::string& name,
                                               std::vector<std::int64_t> otherwise) const {
  return find(name) == nullptr ? std::move(otherwise) : integers(name);
}

const Array* Attributes::optional_array(const std::string& name) const {
  return find_as<Array>(name, "a float32 array");
}

const Array& Attributes::array(const std::string& name) const {
  const Array* value = optional_array(name);
  if (value == nullptr) throw ArgumentError(operation_, name, "a float32 array", "nothing");
  return *value;
}

void Attributes::check_all_used() const {
  std::string unknown;
  for (const auto& [name, value] : values_) {
    if (!used_.contains(name)) unknown += (unknown.empty() ? "" : ", ") + name;
  }
  if (!unknown.empty()) {
    throw ArgumentError(operation_ + ": it has no attribute named " + unknown);
  }
}

}  // namespace pyconv
