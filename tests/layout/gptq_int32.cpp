// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/gptq_int32.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/packed.hpp"
#if defined(__cpp_exceptions)
#include "support/golden_python.hpp"
#endif

namespace {

using subbyte::gptq_zero_field;
using subbyte::index_t;
using test_support::counting;
using test_support::packed;
using test_support::packed_words;
using bytes = std::vector<std::uint8_t>;
using words = std::vector<std::uint32_t>;

template <int Bits>
words field_words(std::uint8_t zero, gptq_zero_field meaning) {
  bytes zeros(32, zero);
  subbyte::gptq_fields_from_zeros(subbyte::matrix_view<std::uint8_t>(zeros.data(), 32, 1), Bits,
                                  meaning);
  return packed_words<subbyte::gptq_int32_zeros<Bits>>(zeros, 32);
}

bytes with_fields(bytes zeros, index_t rows, int bits, gptq_zero_field meaning) {
  const index_t groups = static_cast<index_t>(zeros.size()) / rows;
  subbyte::gptq_fields_from_zeros(subbyte::matrix_view<std::uint8_t>(zeros.data(), rows, groups),
                                  bits, meaning);
  return zeros;
}

bytes without_fields(bytes fields, index_t rows, int bits, gptq_zero_field meaning) {
  const index_t groups = static_cast<index_t>(fields.size()) / rows;
  subbyte::zeros_from_gptq_fields(subbyte::matrix_view<std::uint8_t>(fields.data(), rows, groups),
                                  bits, meaning);
  return fields;
}

}  // namespace

TEST_CASE("gptq_int32: the streams of the published vectors") {
  CHECK(packed_words<subbyte::gptq_int32<2>>(counting(16, 4), 1) == words{0xE4E4E4E4U});
  CHECK(packed_words<subbyte::gptq_int32<3>>(counting(32, 8), 1) ==
        words{0x88FAC688U, 0xC688FAC6U, 0xFAC688FAU});
  CHECK(packed_words<subbyte::gptq_int32<4>>(counting(8, 16), 1) == words{0x76543210U});
  CHECK(packed_words<subbyte::gptq_int32<8>>(counting(4, 256), 1) == words{0x03020100U});
}

TEST_CASE("gptq_int32: 3-bit codes straddle the words as the kernels read them") {
  using layout = subbyte::gptq_int32<3>;
  constexpr subbyte::matrix_shape one{1, 32};
  static_assert(layout::bit_offset(one, 0, 10, 0) == 30);
  static_assert(layout::bit_offset(one, 0, 10, 2) == 32);
  static_assert(layout::bit_offset(one, 0, 11, 0) == 33);
  static_assert(layout::bit_offset(one, 0, 21, 0) == 63);
  static_assert(layout::bit_offset(one, 0, 21, 1) == 64);
  static_assert(layout::bit_offset(one, 0, 22, 0) == 66);
  // Rows lie side by side, so the words of one row are `rows` words apart.
  static_assert(layout::bit_offset({5, 32}, 3, 10, 2) == (5 + 3) * 32);
  CHECK(layout::accepts({5, 64}));
  CHECK_FALSE(layout::accepts({5, 48}));
}

TEST_CASE("gptq_int32: whole words are all that a width needs") {
  CHECK(subbyte::gptq_int32<4>::accepts({3, 8}));
  CHECK_FALSE(subbyte::gptq_int32<4>::accepts({3, 12}));
  CHECK(subbyte::gptq_int32<8>::accepts({3, 4}));
  CHECK_FALSE(subbyte::gptq_int32<8>::accepts({3, 6}));
  CHECK(subbyte::gptq_int32<6>::accepts({3, 16}));
  CHECK_FALSE(subbyte::gptq_int32<6>::accepts({3, 8}));
  CHECK(subbyte::gptq_int32_zeros<4>::accepts({8, 3}));
  CHECK_FALSE(subbyte::gptq_int32_zeros<4>::accepts({12, 3}));
  CHECK_FALSE(subbyte::gptq_planar<4>::accepts({3, 16}));
}

TEST_CASE("gptq_planar: the 3-bit planes of the published vector, and 2, 4 and 8 bits as streams") {
  CHECK(packed_words<subbyte::gptq_planar<3>>(counting(32, 8), 1) ==
        words{0xE4E4E4E4U, 0xE4E4E4E4U, 0xF0F0F0F0U});
  const bytes codes = counting(64, 251);
  CHECK(packed<subbyte::gptq_planar<8>>(codes, 2) == packed<subbyte::gptq_int32<8>>(codes, 2));
  bytes narrow = codes;
  for (auto& c : narrow) c = c & 15;
  CHECK(packed<subbyte::gptq_planar<4>>(narrow, 2) == packed<subbyte::gptq_int32<4>>(narrow, 2));
  for (auto& c : narrow) c = c & 3;
  CHECK(packed<subbyte::gptq_planar<2>>(narrow, 2) == packed<subbyte::gptq_int32<2>>(narrow, 2));
}

