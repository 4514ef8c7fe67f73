#include "tests/cases.h"

#include <algorithm>
#include <random>
#include <sstream>

namespace pyconv::tests {

namespace {

using Integers = std::vector<std::int64_t>;

// Around one, two and four vectors of every level, and around the panels that they make.
const Integers kChannels = {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65};
const Integers kFewChannels = {1, 4, 7, 8, 17, 33};

struct Conv {
  std::int64_t in;
  std::int64_t out;
  std::int64_t height = 6;
  std::int64_t width = 7;
  std::int64_t kernel_height = 3;
  std::int64_t kernel_width = 3;
  Integers pads = {0, 0, 0, 0};
  std::int64_t stride = 1;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
  std::int64_t pool = 0;  // a window of so many rows and columns, 2 apart
  std::string activation = "relu";
  bool residual = false;
};

std::string text(const Integers& integers) {
  std::ostringstream stream;
  for (const std::int64_t integer : integers) stream << integer << " ";
  return stream.str();
}

// Both layouts of x.
void add(std::vector<Case>& cases, const Conv& conv) {
  const auto map = [&](std::int64_t size, std::size_t axis, std::int64_t kernel) {
    return (size + conv.pads[axis] + conv.pads[axis + 2] - conv.dilation * (kernel - 1) - 1) / conv.stride +
           1;
  };
  const std::int64_t smallest =
      std::min(map(conv.height, 0, conv.kernel_height), map(conv.width, 1, conv.kernel_width));
  if (smallest < conv.pool) return;  // no window fits
  for (const std::int64_t channels_first : {0, 1}) {
    Attributes attributes("conv2d");
    attributes.set("kernel",
                   uniform({conv.kernel_height, conv.kernel_width, conv.in / conv.groups, conv.out}));
    attributes.set("bias", uniform({conv.out}));
    attributes.set("pads", conv.pads);
    attributes.set("strides", Integers{conv.stride, conv.stride});
    attributes.set("dilations", Integers{conv.dilation, conv.dilation});
    attributes.set("groups", conv.groups);
    attributes.set("activation", conv.activation);
    if (conv.pool > 0) {
      attributes.set("pool_size", Integers{conv.pool, conv.pool});
      attributes.set("pool_strides", Integers{2, 2});
    }
    attributes.set("channels_first", channels_first);
    attributes.set("residual", std::int64_t{conv.residual});
    const Shape x = channels_first != 0 ? Shape{2, conv.in, conv.height, conv.width}
                                        : Shape{2, conv.height, conv.width, conv.in};
    std::vector<Shape> inputs = {x};
    if (conv.residual) {
      if (channels_first != 0) continue;
      inputs.push_back(
          {2, map(conv.height, 0, conv.kernel_height), map(conv.width, 1, conv.kernel_width), conv.out});
    }
    std::ostringstream name;
    name << "conv2d in " << conv.in << " out " << conv.out << " map " << conv.height << "x" << conv.width
         << " kernel " << conv.kernel_height << "x" << conv.kernel_width << " pads " << text(conv.pads)
         << "stride " << conv.stride << " dilation " << conv.dilation << " groups " << conv.groups << " pool "
         << conv.pool << (channels_first != 0 ? " channels first" : "") << (conv.residual ? " residual" : "");
    cases.push_back({name.str(), attributes, inputs});
  }
}

Case one_input(const std::string& operation, const Shape& x, Attributes attributes) {
  return {operation + " of " + text({x.sizes().begin(), x.sizes().end()}), std::move(attributes), {x}};
}

// From planes to planes, depthwise and pointwise: around one and two vectors, and blocks of rows or filters.
void add_planes(std::vector<Case>& cases) {
  const auto add = [&](std::int64_t size, std::int64_t in, std::int64_t filters, std::int64_t groups,
                       const Shape& map, const std::string& activation) {
    Attributes attributes("conv2d");
    attributes.set("kernel", uniform({size, size, in / groups, filters}));
    attributes.set("bias", uniform({filters}));
    attributes.set("groups", groups);
    attributes.set("pads", Integers(4, size / 2));
    attributes.set("activation", activation);
    attributes.set("channels_first", std::int64_t{1});
    attributes.set("output_channels_first", std::int64_t{1});
    std::ostringstream name;
    name << "conv2d by planes in " << in << " out " << filters << " groups " << groups << " map " << map[0]
         << "x" << map[1];
    cases.push_back({name.str(), attributes, {{2, in, map[0], map[1]}}});
  };
  for (const std::int64_t width : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33}) {
    for (const std::int64_t height : {1, 2, 5, 7}) {
      add(3, 2, 2, 2, {height, width}, height == 5 ? "tanh" : "relu");
    }
    for (const std::int64_t filters : {1, 2, 7, 8, 9}) {
      add(1, 3, filters, 1, {1, width}, filters == 7 ? "tanh" : "relu");
    }
  }
}

void add_pools(std::vector<Case>& cases) {
  for (const char* operation : {"max_pool2d", "average_pool2d"}) {
    for (const std::int64_t channels : kChannels) {
      for (const std::int64_t window : {2, 3}) {
        Attributes attributes(operation);
        attributes.set("kernel_size", Integers{window, window});
        attributes.set("strides", Integers{2, 2});
        attributes.set("pads", Integers{0, 1, 1, 0});
        cases.push_back(one_input(operation, {2, 7, 8, channels}, attributes));
      }
    }
  }
  for (const char* operation : {"global_max_pool2d", "global_average_pool2d"}) {
    for (const std::int64_t channels : kFewChannels) {
      cases.push_back(one_input(operation, {2, 3, 5, channels}, Attributes(operation)));
    }
  }
}

void add_dense(std::vector<Case>& cases) {
  const auto dense = [&](std::int64_t rows, std::int64_t in, std::int64_t out, int storage) {
    Attributes attributes("dense");
    attributes.set("weights", uniform({in, out}));
    attributes.set("bias", uniform({out}));
    attributes.set("activation", std::string("tanh"));
    if (storage > 0) attributes.set("storage", std::string(storage == 1 ? "bfloat16" : "int8"));
    if (storage == 3) {
      attributes.set("x_scale", 1.0 / 256);
      attributes.set("x_below", std::int64_t{90});
    }
    cases.push_back(
        {"dense " + text({rows, in, out}) + "storage " + std::to_string(storage), attributes, {{rows, in}}});
  };
  for (int storage = 0; storage < 4; ++storage) {
    for (const std::int64_t rows : {1, 2, 3, 7}) {
      for (const std::int64_t size : kChannels) {
        dense(rows, size, 10, storage);
        dense(rows, 9, size, storage);
      }
      // Several panels at once, and what is left of them.
      for (const std::int64_t out : {96, 97, 130, 159, 161, 200, 256, 290}) dense(rows, 9, out, storage);
    }
  }
}

void add_elementwise(std::vector<Case>& cases) {
  for (const char* name : {"relu", "elu", "tanh", "gelu", "softplus", "quantize"}) {
    for (const std::int64_t count : kChannels) {
      Attributes attributes("activation");
      attributes.set("activation", std::string(name));
      if (std::string(name) == "quantize") attributes.set("alpha", 0.125);
      cases.push_back(one_input(name, {count}, attributes));
    }
  }
  for (const char* operation : {"softmax", "log_softmax"}) {
    for (const std::int64_t axis : {0, 1}) {
      for (const std::int64_t count : kFewChannels) {
        Attributes attributes(operation);
        attributes.set("axis", axis);
        cases.push_back(one_input(operation, {3, count}, attributes));
      }
    }
  }
  for (const char* operation : {"add", "maximum"}) {
    for (const std::int64_t count : kChannels) {
      for (const Shape& b : {Shape{3, count}, Shape{count}, Shape{3, 1}, Shape{}}) {
        cases.push_back(
            {operation + text({count, b.rank(), b.count()}), Attributes(operation), {{3, count}, b}});
      }
    }
  }
  for (const std::int64_t count : kChannels) {
    Attributes transpose("transpose");
    transpose.set("permutation", Integers{0, 2, 1});
    cases.push_back(one_input("transpose", {2, count, 19}, transpose));
    cases.push_back(one_input("transpose", {2, 19, count}, transpose));
    for (const char* function : {"mean", "max"}) {
      for (const std::int64_t axis : {1, 2}) {
        Attributes reduce("reduce");
        reduce.set("function", std::string(function));
        reduce.set("axes", Integers{axis});
        cases.push_back(one_input("reduce", {7, 5, count}, reduce));
      }
    }
    cases.push_back({"matmul " + text({count}), Attributes("matmul"), {{2, 5, count}, {count, 17}}});
    cases.push_back({"matmul by " + text({count}), Attributes("matmul"), {{2, 5, 9}, {9, count}}});
    cases.push_back(one_input("layer_normalization", {2, 5, count}, Attributes("layer_normalization")));
  }
}

}  // namespace

