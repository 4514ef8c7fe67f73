// What a micro-benchmark of a kernel is, and the one list of them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace pyconv::benchmarks {

// What the definition asks of one call of `run`, on the sizes that the caller sees: what fills up panels and
// vectors counts for nothing, and Winograd's kernels are credited with all products of the convolution.
struct Work {
  double flops = 0;  // a multiply-add is two; 0 where the kernel only moves or transforms
  double bytes = 0;  // read and written at least once; 0 where arithmetic is the limit
};

// A kernel with data to work on. It is compared with naive loops in double precision before it is timed.
class KernelBenchmark {
 public:
  virtual ~KernelBenchmark() = default;

  virtual void run() = 0;
  // After `run`: nothing where the results are right, else how far off they are.
  virtual std::string fault() const = 0;
  virtual Work work() const = 0;
};

struct Entry {
  std::string name;  // level/kernel/sizes
  const kernels::KernelTable* table;
  // Data are made only for those that run.
  std::function<std::unique_ptr<KernelBenchmark>()> make;
};

// The benchmarks of one ISA level.
class List {
 public:
  explicit List(const kernels::KernelTable& table) : table_(&table) {}

  // T is constructed from the table and the arguments.
  template <class T, class... Args>
  void add(const std::string& name, Args... args) {
    const kernels::KernelTable* table = table_;
    entries_.push_back({std::string(table->name) + "/" + name, table,
                        [table, args...] { return std::make_unique<T>(*table, args...); }});
  }

  const kernels::KernelTable& table() const { return *table_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  const kernels::KernelTable* table_;
  std::vector<Entry> entries_;
};

void add_matrix_kernels(List& list);
void add_convolution_kernels(List& list);
void add_pool_kernels(List& list);
void add_elementwise_kernels(List& list);

// Numbers between -1 and 1, the same for the same count and seed.
AlignedBuffer uniform(std::int64_t count, unsigned seed);

// How far a float32 sum of `terms` products may be off where no factor is above 1 in size: four times the
// likely error, as in tests/ops/conftest.py.
double product_tolerance(std::int64_t terms);

// Nothing where all |got - expected| are within the tolerance, else the worst of them.
std::string difference(std::span<const float> got, std::span<const double> expected, double tolerance);

inline std::span<const float> all_of(const AlignedBuffer& buffer) { return {buffer.data(), buffer.size()}; }

// The parts one after another.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

inline double clamp(double x, float lowest, float highest) {
  return x < static_cast<double>(lowest)    ? static_cast<double>(lowest)
         : x > static_cast<double>(highest) ? static_cast<double>(highest)
                                            : x;
}

}  // namespace pyconv::benchmarks
