// Pools that are not fused, by rows of windows and by the taps of single ones.
#include <algorithm>

#include "benchmarks/kernel_benchmark.h"

namespace pyconv::benchmarks {

namespace {

using kernels::KernelTable;

// A row of square windows inside a map of its own.
class PoolBenchmark final : public KernelBenchmark {
 public:
  PoolBenchmark(const KernelTable& table, bool maximum, bool by_taps, std::int64_t window,
                std::int64_t stride, std::int64_t columns, std::int64_t channels)
      : table_(table),
        maximum_(maximum),
        by_taps_(by_taps),
        width_((columns - 1) * stride + window),
        map_(uniform(window * width_ * channels, 1)),
        out_(static_cast<std::size_t>(columns * channels)) {
    row_.map = map_.data();
    row_.row_pitch = width_ * channels;
    row_.height = row_.width = window;
    row_.stride = stride;
    row_.columns = columns;
    row_.channels = row_.out_step = channels;
    row_.scale = 1.0F / static_cast<float>(window * window);
    row_.out = out_.data();
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t t = 0; t < window * window; ++t) {
        taps_.push_back(map_.data() + t / window * row_.row_pitch + (j * stride + t % window) * channels);
      }
    }
  }

  void run() override {
    if (!by_taps_) {
      (maximum_ ? table_.max_pool_row : table_.average_pool_row)(row_);
      return;
    }
    const std::int64_t count = row_.height * row_.width;
    for (std::int64_t j = 0; j < row_.columns; ++j) {
      const float* const* taps = taps_.data() + j * count;
      float* out = out_.data() + j * row_.channels;
      if (maximum_) {
        table_.max_pool(taps, count, row_.channels, out);
      } else {
        table_.average_pool(taps, count, row_.channels, row_.scale, out);
      }
    }
  }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t j = 0; j < row_.columns; ++j) {
      for (std::int64_t c = 0; c < row_.channels; ++c) {
        double most = -2.0, sum = 0.0;
        for (std::int64_t u = 0; u < row_.height; ++u) {
          for (std::int64_t v = 0; v < row_.width; ++v) {
            const auto x =
                static_cast<double>(row_.map[u * row_.row_pitch + (j * row_.stride + v) * row_.channels + c]);
            most = std::max(most, x);
            sum += x;
          }
        }
        expected.push_back(maximum_ ? most : sum / static_cast<double>(row_.height * row_.width));
      }
    }
    return difference(all_of(out_), expected, maximum_ ? 0.0 : 1e-6);
  }

  Work work() const override { return {0, static_cast<double>((map_.size() + out_.size()) * sizeof(float))}; }

 private:
  const KernelTable& table_;
  bool maximum_, by_taps_;
  std::int64_t width_;
  AlignedBuffer map_, out_;
  std::vector<const float*> taps_;
  kernels::PoolRow row_{};
};

}  // namespace

void add_pool_kernels(List& list) {
  for (const auto& [window, stride] : {std::pair{2, 2}, std::pair{3, 2}}) {
    for (const std::int64_t channels : {16, 64}) {
      const std::string sizes =
          text("/window:", window, "/stride:", stride, "/columns:13/channels:", channels);
      list.add<PoolBenchmark>("max_pool_row" + sizes, true, false, window, stride, 13, channels);
      list.add<PoolBenchmark>("average_pool_row" + sizes, false, false, window, stride, 13, channels);
      list.add<PoolBenchmark>("max_pool" + sizes, true, true, window, stride, 13, channels);
      list.add<PoolBenchmark>("average_pool" + sizes, false, true, window, stride, 13, channels);
    }
  }
}

}  // namespace pyconv::benchmarks