Array uniform(const Shape& shape) {
  std::seed_seq seed(shape.sizes().begin(), shape.sizes().end());
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> between(-1.0F, 1.0F);
  Array array{shape, std::vector<float>(static_cast<std::size_t>(shape.count()))};
  for (float& value : array.values) value = between(random);
  return array;
}

std::vector<Case> convolution_cases() {
  std::vector<Case> cases;
  add_planes(cases);
  const Integers kNone = {0, 0, 0, 0}, kSome = {1, 0, 2, 1};
  for (const std::int64_t pool : {0, 2, 3}) {
    for (const Integers& pads : {kNone, kSome}) {
      // Stencils: windows of few floats.
      for (const std::int64_t out : kChannels) add(cases, {1, out, 6, 7, 3, 3, pads, 1, 1, 1, pool});
      for (const std::int64_t out : kFewChannels) {
        add(cases, {3, out, 6, 13, 3, 3, pads, 1, 1, 1, pool});
        add(cases, {1, out, 8, 12, 5, 5, pads, 1, 1, 1, pool});
      }
      // One row of a stencil's tiles and the next.
      for (const std::int64_t width : {5, 65, 66, 67, 68, 70}) {
        add(cases, {1, 5, 5, width, 3, 3, pads, 1, 1, 1, pool});
      }
      // Winograd: every tile, cut along the edges.
      for (const std::int64_t channels : {16, 17, 31, 33, 64, 65}) {
        add(cases, {channels, 17, 6, 7, 3, 3, pads, 1, 1, 1, pool});
        add(cases, {16, channels, 12, 12, 3, 3, pads, 1, 1, 1, pool});
      }
      for (const std::int64_t size : {4, 5, 9, 10, 11, 13}) {
        add(cases, {16, 16, size, size + 1, 3, 3, pads, 1, 1, 1, pool});
      }
      // More tiles in a row than go together.
      add(cases, {16, 16, 5, 260, 3, 3, pads, 1, 1, 1, pool});
      // Pointwise.
      for (const std::int64_t channels : kFewChannels) {
        add(cases, {channels, 9, 4, 5, 1, 1, pads, 1, 1, 1, pool});
        add(cases, {5, channels, 4, 5, 1, 1, pads, 1, 1, 1, pool});
      }
      // Depthwise.
      for (const std::int64_t channels : kChannels) {
        if (channels > 1) add(cases, {channels, channels, 6, 7, 3, 3, pads, 1, 1, channels, pool});
      }
      for (const std::int64_t stride : {1, 2}) {
        for (const std::int64_t width : {11, 12, 41}) {
          add(cases, {9, 9, 11, width, 5, 5, pads, stride, 1, 9, pool});
          add(cases, {9, 9, 11, width, 3, 3, pads, stride, 1, 9, pool});
        }
      }
      // Gathered rows.
      for (const std::int64_t channels : kFewChannels) {
        add(cases, {channels, 9, 6, 7, 2, 3, pads, 1, 1, 1, pool});
        add(cases, {5, channels, 6, 7, 2, 3, pads, 1, 1, 1, pool});
        add(cases, {channels, 9, 11, 12, 3, 3, pads, 2, 1, 1, pool});
        add(cases, {channels, 9, 9, 11, 3, 3, pads, 1, 2, 1, pool});
        add(cases, {2 * channels, 2 * channels, 6, 7, 2, 2, pads, 1, 1, 2, pool});
      }
    }
  }
  for (const char* activation : {"linear", "gelu"}) {
    for (const std::int64_t channels : {16, 17, 33}) {
      add(cases, {channels, channels, 7, 7, 3, 3, kSome, 1, 1, 1, 0, activation});
      add(cases, {channels, channels, 7, 7, 2, 2, kSome, 1, 1, 1, 0, activation});
      add(cases, {channels, channels, 7, 7, 3, 3, kSome, 1, 1, 1, 0, activation, true});
      add(cases, {channels, channels, 7, 7, 1, 1, {0, 0, 0, 0}, 1, 1, 1, 0, activation, true});
    }
  }
  return cases;
}

std::vector<Case> other_cases() {
  std::vector<Case> cases;
  add_pools(cases);
  add_dense(cases);
  add_elementwise(cases);
  return cases;
}

}  // namespace pyconv::tests