TEST_CASE("gptq zero points: the constants of symmetric checkpoints") {
  CHECK(field_words<2>(2, gptq_zero_field::minus_one) == words(2, 0x55555555U));
  CHECK(field_words<3>(4, gptq_zero_field::minus_one) ==
        words{0xDB6DB6DBU, 0xB6DB6DB6U, 0x6DB6DB6DU});
  CHECK(field_words<4>(8, gptq_zero_field::minus_one) == words(4, 0x77777777U));
  CHECK(field_words<8>(128, gptq_zero_field::minus_one) == words(8, 0x7F7F7F7FU));
  CHECK(field_words<2>(2, gptq_zero_field::zero_point) == words(2, 0xAAAAAAAAU));
  CHECK(field_words<3>(4, gptq_zero_field::zero_point) ==
        words{0x24924924U, 0x49249249U, 0x92492492U});
  CHECK(field_words<4>(8, gptq_zero_field::zero_point) == words(4, 0x88888888U));
  CHECK(field_words<8>(128, gptq_zero_field::zero_point) == words(8, 0x80808080U));
}

TEST_CASE("gptq zero points: a field is the zero point minus one, and 0 stays in its own field") {
  for (int bits = 1; bits <= 8; ++bits) {
    const int last = (1 << bits) - 1;
    for (int z = 0; z <= last; ++z) {
      // Neighbours that a borrow would change.
      const bytes zeros = {0, static_cast<std::uint8_t>(z), static_cast<std::uint8_t>(last), 0};
      const bytes fields = with_fields(zeros, 4, bits, gptq_zero_field::minus_one);
      CHECK(fields == bytes{static_cast<std::uint8_t>(last),
                            static_cast<std::uint8_t>(z == 0 ? last : z - 1),
                            static_cast<std::uint8_t>(last - 1), static_cast<std::uint8_t>(last)});
      CHECK(without_fields(fields, 4, bits, gptq_zero_field::minus_one) == zeros);
      CHECK(with_fields(zeros, 4, bits, gptq_zero_field::zero_point) == zeros);
      CHECK(without_fields(zeros, 4, bits, gptq_zero_field::zero_point) == zeros);
    }
  }
}

TEST_CASE("gptq zero points: a borrow passes through the word of its row and no further") {
  // 4 bits, two groups, 16 rows: two words per group. Row 0 of group 0 borrows.
  bytes zeros(32, 1);
  zeros[0] = 0;
  const bytes fields = with_fields(zeros, 16, 4, gptq_zero_field::minus_one_with_borrow);
  for (std::size_t r = 0; r < 16; ++r) {
    CHECK(fields[2 * r] == (r < 8 ? 15 : 0));
    CHECK(fields[2 * r + 1] == 0);
  }
  CHECK(packed_words<subbyte::gptq_int32_zeros<4>>(fields, 16)[0] == 0x11111110U - 0x11111111U);
  CHECK(without_fields(fields, 16, 4, gptq_zero_field::minus_one_with_borrow) == zeros);
  // 3-bit fields are written one by one.
  CHECK(with_fields(zeros, 16, 3, gptq_zero_field::minus_one_with_borrow) ==
        with_fields(zeros, 16, 3, gptq_zero_field::minus_one));
}

#if defined(__cpp_exceptions)
namespace {

bytes narrowed(const std::vector<std::int32_t>& values) {
  return bytes(values.begin(), values.end());
}

struct golden {
  explicit golden(const std::string& path)
      : file(test_support::golden_file(path)),
        rows(file.tensor("in.codes").shape()[0]),
        codes(test_support::golden_values<std::uint8_t>(file, "in.codes")),
        zeros(narrowed(test_support::golden_values<std::int32_t>(file, "in.zeros"))),
        cols(static_cast<index_t>(codes.size()) / rows),
        groups(static_cast<index_t>(zeros.size()) / rows) {}

  bytes tensor(const std::string& name) const {
    return test_support::golden_values<std::uint8_t>(file, name);
  }

  subbyte::safetensors::file file;
  index_t rows;
  bytes codes, zeros;
  index_t cols, groups;
};

template <class Weights, class Zeros>
void check_both_ways(const golden& g) {
  CHECK((packed<Weights>(g.codes, g.rows) == g.tensor("qweight")));
  CHECK((test_support::unpacked<Weights>(g.tensor("qweight"), g.rows, g.cols) == g.codes));
  CHECK((packed<Zeros>(g.zeros, g.rows) == g.tensor("qzeros")));
  CHECK((test_support::unpacked<Zeros>(g.tensor("qzeros"), g.rows, g.groups) == g.zeros));
  // The package's own way from one meaning of the field to the other.
  constexpr auto borrow = gptq_zero_field::minus_one_with_borrow;
  CHECK((packed<Zeros>(with_fields(g.zeros, g.rows, Weights::code_bits, borrow), g.rows) ==
         g.tensor("v1.qzeros")));
  CHECK((without_fields(test_support::unpacked<Zeros>(g.tensor("v1.qzeros"), g.rows, g.groups),
                        g.rows, Weights::code_bits, borrow) == g.zeros));
}

}  // namespace

