// SPDX-License-Identifier: Apache-2.0
/// HQQ tensors against the files of hqq, and what is refused.
#include "subbyte/checkpoint/hqq.hpp"

#include <vector>

#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::hqq_parts;
using checkpoint::hqq_settings;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::contains;
using test_support::error_of;
using test_support::random_codes;
using test_support::tensor_file;

static_assert(subbyte::packing_layout<hqq_parts<4>> && subbyte::packing_layout<hqq_parts<3>>);

TEST_CASE("hqq: the package's tensors are read and written to the bit") {
  int compared = 0;
  for (const char* name :
       {"hqq_b1_g64_axis1_32x64", "hqq_b2_g64_axis1_32x128", "hqq_b3_g64_axis1_32x128",
        "hqq_b4_g64_axis1_32x128", "hqq_b4_g64_axis1_noopt_32x128", "hqq_b8_g64_axis1_32x128"}) {
    CAPTURE(name);
    const safetensors::file file =
        test_support::golden_tensors(std::string("hqq/") + name + ".safetensors");
    const auto json = test_support::golden_settings(file);
    const hqq_settings s{
        static_cast<int>(*json.find("nbits")->integer()), *json.find("group_size")->integer(),
        *json.find("shape")->items()[0].integer(), *json.find("shape")->items()[1].integer()};
    const group_codes w = checkpoint::load_hqq(file, "", s);
    const auto& codes = file.tensor("codes");
    REQUIRE(static_cast<index_t>(codes.bytes().size()) == w.codes.size());
    CHECK(std::memcmp(codes.bytes().data(), w.codes.data(), codes.bytes().size()) == 0);
    if (file.find_tensor("dequantized") != nullptr) {
      CHECK(test_support::wrong_weights(w, file) == 0);
      ++compared;
    }
    for (const auto& t : checkpoint::store_hqq(w, "")) {
      CAPTURE(t.name);
      CHECK(test_support::same_tensor(file.tensor(t.name), t));
    }
  }
  CHECK(compared > 1);
}

TEST_CASE("hqq: every bit of every code has a place of its own") {
  const auto check = [](auto b, index_t rows, index_t cols) {
    using layout = hqq_parts<b>;
    const subbyte::matrix_shape s{rows, cols};
    REQUIRE(layout::accepts(s));
    std::vector<bool> taken(static_cast<std::size_t>(layout::bytes(s) * 8), false);
    for (index_t r = 0; r < rows; ++r) {
      for (index_t k = 0; k < cols; ++k) {
        for (int bit = 0; bit < b; ++bit) {
          const auto at = static_cast<std::size_t>(layout::bit_offset(s, r, k, bit));
          REQUIRE(at < taken.size());
          REQUIRE_FALSE(taken[at]);
          taken[at] = true;
        }
      }
    }
  };
  check(std::integral_constant<int, 1>{}, 16, 5);
  check(std::integral_constant<int, 2>{}, 12, 5);
  check(std::integral_constant<int, 3>{}, 10, 5);
  check(std::integral_constant<int, 3>{}, 23, 5);
  check(std::integral_constant<int, 4>{}, 6, 5);
  check(std::integral_constant<int, 8>{}, 3, 5);
}

TEST_CASE("hqq: what HQQ cannot hold is not written") {
  const auto refused = [](const group_codes& w, errc code, const char* text) {
    const auto e = error_of([&] { (void)checkpoint::store_hqq(w, "layer"); });
    CAPTURE(e.what(), text);
    CHECK(e.code() == code);
    CHECK(contains(e.what(), text));
  };
  refused(random_codes(5, {8, 64, 32}, 0, 7, 1), errc::bad_argument, "5 bits");
  refused(random_codes(4, {8, 72, 32}, 0, 7, 1), errc::bad_argument, "divide the row");
  refused(random_codes(4, {7, 32, 32}, 0, 7, 1), errc::layout_rejected, "7 x 32");
  group_codes scattered = random_codes(4, {8, 64, 16}, 0, 7, 1);
  test_support::scatter_columns(scattered, 2);
  refused(scattered, errc::bad_argument, "act-order");
}

TEST_CASE("hqq: tensors that contradict the settings are refused by name") {
  group_codes w = random_codes(4, {8, 64, 32}, 0, 15, 9);
  const hqq_settings s{4, 32, 8, 64};
  const auto good = checkpoint::store_hqq(w, "m");
  w.real_zeros = true;
  CHECK(test_support::same_codes(checkpoint::load_hqq(tensor_file(good).open(), "m", s), w));
  const test_support::refusals refused(good, s,
                                       [](const safetensors::file& file, const hqq_settings& x) {
                                         (void)checkpoint::load_hqq(file, "m", x);
                                       });
  using tensors = checkpoint::stored_tensors;
  refused([](tensors&, hqq_settings& x) { x.bits = 6; }, errc::bad_argument, "m");
  refused([](tensors&, hqq_settings& x) { x.bits = 8; }, errc::bad_shape, "m.W_q");
  refused([](tensors&, hqq_settings& x) { x.bits = 3; }, errc::unsupported_format, "m.W_q");
  refused([](tensors&, hqq_settings& x) { x.group_size = 24; }, errc::bad_argument, "m");
  refused([](tensors&, hqq_settings& x) { x.group_size = 64; }, errc::bad_shape, "m.scale");
  refused([](tensors&, hqq_settings& x) { x.rows = 16; }, errc::bad_shape, "m.W_q");
  refused([](tensors&, hqq_settings& x) { x.rows = -1; }, errc::bad_argument, "m");
  refused([](tensors&, hqq_settings& x) { x.rows = index_t{1} << 62; }, errc::bad_argument, "m");
  refused([](tensors& t, hqq_settings&) { t.pop_back(); }, errc::not_found, "in memory");
  refused([](tensors& t, hqq_settings&) { t[2].type = safetensors::dtype::bf16; },
          errc::unsupported_format, "m.zero");
  refused([](tensors& t, hqq_settings&) { t[2].shape = {1, 16}; }, errc::bad_shape, "m.zero");
}
