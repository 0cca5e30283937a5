// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/rtn.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/golden_python.hpp"
#include "support/layers.hpp"
#include "support/planes.hpp"

using namespace subbyte;
using test_support::codes_of;
using test_support::golden_file;
using test_support::golden_values;

namespace {

template <class G>
void require_gptq(const std::string& leaf, index_t group_size) {
  const auto file = golden_file("gptqmodel/" + leaf + ".safetensors");
  const auto input = golden_values<float>(file, "input");
  const index_t rows = file.tensor("input").rows();
  const index_t cols = file.tensor("input").cols();
  planar_matrix<G, f32_scale> target(rows, cols, {group_size});
  rtn{.rule = grid_rule::gptq}.apply(matrix_view<const float>(input.data(), rows, cols), target,
                                     serial);
  INFO(leaf);
  REQUIRE(codes_of(target) == golden_values<std::uint8_t>(file, "codes"));
  REQUIRE(test_support::scales_of(target) == golden_values<float>(file, "scale"));
  REQUIRE(test_support::zeros_of(target) == golden_values<std::int32_t>(file, "zero"));
}

}  // namespace

TEST_CASE("rtn: the gptq rule gives gptqmodel's scales, zero points and codes") {
  constexpr zero_points none = zero_points::none;
  require_gptq<int_grid<2>>("rtn_b2_asym_g32_32x128", 32);
  require_gptq<int_grid<4>>("rtn_b4_asym_g32_32x128", 32);
  require_gptq<int_grid<3, none>>("rtn_b3_sym_g64_32x128", 64);
  require_gptq<int_grid<4, none>>("rtn_b4_sym_g-1_16x256", 256);
  require_gptq<int_grid<4, none>>("rtn_b4_sym_g32_32x128", 32);
  require_gptq<int_grid<8, none>>("rtn_b8_sym_g128_32x128", 128);
}

TEST_CASE("rtn: the awq rule gives AutoAWQ's scales, zero points, codes and weights") {
  for (const int group : {32, 128}) {
    const index_t cols = group == 32 ? 128 : 256;
    const std::string end = "_g" + std::to_string(group) + "_32x" + std::to_string(cols);
    INFO(end);
    const rtn policy{.rule = grid_rule::awq};
    {
      const auto file = golden_file("autoawq/pseudo_asym" + end + ".safetensors");
      const auto input = golden_values<float>(file, "input");
      planar_matrix<int_grid<4>, f32_scale> target(32, cols, {group});
      policy.apply(matrix_view<const float>(input.data(), 32, cols), target, serial);
      REQUIRE(test_support::scales_of(target) == golden_values<float>(file, "scales"));
      REQUIRE(test_support::zeros_of(target) == golden_values<std::int32_t>(file, "zeros"));
      if (group == 128) {
        REQUIRE(codes_of(target) == golden_values<std::uint8_t>(file, "codes"));
      } else {
        REQUIRE(test_support::weights_of(target) == golden_values<float>(file, "dequantized"));
      }
    }
    const auto file = golden_file("autoawq/pseudo_sym" + end + ".safetensors");
    const auto input = golden_values<float>(file, "input");
    planar_matrix<int_grid<4, zero_points::none>, f32_scale> target(32, cols, {group});
    policy.apply(matrix_view<const float>(input.data(), 32, cols), target, serial);
    REQUIRE(test_support::scales_of(target) == golden_values<float>(file, "scales"));
    if (group == 128) {
      auto codes = golden_values<std::int8_t>(file, "codes");
      const auto ours = codes_of(target);
      for (std::size_t i = 0; i < codes.size(); ++i) REQUIRE(int{ours[i]} - 8 == int{codes[i]});
    } else {
      REQUIRE(test_support::weights_of(target) == golden_values<float>(file, "dequantized"));
    }
  }
}