TEST_CASE("gptq_int32: the bytes of gptqmodel, weights and both kinds of zero points") {
  for (const char* const name :
       {"pack_b2_asym_g32_act_64x128", "pack_b2_sym_g64_seq_32x128", "pack_b3_asym_g-1_seq_64x128",
        "pack_b3_asym_g32_act_96x128_bias", "pack_b3_sym_g128_seq_32x256",
        "pack_b4_asym_g-1_act_32x256", "pack_b4_asym_g32_act_64x128_bias",
        "pack_b4_asym_g64_seq_96x128", "pack_b4_sym_g-1_seq_32x128_bias",
        "pack_b4_sym_g128_act_32x384_bias", "pack_b4_sym_g32_seq_64x128",
        "pack_b8_asym_g-1_seq_32x128", "pack_b8_asym_g128_act_32x384_bias",
        "pack_b8_sym_g32_seq_32x128"}) {
    INFO(name);
    const golden g(std::string("gptqmodel/") + name + ".safetensors");
    CHECK(subbyte::with_bits<2, 3, 4, 8>(name[6] - '0', [&](auto bits) {
      constexpr int b = decltype(bits)::value;
      check_both_ways<subbyte::gptq_int32<b>, subbyte::gptq_int32_zeros<b>>(g);
    }));
  }
}

TEST_CASE("gptq_planar: the bytes of gptqmodel's gptq_p") {
  for (const char* const name :
       {"planar_b3_asym_g32_32x128", "planar_b4_asym_g32_32x128", "planar_b5_asym_g64_32x128",
        "planar_b6_asym_g32_64x128", "planar_b7_asym_g-1_32x128"}) {
    INFO(name);
    const golden g(std::string("gptqmodel/") + name + ".safetensors");
    CHECK(subbyte::with_bits<3, 4, 5, 6, 7>(name[8] - '0', [&](auto bits) {
      constexpr int b = decltype(bits)::value;
      check_both_ways<subbyte::gptq_planar<b>, subbyte::gptq_planar_zeros<b>>(g);
    }));
  }
}

TEST_CASE("gptq_int32: the bytes of auto-gptq") {
  for (const char* const name : {"pack_b2_sym_g64_seq_32x128", "pack_b3_asym_g32_seq_32x128",
                                 "pack_b3_asym_g64_seq_32x128_zero0",
                                 "pack_b4_asym_g32_seq_32x96_zero0", "pack_b4_asym_g64_act_32x128",
                                 "pack_b4_sym_g32_seq_32x128", "pack_b8_asym_g-1_act_32x128"}) {
    INFO(name);
    const golden g(std::string("autogptq/") + name + ".safetensors");
    const bool zero0 = std::string(name).find("zero0") != std::string::npos;
    CHECK(subbyte::with_bits<2, 3, 4, 8>(name[6] - '0', [&](auto bits) {
      constexpr int b = decltype(bits)::value;
      CHECK((packed<subbyte::gptq_int32<b>>(g.codes, g.rows) == g.tensor("qweight")));
      const bytes ours = packed<subbyte::gptq_int32_zeros<b>>(
          with_fields(g.zeros, g.rows, b, gptq_zero_field::minus_one), g.rows);
      const bytes theirs = g.tensor("qzeros");
      CHECK((ours == theirs) == !zero0);
    }));
  }
}

TEST_CASE("gptq zero points: where auto-gptq met a 0, its field and all above it are ones") {
  const golden g("autogptq/pack_b4_asym_g32_seq_32x96_zero0.safetensors");
  const bytes fields =
      test_support::unpacked<subbyte::gptq_int32_zeros<4>>(g.tensor("qzeros"), g.rows, g.groups);
  index_t destroyed = 0;
  for (index_t group = 0; group < g.groups; ++group) {
    for (index_t r = 0; r < g.rows; ++r) {
      bool ones = false;
      for (index_t below = r / 8 * 8; below <= r; ++below) {
        ones = ones || g.zeros[static_cast<std::size_t>(below * g.groups + group)] == 0;
      }
      const auto at = static_cast<std::size_t>(r * g.groups + group);
      CHECK(fields[at] == (ones ? 15 : g.zeros[at] - 1));
      destroyed += ones && g.zeros[at] != 0;
    }
  }
  CHECK(destroyed > 0);
}
#endif
