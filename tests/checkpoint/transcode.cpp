// SPDX-License-Identifier: Apache-2.0
/// Schemes into each other: equal weights where that is possible, bounds where a parameter is
/// rounded, and refusals that say why.
#include "subbyte/checkpoint/transcode.hpp"

#include <array>
#include <cmath>

#include "support/checkpoint_files.hpp"

namespace checkpoint_transcode_test {

namespace checkpoint = subbyte::checkpoint;
using checkpoint::awq_settings;
using checkpoint::awq_version;
using checkpoint::code_target;
using checkpoint::compressed_tensors_settings;
using checkpoint::fidelity;
using checkpoint::gptq_format;
using checkpoint::gptq_settings;
using checkpoint::marlin_settings;
using checkpoint::module_settings;
using checkpoint::recode;
using checkpoint::transcode_report;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::contains;
using test_support::error_of;
using test_support::random_codes;
using test_support::tensor_file;

namespace {

bool same_weights(const group_codes& a, const group_codes& b) {
  bool same = a.rows() == b.rows() && a.cols() == b.cols();
  for (index_t r = 0; same && r < a.rows(); ++r) {
    for (index_t k = 0; same && k < a.cols(); ++k) same = a.value(r, k) == b.value(r, k);
  }
  return same;
}

// Through the tensors of a scheme and back.
group_codes through(const group_codes& w, const module_settings& s) {
  transcode_report report;
  const group_codes fitted = recode(w, checkpoint::target_of(s), fidelity::exact, "m", report);
  CHECK(report.exact());
  CHECK(report.modules == 1);
  CHECK(report.weights == w.rows() * w.cols());
  const tensor_file file(checkpoint::store_module(fitted, "m", s));
  return checkpoint::load_module(file.open(), "m", s);
}

void check_refused(const group_codes& w, const code_target& target, fidelity allowed,
                   const char* text) {
  transcode_report report;
  const auto e = error_of([&] { (void)recode(w, target, allowed, "model.layer", report); });
  CAPTURE(e.what(), text);
  CHECK(e.code() == errc::bad_argument);
  CHECK(e.subject() == "model.layer");
  CHECK(contains(e.what(), text));
}

gptq_settings gptq(int bits, index_t group, bool symmetric, gptq_format format) {
  gptq_settings s;
  s.bits = bits;
  s.group_size = group;
  s.symmetric = symmetric;
  s.format = format;
  return s;
}

}  // namespace

TEST_CASE("transcode: every scheme that can hold a matrix gives it back from every other") {
  for (const index_t group : {index_t{32}, index_t{128}}) {
    const std::array<module_settings, 5> holders = {
        gptq(4, group, false, gptq_format::gptq_v2), gptq(4, group, false, gptq_format::gptq_p),
        awq_settings{4, group, false, awq_version::gemm, false},
        awq_settings{4, group, false, awq_version::gemv, false},
        compressed_tensors_settings{4, group, false, false}};
    const group_codes w = random_codes(4, {64, 256, group}, 0, 15, 8);
    for (const module_settings& from : holders) {
      for (const module_settings& to : holders) {
        CAPTURE(group, checkpoint::scheme_name(from), checkpoint::scheme_name(to));
        const group_codes first = through(w, from);
        CHECK(test_support::same_codes(through(first, to), w));
      }
    }
    const group_codes symmetric = random_codes(4, {64, 256, group}, 1, 0, 8);
    const std::array<module_settings, 5> symmetric_holders = {
        gptq(4, group, true, gptq_format::gptq), gptq(4, group, false, gptq_format::gptq_v2),
        awq_settings{4, group, false, awq_version::gemv_tiled, false},
        compressed_tensors_settings{4, group, true, false},
        marlin_settings{4, group, checkpoint::marlin_names::marlin}};
    for (const module_settings& from : symmetric_holders) {
      for (const module_settings& to : symmetric_holders) {
        CAPTURE(group, checkpoint::scheme_name(from), checkpoint::scheme_name(to));
        CHECK(test_support::same_codes(through(through(symmetric, from), to), symmetric));
      }
    }
    transcode_report report;
    const group_codes onnx =
        recode(w, checkpoint::target_of(checkpoint::matmul_nbits_settings{4, group, 256}),
               fidelity::exact, "m", report);
    const tensor_file file(checkpoint::store_matmul_nbits(onnx, "m"));
    const group_codes back = checkpoint::load_matmul_nbits(file.open(), "m", {4, group, 256});
    CHECK(test_support::same_codes(through(back, holders[2]), w));
  }
}

TEST_CASE("transcode: zero points of 0 reach format gptq where no code is the last one") {
  group_codes w = random_codes(4, {32, 64, 32}, 0, 15, 3);
  for (index_t i = 0; i < w.codes.size(); ++i) {
    if (w.codes.data()[i] == 15) w.codes.data()[i] = 14;
  }
  CHECK(same_weights(through(w, gptq(4, 32, false, gptq_format::gptq)), w));
  w.codes(5, 40) = 15;
  w.zeros(5, 1) = 0;
  check_refused(w, checkpoint::target_of(gptq(4, 32, false, gptq_format::gptq)),
                fidelity::near_exact, "row 5, group 1: codes");
}

TEST_CASE("transcode: groups are split, and joined where they are the same") {
  const group_codes w = random_codes(4, {32, 256, 128}, 0, 15, 3);
  const group_codes split = through(w, awq_settings{4, 32, false, awq_version::gemm, false});
  CHECK(split.group_size == 32);
  CHECK(same_weights(split, w));
  const group_codes joined = through(split, compressed_tensors_settings{4, 128, false, false});
  CHECK(test_support::same_codes(joined, w));
  const code_target whole = checkpoint::target_of(compressed_tensors_settings{4, -1, false, false});
  check_refused(w, whole, fidelity::near_exact, "more than one scale or zero point");
  // A group that ends in the middle of another.
  check_refused(w, checkpoint::target_of(compressed_tensors_settings{4, 96, false, false}),
                fidelity::exact, "do not lie inside groups of 96");
}

TEST_CASE("transcode: wider codes hold narrower ones, symmetric ones too") {
  const group_codes w = random_codes(3, {32, 64, 32}, 0, 7, 3);
  const group_codes wide = through(w, compressed_tensors_settings{8, 32, true, false});
  CHECK(wide.symmetric());
  CHECK(same_weights(wide, w));
  CHECK(same_weights(through(wide, compressed_tensors_settings{3, 32, false, false}), w));
  check_refused(random_codes(8, {32, 64, 32}, 1, 0, 3),
                checkpoint::target_of(compressed_tensors_settings{4, 32, false, false}),
                fidelity::near_exact, "do not fit 4 bits");
  check_refused(random_codes(4, {32, 64, 32}, 0, 15, 3),
                checkpoint::target_of(marlin_settings{4, 32, {}}), fidelity::near_exact,
                "do not fit 4 bits around 8");
}

TEST_CASE("transcode: a column order stays where the target has one, and is refused elsewhere") {
  group_codes w = random_codes(4, {64, 128, 32}, 1, 15, 3);
  test_support::scatter_columns(w, 4);
  for (const module_settings& s : std::array<module_settings, 3>{
           gptq(4, 32, false, gptq_format::gptq), gptq(4, 32, false, gptq_format::gptq_p),
           compressed_tensors_settings{4, 32, false, false}}) {
    CHECK(test_support::same_codes(through(w, s), w));
  }
  check_refused(w, checkpoint::target_of(awq_settings{4, 32, false, {}, false}),
                fidelity::near_exact, "act-order");
  // With one group per row, or the same parameters in all groups, there is no order to keep.
  group_codes single = random_codes(4, {64, 128, 128}, 1, 15, 3);
  single.group_of_column = subbyte::tensor<std::int32_t, 1>(128);
  CHECK(same_weights(through(single, awq_settings{4, -1, false, {}, false}), single));
  for (index_t r = 0; r < 64; ++r) {
    for (index_t g = 0; g < 4; ++g) {
      w.scales(r, g) = w.scales(r, 0);
      w.zeros(r, g) = w.zeros(r, 0);
    }
  }
  CHECK(same_weights(through(w, awq_settings{4, 32, false, {}, false}), w));
}

TEST_CASE("transcode: scales that f16 does not hold are rounded only near-exactly, with a bound") {
  group_codes w = random_codes(4, {32, 64, 32}, 0, 15, 3);
  w.stored_scale = subbyte::scale_type::f32;
  w.scales(4, 1) = 0.1F;
  const code_target target = checkpoint::target_of(awq_settings{4, 32, false, {}, false});
  check_refused(w, target, fidelity::exact, "row 4, group 1: its scale 0.1");
  transcode_report report;
  const group_codes out = recode(w, target, fidelity::near_exact, "m", report);
  CHECK(report.rounded_parameters == 1);
  CHECK_FALSE(report.exact());
  CHECK(report.requantized_modules == 0);
  CHECK(test_support::same_elements(out.codes, w.codes));
  const double relative = std::abs(
      static_cast<double>(subbyte::half::nearest(0.1F).to_float()) / static_cast<double>(0.1F) - 1);
  CHECK(report.largest_scale_change == Approx(relative).epsilon(1e-9));
  double largest = 0;
  for (index_t k = 32; k < 64; ++k) {
    largest = std::max(largest, std::abs(static_cast<double>(out.value(4, k)) -
                                         static_cast<double>(w.value(4, k))));
  }
  // The bound is met by the code farthest from the zero point; products round once in fp32.
  CHECK(report.largest_weight_change * static_cast<double>(0.1F) == Approx(largest).epsilon(1e-3));
  for (const float outside : {1e-12F, 1e6F}) {
    w.scales(4, 1) = outside;
    check_refused(w, target, fidelity::near_exact, "outside the range of f16");
  }
  // bf16 scales stay where the target takes them.
  group_codes brain = random_codes(4, {32, 64, 32}, 0, 15, 3);
  brain.stored_scale = subbyte::scale_type::bf16;
  for (index_t i = 0; i < brain.scales.size(); ++i) {
    brain.scales.data()[i] =
        subbyte::nearest(subbyte::scale_type::bf16, brain.scales.data()[i] * 1e-30F);
  }
  CHECK(test_support::same_codes(through(brain, compressed_tensors_settings{4, 32, false, false}),
                                 brain));
  check_refused(brain, target, fidelity::near_exact, "outside the range");
}

TEST_CASE("transcode: symmetric groups of 32 become Q4_0 blocks of equal weights") {
  for (const index_t group : {index_t{32}, index_t{128}}) {
    const group_codes w = random_codes(4, {8, 256, group}, 1, 0, 3);
    transcode_report report;
    const auto blocks = checkpoint::recode_blocks<subbyte::q4_0>(w, fidelity::exact, "m", report);
    CHECK(report.exact());
    std::vector<float> row(256);
    for (index_t r = 0; r < 8; ++r) {
      blocks.view().decode_row(r, 0, 256, row.data());
      for (index_t k = 0; k < 256; ++k) {
        REQUIRE(row[static_cast<std::size_t>(k)] == w.value(r, k));
      }
    }
  }
  // Codes around another zero point fit where they leave room.
  group_codes near_middle = random_codes(4, {8, 64, 32}, 7, 7, 3);
  for (index_t i = 0; i < near_middle.codes.size(); ++i) {
    if (near_middle.codes.data()[i] == 15) near_middle.codes.data()[i] = 14;
  }
  transcode_report report;
  const auto blocks =
      checkpoint::recode_blocks<subbyte::q4_0>(near_middle, fidelity::exact, "m", report);
  std::vector<float> row(64);
  blocks.view().decode_row(3, 0, 64, row.data());
  for (index_t k = 0; k < 64; ++k) {
    REQUIRE(row[static_cast<std::size_t>(k)] == near_middle.value(3, k));
  }
  const auto e = error_of([&] {
    (void)checkpoint::recode_blocks<subbyte::q4_0>(random_codes(4, {8, 72, 24}, 1, 0, 3),
                                                   fidelity::exact, "m", report);
  });
  CHECK(e.code() == errc::bad_shape);
}

TEST_CASE("transcode: asymmetric groups become Q8_0 blocks of equal weights") {
  for (const int bits : {2, 3, 4, 7}) {
    const group_codes w = random_codes(bits, {8, 128, 64}, 0, (1 << bits) - 1, 3);
    transcode_report report;
    const auto blocks = checkpoint::recode_blocks<subbyte::q8_0>(w, fidelity::exact, "m", report);
    CHECK(report.exact());
    std::vector<float> row(128);
    for (index_t r = 0; r < 8; ++r) {
      blocks.view().decode_row(r, 0, 128, row.data());
      for (index_t k = 0; k < 128; ++k) {
        REQUIRE(row[static_cast<std::size_t>(k)] == w.value(r, k));
      }
    }
  }
}

TEST_CASE("transcode: asymmetric groups of 128 become Q4_1 blocks with their minimum in f16") {
  const group_codes w = random_codes(4, {32, 256, 128}, 0, 15, 3);
  transcode_report report;
  const auto e = error_of(
      [&] { (void)checkpoint::recode_blocks<subbyte::q4_1>(w, fidelity::exact, "m", report); });
  CHECK(contains(e.what(), "is no f16 (--near-exact rounds it)"));
  report = {};
  const auto blocks =
      checkpoint::recode_blocks<subbyte::q4_1>(w, fidelity::near_exact, "m", report);
  CHECK(report.rounded_parameters > 0);
  CHECK(report.largest_scale_change == 0);
  // Half an ulp of a minimum of at most 15 steps: 15 * 2^-11.
  CHECK(report.largest_weight_change > 0);
  CHECK(report.largest_weight_change <= 15.0 / 2048);
  std::vector<float> row(256);
  double largest = 0;
  for (index_t r = 0; r < 32; ++r) {
    blocks.view().decode_row(r, 0, 256, row.data());
    for (index_t k = 0; k < 256; ++k) {
      const auto block = blocks.view().data()[r * 8 + k / 32];
      REQUIRE(subbyte::q4_1::split(block).codes[static_cast<int>(k % 32)] == w.codes(r, k));
      const double change = std::abs(static_cast<double>(row[static_cast<std::size_t>(k)]) -
                                     static_cast<double>(w.value(r, k)));
      largest = std::max(largest, change / static_cast<double>(w.scales(r, k / 128)));
    }
  }
  CHECK(largest == Approx(report.largest_weight_change).epsilon(1e-3));
  // Exact where the minimum is a value of f16.
  group_codes exact = random_codes(4, {8, 64, 32}, 8, 8, 3);
  exact.zeros(3, 1) = 4;
  report = {};
  const auto same = checkpoint::recode_blocks<subbyte::q4_1>(exact, fidelity::exact, "m", report);
  CHECK(report.exact());
  same.view().decode_row(3, 0, 64, row.data());
  for (index_t k = 0; k < 64; ++k) {
    REQUIRE(row[static_cast<std::size_t>(k)] == exact.value(3, k));
  }
}

TEST_CASE("transcode: real zero points stay real or are refused") {
  group_codes w = random_codes(4, {32, 64, 32}, 3, 12, 3);
  w.real_zeros = true;
  w.zeros(2, 0) = 3.5F;
  check_refused(w, checkpoint::target_of(gptq(4, 32, false, gptq_format::gptq_v2)),
                fidelity::near_exact, "zero point is 3.5");
  transcode_report report;
  const group_codes same =
      recode(w, checkpoint::target_of(checkpoint::matmul_nbits_settings{4, 32, 64}),
             fidelity::exact, "m", report);
  CHECK(same.real_zeros);
  CHECK(same_weights(same, w));
  const auto blocks =
      checkpoint::recode_blocks<subbyte::q4_1>(w, fidelity::near_exact, "m", report);
  CHECK(blocks.rows() == 32);
}

TEST_CASE("transcode: requantizing is the last resort, rounds to nearest and says what it cost") {
  group_codes w = random_codes(4, {32, 128, 32}, 0, 15, 3);
  test_support::scatter_columns(w, 4);
  const code_target target = checkpoint::target_of(awq_settings{4, 32, false, {}, false});
  transcode_report report;
  const group_codes out = recode(w, target, fidelity::requantize, "m", report);
  CHECK(report.requantized_modules == 1);
  CHECK(out.sequential());
  // No weight is farther from its own than the range of its group allows: half a step, and what
  // rounding the scale to f16 moves the 15th code.
  double error = 0, weights = 0;
  for (index_t r = 0; r < 32; ++r) {
    for (index_t k = 0; k < 128; ++k) {
      const double change =
          static_cast<double>(out.value(r, k)) - static_cast<double>(w.value(r, k));
      const double step = static_cast<double>(out.scales(r, k / 32));
      REQUIRE(std::abs(change) <= step * (1.0 + 16.0 / 2048));
      error += change * change;
      weights += static_cast<double>(w.value(r, k)) * static_cast<double>(w.value(r, k));
    }
  }
  CHECK(report.requantization_error() == Approx(std::sqrt(error / weights)).epsilon(1e-9));
  CHECK(report.requantization_error() > 0.001);
  // What can be kept is kept.
  report = {};
  const group_codes plain = random_codes(4, {32, 128, 32}, 0, 15, 3);
  CHECK(same_weights(recode(plain, target, fidelity::requantize, "m", report), plain));
  CHECK(report.exact());
  // Symmetric targets, and format gptq with its zero points from 1.
  for (const module_settings& s : std::array<module_settings, 2>{
           marlin_settings{4, 32, {}}, gptq(3, 32, false, gptq_format::gptq)}) {
    const group_codes again =
        recode(w, checkpoint::target_of(s), fidelity::requantize, "m", report);
    again.validate();
    CHECK(again.symmetric() == std::holds_alternative<marlin_settings>(s));
    for (index_t i = 0; i < again.zeros.size(); ++i) REQUIRE(again.zeros.data()[i] >= 1);
  }
  CHECK(error_of([&] {
          (void)recode(w, checkpoint::target_of(compressed_tensors_settings{1, 32, true, false}),
                       fidelity::requantize, "m", report);
        }).code() == errc::bad_argument);
}

}  // namespace checkpoint_transcode_test
