// SPDX-License-Identifier: Apache-2.0
/// MatMulNBits tensors against those of ONNX Runtime's quantizer, and what is refused.
#include "subbyte/checkpoint/onnx_matmul_nbits.hpp"

#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::matmul_nbits_settings;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::contains;
using test_support::error_of;
using test_support::random_codes;
using test_support::same_codes;
using test_support::tensor_file;

TEST_CASE("onnx_matmul_nbits: ONNX Runtime's tensors are read and written to the bit") {
  int compared = 0;
  for (const char* name : {"b2_bs32_asym_k128_n32_float32", "b2_bs64_sym_k128_n32_float32",
                           "b4_bs128_asym_k384_n16_float32", "b4_bs16_asym_k96_n24_float32",
                           "b4_bs32_asym_k128_n32_float16", "b4_bs32_asym_k128_n32_float32_acc4",
                           "b4_bs32_asym_k72_n20_float32", "b4_bs32_sym_k128_n32_float32",
                           "b4_bs64_sym_k256_n16_float32_acc4", "b8_bs32_sym_k128_n32_float32",
                           "b8_bs64_asym_k128_n32_float32_acc4", "hqq_b4_bs64"}) {
    CAPTURE(name);
    const safetensors::file file = test_support::golden_tensors(
        std::string("onnxruntime/matmulnbits_") + name + ".safetensors");
    matmul_nbits_settings s{4, 64, file.tensor("input").cols()};
    const auto json = test_support::golden_settings(file);
    if (json.find("bits") != nullptr) {
      s.bits = static_cast<int>(*json.find("bits")->integer());
      s.block_size = *json.find("block_size")->integer();
    }
    const group_codes w = checkpoint::load_matmul_nbits(file, "", s);
    CHECK(w.real_zeros == contains(name, "hqq"));
    CHECK((contains(name, "_sym") ? w.symmetric() : !w.symmetric()));
    if (file.find_tensor("dequantized_by_definition") != nullptr) {
      CHECK(test_support::wrong_weights(w, file, "dequantized_by_definition") == 0);
      ++compared;
    }
    const auto stored = checkpoint::store_matmul_nbits(w, "");
    for (const auto& t : stored) {
      CAPTURE(t.name);
      const safetensors::tensor& golden = file.tensor(t.name);
      CHECK(golden.type() == t.type);
      REQUIRE(golden.bytes().size() == t.bytes.size());
      CHECK(std::memcmp(golden.bytes().data(), t.bytes.data(), t.bytes.size()) == 0);
    }
    CHECK(stored.size() == (w.symmetric() ? 2U : 3U));
  }
  CHECK(compared > 5);
}

TEST_CASE("onnx_matmul_nbits: every width, block size and tail comes back as it was stored") {
  for (const int bits : {2, 4, 8}) {
    for (const index_t block : {16, 32, 256}) {
      for (const index_t cols : {block, 3 * block - 5, 2 * block + 1}) {
        for (const bool symmetric : {false, true}) {
          CAPTURE(bits, block, cols, symmetric);
          const group_codes w =
              random_codes(bits, {5, cols, block}, 0, symmetric ? -1 : (1 << bits) - 1, 4);
          const tensor_file file(checkpoint::store_matmul_nbits(w, "m"));
          CHECK(
              same_codes(checkpoint::load_matmul_nbits(file.open(), "m", {bits, block, cols}), w));
        }
      }
    }
  }
}

TEST_CASE("onnx_matmul_nbits: what the operator cannot hold is not written") {
  const auto refused = [&](const group_codes& w, const char* text) {
    const auto e = error_of([&] { (void)checkpoint::store_matmul_nbits(w, "layer"); });
    CAPTURE(e.what(), text);
    CHECK(e.code() == errc::bad_argument);
    CHECK(contains(e.what(), text));
  };
  refused(random_codes(3, {8, 64, 32}, 0, 7, 1), "3 bits");
  refused(random_codes(4, {8, 96, 48}, 0, 7, 1), "blocks of 48");
  refused(random_codes(4, {8, 96, 96}, 0, 7, 1), "blocks of 96");
  refused(random_codes(4, {8, 64, 8}, 0, 7, 1), "blocks of 8");
  group_codes scattered = random_codes(4, {8, 64, 16}, 0, 7, 1);
  test_support::scatter_columns(scattered, 2);
  refused(scattered, "act-order");
  group_codes real = random_codes(4, {8, 64, 32}, 3, 5, 1);
  real.real_zeros = true;
  real.zeros(0, 0) = 0.1F;
  refused(real, "no f16 holds");
}

TEST_CASE("onnx_matmul_nbits: tensors that contradict the attributes are refused by name") {
  const group_codes w = random_codes(4, {8, 72, 32}, 0, 15, 9);
  const matmul_nbits_settings s{4, 32, 72};
  const auto good = checkpoint::store_matmul_nbits(w, "m");
  enum { b, scales, zeros };
  const test_support::refusals refused(
      good, s, [](const safetensors::file& file, const matmul_nbits_settings& x) {
        (void)checkpoint::load_matmul_nbits(file, "m", x);
      });
  using tensors = checkpoint::stored_tensors;
  using settings = matmul_nbits_settings;
  refused([](tensors& t, settings&) { t.erase(t.begin()); }, errc::not_found, "in memory");
  refused([](tensors& t, settings&) { t.erase(t.begin() + 1); }, errc::not_found, "in memory");
  refused([](tensors&, settings& x) { x.bits = 3; }, errc::bad_argument, "m");
  refused([](tensors&, settings& x) { x.bits = 8; }, errc::bad_shape, "m.B");
  refused([](tensors&, settings& x) { x.block_size = 24; }, errc::bad_argument, "m");
  refused([](tensors&, settings& x) { x.block_size = index_t{1} << 62; }, errc::bad_argument, "m");
  refused([](tensors&, settings& x) { x.block_size = 64; }, errc::bad_shape, "m.B");
  for (const index_t k : {index_t{0}, index_t{-5}, std::numeric_limits<index_t>::max()}) {
    refused([&](tensors&, settings& x) { x.cols = k; }, errc::bad_argument, "m");
  }
  refused([](tensors&, settings& x) { x.cols = 100; }, errc::bad_shape, "m.B");
  refused([](tensors&, settings& x) { x.cols = index_t{1} << 60; }, errc::bad_shape, "m.B");
  refused([](tensors& t, settings&) { t[b].type = safetensors::dtype::i8; },
          errc::unsupported_format, "m.B");
  refused([](tensors& t, settings&) { t[scales].shape = {3, 8}; }, errc::bad_shape, "m.scales");
  refused([](tensors& t, settings&) { t[scales].type = safetensors::dtype::u16; },
          errc::unsupported_format, "m.scales");
  refused([](tensors& t, settings&) { t[zeros].shape = {4, 4}; }, errc::bad_shape, "m.zero_points");
  refused([](tensors& t, settings&) { t[zeros].type = safetensors::dtype::i8; }, errc::bad_shape,
          "m.zero_points");
}
