// SPDX-License-Identifier: Apache-2.0
/// A module of a quantized checkpoint as the inputs of ONNX Runtime's MatMulNBits: B, scales and
/// zero_points, with an input A and our product Y to compare with.
#include <cstdio>
#include <random>

#include "command_line.hpp"
#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/onnx_matmul_nbits.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/matrix/group_codes.hpp"

namespace {

namespace checkpoint = subbyte::checkpoint;
using subbyte::index_t;

checkpoint::stored_tensor float_tensor(const char* name, const subbyte::tensor<float, 2>& values) {
  checkpoint::stored_tensor out{
      name, subbyte::safetensors::dtype::f32, {values.extent(0), values.extent(1)}, {}};
  out.bytes.resize(static_cast<std::size_t>(values.size()) * 4);
  for (index_t i = 0; i < values.size(); ++i) {
    subbyte::store_le(out.bytes.data() + 4 * i, subbyte::bit_cast<std::uint32_t>(values.data()[i]));
  }
  return out;
}

// Y = A W^T by the codes.
template <int Bits>
subbyte::tensor<float, 2> multiply(const subbyte::group_codes& w,
                                   const subbyte::tensor<float, 2>& a) {
  if constexpr (Bits > 2) {
    if (w.bits < Bits) return multiply<Bits / 2>(w, a);
  }
  using grid = subbyte::int_grid<Bits>;
  const auto planar = subbyte::to_planar<grid, subbyte::f32_scale>(w);
  subbyte::tensor<float, 2> y(subbyte::uninitialized, a.extent(0), w.rows());
  subbyte::gemm(planar.view(), a.view(), y.view());
  return y;
}

}  // namespace

int main(int argc, char** argv) {
  std::string input, module, output;
  index_t tokens = 8;
  CLI::App app("Writes the tensors of one MatMulNBits node, an input A and our product Y.",
               "matmul_nbits");
  app.add_option("input", input, "folder of a quantized checkpoint of 2, 4 or 8 bits")->required();
  app.add_option("module", module, "model.layers.0.mlp.up_proj")->required();
  app.add_option("output", output, "safetensors file to write")->required();
  app.add_option("--tokens", tokens, "rows of A")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  return example::run(app, argc, argv, [&] {
    const subbyte::group_codes w = checkpoint::directory(input).load_codes(module);
    checkpoint::stored_tensors all = checkpoint::store_matmul_nbits(w, "");
    subbyte::tensor<float, 2> a(subbyte::uninitialized, tokens, w.cols());
    std::mt19937_64 generator(7);
    for (index_t i = 0; i < a.size(); ++i) {
      a.data()[i] = static_cast<float>(static_cast<double>(generator() >> 40) / (1 << 23) - 1);
    }
    all.push_back(float_tensor("A", a));
    all.push_back(float_tensor("Y", multiply<8>(w, a)));
    subbyte::safetensors::writer out(output);
    for (const auto& t : all) t.declare(out);
    for (const auto& t : all) t.write(out);
    out.finish();
    std::printf("MatMulNBits: K %lld, N %lld, bits %d, block_size %lld%s\n",
                static_cast<long long>(w.cols()), static_cast<long long>(w.rows()), w.bits,
                static_cast<long long>(w.group_size), w.symmetric() ? "" : ", with zero_points");
  });
}