namespace {

template <class G>
void require_compressed_tensors(const std::string& leaf, index_t group_size) {
  const auto file = golden_file("compressed_tensors/" + leaf + ".safetensors");
  const auto input = golden_values<float>(file, "input");
  const index_t rows = file.tensor("input").rows();
  const index_t cols = file.tensor("input").cols();
  planar_matrix<G, f32_scale> target(rows, cols, {group_size < cols ? group_size : cols});
  rtn{.rule = grid_rule::compressed_tensors}.apply(
      matrix_view<const float>(input.data(), rows, cols), target, serial);
  INFO(leaf);
  REQUIRE(test_support::scales_of(target) == golden_values<float>(file, "in.weight_scale"));
  const auto zeros = golden_values<std::int32_t>(file, "in.weight_zero_point");
  const auto ours = test_support::zeros_of(target);
  for (std::size_t i = 0; i < zeros.size(); ++i) {
    REQUIRE(ours[i] - G::middle_code == zeros[i]);
  }
  // Their words are our bytes, each row padded to whole words.
  const auto words = golden_values<std::uint8_t>(file, "layer.weight_packed");
  const auto view = target.view();
  const index_t pitch = static_cast<index_t>(words.size()) / rows;
  for (index_t r = 0; r < rows; ++r) {
    for (index_t i = 0; i < view.row_bytes(); ++i) {
      REQUIRE(int{view.codes()[r * view.row_bytes() + i]} ==
              int{words[static_cast<std::size_t>(r * pitch + i)]});
    }
  }
}

template <class G>
void require_onnx(const std::string& leaf, index_t block) {
  const auto file = golden_file("onnxruntime/" + leaf + ".safetensors");
  const auto input = golden_values<float>(file, "input");
  const index_t rows = file.tensor("input").rows();
  const index_t cols = file.tensor("input").cols();
  planar_matrix<G, f32_scale> target(rows, cols, {block});
  rtn{.rule = grid_rule::onnx}.apply(matrix_view<const float>(input.data(), rows, cols), target,
                                     serial);
  INFO(leaf);
  REQUIRE(test_support::scales_of(target) == golden_values<float>(file, "scales"));
  if constexpr (G::zeros == zero_points::integer) {
    const auto bytes = golden_values<std::uint8_t>(file, "zero_points");
    const index_t pitch = static_cast<index_t>(bytes.size()) / rows;
    const index_t groups = target.groups();
    for (index_t r = 0; r < rows; ++r) {
      for (index_t g = 0; g < groups; ++g) {
        const int byte = bytes[static_cast<std::size_t>(r * pitch + g * G::bits / 8)];
        REQUIRE(test_support::zeros_of(target)[static_cast<std::size_t>(r * groups + g)] ==
                (byte >> (g * G::bits % 8) & G::last_code));
      }
    }
  }
  // Their blocks are whole bytes: ours, with the last one padded.
  const auto bytes = golden_values<std::uint8_t>(file, "B");
  const auto view = target.view();
  const index_t pitch = static_cast<index_t>(bytes.size()) / rows;
  for (index_t r = 0; r < rows; ++r) {
    for (index_t i = 0; i < view.row_bytes(); ++i) {
      REQUIRE(int{view.codes()[r * view.row_bytes() + i]} ==
              int{bytes[static_cast<std::size_t>(r * pitch + i)]});
    }
  }
}

}  // namespace

TEST_CASE("rtn: the compressed_tensors rule gives that package's tensors") {
  require_compressed_tensors<int_grid<4>>("pack_b4_asym_channel_33x100_float32", 1000);
  require_compressed_tensors<int_grid<4, zero_points::none>>("pack_b4_sym_channel_32x96_float32",
                                                             1000);
  require_compressed_tensors<int_grid<6>>("pack_b6_asym_group32_20x64_float32", 32);
  require_compressed_tensors<int_grid<7, zero_points::none>>("pack_b7_sym_group32_20x64_float32",
                                                             32);
}

TEST_CASE("rtn: the onnx rule gives ONNX Runtime's MatMulNBits tensors") {
  require_onnx<int_grid<2>>("matmulnbits_b2_bs32_asym_k128_n32_float32", 32);
  require_onnx<int_grid<2, zero_points::none>>("matmulnbits_b2_bs64_sym_k128_n32_float32", 64);
  require_onnx<int_grid<4>>("matmulnbits_b4_bs32_asym_k72_n20_float32", 32);
  require_onnx<int_grid<4, zero_points::none>>("matmulnbits_b4_bs32_sym_k128_n32_float32", 32);
}

TEST_CASE("rtn: a block is the format's fit and its nearest codes") {
  const auto layer = test_support::fixed_layers()[2];
  for_each_type(
      type_list<q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs,
                mxfp4>{},
      [&]<class F>(std::type_identity<F>) {
        INFO(F::name);
        const auto q = quantize<F>(layer.view(), rtn{});
        const auto view = q.view();
        for (index_t r = 0; r < layer.rows; ++r) {
          for (index_t b = 0; b < view.blocks_per_row(); ++b) {
            float x[256] = {};
            for (index_t i = 0; i < F::block_size && b * F::block_size + i < layer.cols; ++i) {
              x[i] = layer.w[static_cast<std::size_t>(r * layer.cols + b * F::block_size + i)];
            }
            const auto p = F::fit(x, nullptr);
            const auto found = F::split(view.row(r)[b]);
            REQUIRE(found.params == p);
            for (int i = 0; i < F::block_size; ++i) {
              REQUIRE(int{found.codes[i]} == F::round(x[i], i, p));
            }
          }
        }
      });
}

