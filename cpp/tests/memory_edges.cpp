// Operators neither read nor write beside their memory, at every ISA level.
//
// The sanitizers do not see what masked loads and stores touch, and give rounded-up buffers their rounding.
// Here inputs, outputs and scratch memory end just before a page that nobody may touch, and then begin just
// behind one; what an operator keeps to itself (weights, biases, rows of zeros) ends before such pages too.
// Output and scratch memory are NaN beforehand, so that reading what was never written shows in the result,
// which is compared with the naive loops in double precision.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "kernels/dispatch.h"
#include "ops/operator.h"
#include "reference/reference.h"
#include "tests/cases.h"

namespace pyconv::tests {

namespace {

constexpr std::size_t kPage = 4096;

std::size_t pages_for(std::size_t bytes) { return (bytes + kPage - 1) / kPage; }

void require(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::abort();
}

// -- Memory between two pages that nobody may touch --------------------------------------------

enum class Edge { kBegin, kEnd };

class Fenced {
 public:
  Fenced(std::int64_t floats, Edge edge, std::size_t alignment)
      : bytes_(static_cast<std::size_t>(floats) * sizeof(float)),
        mapped_bytes_((pages_for(bytes_) + 2) * kPage) {
    void* const mapped =
        mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(mapped != MAP_FAILED, "mmap");
    mapped_ = static_cast<char*>(mapped);
    inner_ = mapped_ + kPage;
    inner_bytes_ = mapped_bytes_ - 2 * kPage;
    require(inner_bytes_ == 0 || mprotect(inner_, inner_bytes_, PROT_READ | PROT_WRITE) == 0, "mprotect");
    std::memset(inner_, kFill, inner_bytes_);
    data_ = edge == Edge::kBegin ? inner_ : inner_ + (inner_bytes_ - bytes_) / alignment * alignment;
  }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  ~Fenced() { munmap(mapped_, mapped_bytes_); }

  float* data() { return reinterpret_cast<float*>(data_); }
  // Whether nobody wrote to the bytes on the same pages beside the memory.
  bool untouched() const {
    const auto filled = [](char byte) { return byte == static_cast<char>(kFill); };
    return std::all_of(inner_, data_, filled) && std::all_of(data_ + bytes_, inner_ + inner_bytes_, filled);
  }

 private:
  static constexpr int kFill = 0xFF;  // four of them are a NaN
  std::size_t bytes_, mapped_bytes_, inner_bytes_;
  char *mapped_, *inner_, *data_;
};

// -- Allocations that end before a page that nobody may touch ----------------------------------

// While it is on, `new` takes whole pages of a reserved range, each allocation's followed by one that stays
// closed.
class FencedNew {
 public:
  static bool on;

