#include "tests/network.h"

#include "kernels/dispatch.h"
#include "tests/cases.h"

namespace pyconv::tests {

namespace {

using Integers = std::vector<std::int64_t>;

Attributes conv2d(const Shape& kernel, const Integers& pads, std::int64_t stride, std::int64_t groups,
                  bool pooled) {
  Attributes attributes("conv2d");
  Array values = uniform(kernel);
  for (float& value : values.values) value *= 0.3F;
  attributes.set("kernel", values);
  attributes.set("bias", uniform({kernel[3]}));
  attributes.set("pads", pads);
  attributes.set("strides", Integers{stride, stride});
  attributes.set("groups", groups);
  attributes.set("activation", std::string("relu"));
  if (pooled) {
    attributes.set("pool_size", Integers{2, 2});
    attributes.set("pool_strides", Integers{2, 2});
  }
  return attributes;
}

Attributes dense(std::int64_t in, std::int64_t out, const std::string& storage) {
  Attributes attributes("dense");
  Array values = uniform({in, out});
  for (float& value : values.values) value *= 0.2F;
  attributes.set("weights", values);
  attributes.set("activation", std::string("tanh"));
  attributes.set("storage", storage);
  return attributes;
}

}  // namespace

std::unique_ptr<Program> make_network(int threads) {
  const Integers kNone = {0, 0, 0, 0}, kSame = {1, 1, 1, 1};
  ProgramBuilder builder(kernels::selected());
  int value = builder.input("x", {{kBatch, 20, 20, 1}, DType::kFloat32});
  const auto add = [&](const Attributes& attributes, const std::vector<int>& inputs) {
    value = builder.add(attributes, inputs, "");
  };
  add(conv2d({3, 3, 1, 17}, kNone, 1, 1, true), {value});    // (9, 9, 17)
  add(conv2d({3, 3, 17, 24}, kSame, 1, 1, false), {value});  // (9, 9, 24)
  add(conv2d({3, 3, 1, 24}, kSame, 1, 24, false), {value});  // depthwise
  add(conv2d({1, 1, 24, 32}, kNone, 1, 1, false), {value});
  const int branch = value;
  add(conv2d({3, 3, 32, 32}, kSame, 1, 1, false), {value});
  add(Attributes("add"), {value, branch});
  add(conv2d({3, 3, 32, 33}, kNone, 1, 1, true), {value});  // (3, 3, 33)
  Attributes pool("max_pool2d");
  pool.set("kernel_size", Integers{2, 2});
  add(pool, {value});  // (2, 2, 33)
  add(conv2d({2, 2, 33, 40}, {1, 1, 0, 0}, 1, 1, false), {value});
  Attributes reshape("reshape");
  reshape.set("shape", Integers{-1, 160});
  add(reshape, {value});
  add(dense(160, 130, "float32"), {value});
  add(dense(130, 70, "bfloat16"), {value});
  add(dense(70, 40, "int8"), {value});
  Attributes integers = dense(40, kClasses, "int8");
  integers.set("x_scale", 1.0 / 128);
  integers.set("x_below", std::int64_t{128});
  add(integers, {value});
  add(Attributes("softmax"), {value});
  return builder.build({value}, threads);
}

}  // namespace pyconv::tests