TEST_CASE("rtn: every weight is within half a step, whatever the groups") {
  for (const auto& layer : test_support::fixed_layers()) {
    for (const index_t group : {index_t{8}, index_t{32}, index_t{120}, index_t{1000}}) {
      INFO(layer.name << ", group " << group);
      const auto q = quantize<planar<int_grid<5>, f32_scale>>(layer.view(), {group}, rtn{});
      const auto view = q.matrix.view();
      const auto back = test_support::weights_of(q.matrix);
      for (std::size_t i = 0; i < back.size(); ++i) {
        const auto at = static_cast<index_t>(i);
        const auto p = view.group_params(at / 200, at % 200 / view.group_size());
        // The zero point's own rounding can push an end of the range out by half a step more.
        REQUIRE(std::fabs(double{back[i]} - double{layer.w[i]}) <= double{p.scale} * 1.0001);
        if (back[i] != p.scale * (31 - p.zero) && back[i] != p.scale * (0 - p.zero)) {
          REQUIRE(std::fabs(double{back[i]} - double{layer.w[i]}) <= double{p.scale} * 0.5001);
        }
      }
    }
  }
}

TEST_CASE("rtn: corner cases through every kind of scale stay finite, zeros stay zero") {
  const auto corners = test_support::corner_rows();
  const auto check = [&]<class P>(std::type_identity<P>, index_t group, grid_rule rule) {
    const auto q = quantize<P>(corners.view(), {group}, rtn{.rule = rule});
    const auto back = test_support::weights_of(q.matrix);
    for (std::size_t i = 0; i < back.size(); ++i) {
      INFO("row " << i / 64 << ", rule " << static_cast<int>(rule));
      REQUIRE(std::isfinite(back[i]));
      // Below half's range nothing is left, beyond it the largest scale is: never the wrong sign.
      if (P::grid::zeros != zero_points::real) REQUIRE(back[i] * corners.w[i] >= 0);
      if (i < 128) REQUIRE(back[i] == 0);
      if (i / 64 == 4) REQUIRE((back[i] == 0) == (i % 64 != 17));
    }
  };
  using none = int_grid<4, zero_points::none>;
  for (const auto rule : {grid_rule::target, grid_rule::gptq, grid_rule::awq,
                          grid_rule::compressed_tensors, grid_rule::onnx}) {
    check(std::type_identity<planar<int_grid<4>, f32_scale>>{}, 24, rule);
    check(std::type_identity<planar<int_grid<4>, half>>{}, 16, rule);
    check(std::type_identity<planar<int_grid<2>, bfloat16>>{}, 64, rule);
    check(std::type_identity<planar<none, half>>{}, 64, rule);
    check(std::type_identity<planar<none, f32_scale>>{}, 64, rule);
  }
  check(std::type_identity<planar<int_grid<3, zero_points::real>, half>>{}, 16, grid_rule::target);
  check(std::type_identity<planar<codebook_grid<nf4>, half>>{}, 16, grid_rule::target);
}

TEST_CASE("rtn: the bytes do not depend on the executor") {
  const auto w = test_support::normal_vector(200 * 72, 0.1, 31);
  const matrix_view<const float> view(w.data(), 200, 72);
  thread_pool pool(3);
  const auto serially = quantize<planar<int_grid<3>, half>>(view, {24}, rtn{});
  const auto pooled = quantize<planar<int_grid<3>, half>>(view, {24}, rtn{}, pool);
  REQUIRE(test_support::codes_of(serially.matrix) == test_support::codes_of(pooled.matrix));
  REQUIRE(test_support::scales_of(serially.matrix) == test_support::scales_of(pooled.matrix));
}

TEST_CASE("rtn: NaN and Inf can be taken as zero") {
  auto layer = test_support::fixed_layers()[0];
  auto zeros = layer;
  layer.w[7] = std::numeric_limits<float>::quiet_NaN();
  layer.w[300] = -std::numeric_limits<float>::infinity();
  zeros.w[7] = zeros.w[300] = 0;
  const rtn policy{.on_non_finite = non_finite::zero};
  const auto taken = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy);
  const auto expected = quantize<planar<int_grid<4>, half>>(zeros.view(), {32}, rtn{});
  REQUIRE(test_support::codes_of(taken.matrix) == test_support::codes_of(expected.matrix));
}

#if defined(__cpp_exceptions)
TEST_CASE("rtn: a rule for integer grids on anything else is an error") {
  const auto layer = test_support::fixed_layers()[0];
  const rtn policy{.rule = grid_rule::gptq};
  const auto codes = {
      test_support::error_of([&] { (void)quantize<q4_0>(layer.view(), policy); }).code(),
      test_support::error_of([&] {
        (void)quantize<planar<codebook_grid<nf4>, half>>(layer.view(), {32}, policy);
      }).code(),
      test_support::error_of([&] {
        (void)quantize<planar<int_grid<4, zero_points::real>, half>>(layer.view(), {32}, policy);
      }).code()};
  for (const errc code : codes) REQUIRE(code == errc::bad_argument);
}
#endif