  static void* take(std::size_t bytes) {
    if (begin_ == nullptr) {
      void* const mapped =
          mmap(nullptr, kPages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      require(mapped != MAP_FAILED, "mmap");
      begin_ = static_cast<char*>(mapped);
    }
    const std::size_t pages = std::max<std::size_t>(pages_for(bytes), 1);
    require(next_ + pages < kPages, "the reserved range is too small");
    char* const page = begin_ + next_ * kPage;
    require(mprotect(page, pages * kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
    pages_[next_] = static_cast<unsigned>(pages);
    next_ += pages + 1;
    return page + (pages * kPage - bytes) / kAlignment * kAlignment;
  }

  static bool owns(const void* p) {
    const char* const byte = static_cast<const char*>(p);
    return begin_ != nullptr && byte >= begin_ && byte < begin_ + kPages * kPage;
  }

  // Closed again, and never given out a second time: a later use is a fault too.
  static void give_back(void* p) {
    const std::size_t index = static_cast<std::size_t>(static_cast<char*>(p) - begin_) / kPage;
    void* const mapped = mmap(begin_ + index * kPage, pages_[index] * kPage, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    require(mapped != MAP_FAILED, "mmap");
  }

 private:
  static constexpr std::size_t kPages = std::size_t{1} << 22;  // 16 GB of addresses, hardly any memory
  static constexpr std::size_t kAlignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;
  static char* begin_;
  static std::size_t next_;
  static unsigned pages_[kPages];  // by an allocation's first page
};

bool FencedNew::on = false;
char* FencedNew::begin_ = nullptr;
std::size_t FencedNew::next_ = 0;
unsigned FencedNew::pages_[FencedNew::kPages];

// -- The test ----------------------------------------------------------------------------------

char current[512];  // what runs, for the handler of a fault

void report_fault(int) {
  constexpr char kText[] = "touched memory beside its own: ";
  std::size_t ignored = static_cast<std::size_t>(write(STDERR_FILENO, kText, sizeof kText - 1));
  ignored = static_cast<std::size_t>(write(STDERR_FILENO, current, std::strlen(current)));
  static_cast<void>(ignored);
  _exit(1);
}

std::unique_ptr<Operator> make_fenced(const Case& test, const std::vector<TensorType>& types,
                                      const kernels::KernelTable& table) {
  FencedNew::on = true;
  std::unique_ptr<Operator> op = make_operator(test.attributes, types, table);
  FencedNew::on = false;
  return op;
}

// The same elements for the naive loops, which take images with their channels last.
reference::Tensor reference_input(const Case& test, const Shape& shape) {
  const Array array = uniform(shape);
  if (test.attributes.operation() != "conv2d" || test.attributes.integer("channels_first", 0) == 0) {
    return {shape, {array.values.begin(), array.values.end()}};
  }
  reference::Tensor x{{shape[0], shape[2], shape[3], shape[1]}, {}};
  const std::int64_t pixels = shape[2] * shape[3];
  for (std::int64_t n = 0; n < shape[0]; ++n) {
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
      for (std::int64_t c = 0; c < shape[1]; ++c) {
        const auto place = static_cast<std::size_t>((n * shape[1] + c) * pixels + pixel);
        x.values.push_back(static_cast<double>(array.values[place]));
      }
    }
  }
  return x;
}

// What the naive loops give, which make images with their channels last, as the operator lays it out.
std::vector<double> reference_output(const Case& test, const reference::Tensor& y) {
  if (test.attributes.integer("output_channels_first", 0) == 0) return y.values;
  std::vector<double> planes;
  const std::int64_t channels = y.shape[3], pixels = y.shape[1] * y.shape[2];
  for (std::int64_t n = 0; n < y.shape[0]; ++n) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        planes.push_back(y.values[static_cast<std::size_t>((n * pixels + pixel) * channels + c)]);
      }
    }
  }
  return planes;
}

// How far `got` is from the naive loops, as a share of what is allowed; above 1 it is wrong.
double error(const float* got, const std::vector<double>& expected) {
  double scale = 1.0;
  for (const double value : expected) scale = std::max(scale, std::abs(value));
  double most = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double off = std::abs(static_cast<double>(got[i]) - expected[i]);
    most = std::isnan(off) ? std::numeric_limits<double>::infinity() : std::max(most, off);
  }
  return most / (2e-5 * scale);
}

bool passes(const Case& test, const std::vector<double>& expected, const kernels::KernelTable& table,
            Edge edge) {
  std::snprintf(current, sizeof current, "%s, %s, memory at the %s of a page\n", table.name,
                test.name.c_str(), edge == Edge::kBegin ? "begin" : "end");
  std::vector<TensorType> types;
  for (const Shape& shape : test.inputs) types.push_back({shape, DType::kFloat32});
  const std::unique_ptr<Operator> op = make_fenced(test, types, table);

  std::vector<std::unique_ptr<Fenced>> memory;
  std::vector<ConstTensor> inputs;
  for (const Shape& shape : test.inputs) {
    memory.push_back(std::make_unique<Fenced>(shape.count(), edge, alignof(float)));
    const Array array = uniform(shape);
    std::copy(array.values.begin(), array.values.end(), memory.back()->data());
    inputs.push_back({memory.back()->data(), shape});
  }
  const Shape& shape = op->output_shape();
  memory.push_back(std::make_unique<Fenced>(shape.count(), edge, alignof(float)));
  const Tensor output{memory.back()->data(), shape};
  memory.push_back(
      std::make_unique<Fenced>(static_cast<std::int64_t>(op->workspace_size()), edge, kAlignment));
  op->run(inputs, output, {0, op->units(inputs, output)}, memory.back()->data());

  for (const auto& each : memory) {
    if (each->untouched()) continue;
    std::fprintf(stderr, "wrote beside its memory: %s", current);
    return false;
  }
  const double off = error(output.data, expected);
  if (off <= 1.0) return true;
  std::fprintf(stderr, "off by %g of what is allowed: %s", off, current);
  return false;
}

int run() {
  std::signal(SIGSEGV, report_fault);
  std::signal(SIGBUS, report_fault);
  std::vector<Case> cases = convolution_cases();
  for (Case& other : other_cases()) cases.push_back(std::move(other));
  std::size_t runs = 0, failures = 0;
  for (const Case& test : cases) {
    std::vector<reference::Tensor> inputs;
    for (const Shape& shape : test.inputs) inputs.push_back(reference_input(test, shape));
    const std::vector<double> expected = reference_output(test, reference::run(test.attributes, inputs));
    for (const kernels::KernelTable* table : kernels::available()) {
      for (const Edge edge : {Edge::kBegin, Edge::kEnd}) {
        ++runs;
        if (!passes(test, expected, *table, edge)) ++failures;
      }
    }
  }
  std::printf("memory_edges: %zu of %zu runs of %zu cases failed\n", failures, runs, cases.size());
  return failures == 0 ? 0 : 1;
}

}  // namespace

}  // namespace pyconv::tests

void* operator new(std::size_t bytes) {
  using pyconv::tests::FencedNew;
  void* const p = FencedNew::on ? FencedNew::take(bytes) : std::malloc(std::max<std::size_t>(bytes, 1));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void operator delete(void* p) noexcept {
  using pyconv::tests::FencedNew;
  if (FencedNew::owns(p)) {
    FencedNew::give_back(p);
  } else {
    std::free(p);
  }
}

void operator delete(void* p, std::size_t) noexcept { operator delete(p); }

int main() { return pyconv::tests::run(); }
