// SPDX-License-Identifier: Apache-2.0
/// Every format of ggml's against bytes and values made by ggml: equal bit for bit, whatever
/// the compiler, optimisation level and -march. Input: tests/golden/ggml.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/tested_formats.hpp"

namespace {

using namespace subbyte;

constexpr int columns = 512;
const std::string root = SUBBYTE_GOLDEN_DIR "/ggml/";
const char* const sets[] = {"gaussian", "heavy", "edge", "extreme"};

template <class T>
std::vector<T> load(const std::string& path) {
  std::ifstream file(root + path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

/// The formats' names in the data: q2_k is q2_K there.
std::string golden_name(std::string name) {
  if (name.size() > 2 && name.compare(name.size() - 2, 2, "_k") == 0) name.back() = 'K';
  return name;
}

/// One line of notes/ub.tsv or notes/abort.tsv: ggml's result is undefined, or there is none.
struct skipped_row {
  std::string set;
  int row;
  std::string type;
  std::string variant;
};

const std::vector<skipped_row>& skipped_rows() {
  static const std::vector<skipped_row> rows = [] {
    std::vector<skipped_row> found;
    for (const char* name : {"notes/ub.tsv", "notes/abort.tsv"}) {
      std::ifstream file(root + name);
      std::string line;
      std::getline(file, line);  // column titles
      while (std::getline(file, line)) {
        std::istringstream fields(line);
        skipped_row r{};
        fields >> r.set >> r.row >> r.type >> r.variant;
        found.push_back(r);
      }
    }
    return found;
  }();
  return rows;
}

bool skipped(const std::string& set, int row, const std::string& type, const char* variant) {
  const auto& rows = skipped_rows();
  return std::any_of(rows.begin(), rows.end(), [&](const skipped_row& r) {
    return r.set == set && r.row == row && r.type == type && r.variant == variant;
  });
}

template <class F>
[[gnu::noinline]] void encode_row(const float* w, const float* importance, F* out) {
  static const block_encoder<F, arch::native> encoder;
  encoder(w, importance, mean_square<arch::native>(w, columns), columns / F::block_size, out);
}

/// Formats that ggml encodes with importance only.
template <class F>
constexpr bool needs_importance = contains_v<type_list<iq2_xxs, iq2_xs, iq1_s>, F>;

/// ik_llama.cpp's types have numbers beyond ggml's, and golden data of their own.
template <class F>
constexpr bool known_to_ggml = [] {
  if constexpr (gguf_format<F>) return F::gguf_type < 100;
  return true;
}();

template <class F>
[[gnu::noinline]] void decode_row(const F* blocks, float* out) {
  for (int i = 0; i < columns / F::block_size; ++i) decode(blocks[i], out + i * F::block_size);
}

/// Equal bits, or both NaN.
bool same_values(const float* a, const float* b) {
  for (int i = 0; i < columns; ++i) {
    const bool both_nan = a[i] != a[i] && b[i] != b[i];
    if (!both_nan && bit_cast<std::uint32_t>(a[i]) != bit_cast<std::uint32_t>(b[i])) return false;
  }
  return true;
}

/// Equal bytes. Where arithmetic makes a NaN, x86's has the sign bit set and every other CPU's has
/// not; IEEE 754 leaves the sign open. Away from x86 a stored scale of ggml's that is x86's NaN
/// (0xFE00) may therefore be 0x7E00.
template <class F>
bool same_bytes(const F& ours, const F& golden) {
#if !defined(__x86_64__)
  unsigned char a[sizeof(F)];
  unsigned char b[sizeof(F)];
  std::memcpy(a, &ours, sizeof(F));
  std::memcpy(b, &golden, sizeof(F));
  // Scales lie at even offsets.
  for (std::size_t i = 0; i + 1 < sizeof(F); i += 2) {
    const bool nan_of_x86 = b[i] == 0x00 && b[i + 1] == 0xFE;
    if (nan_of_x86 && a[i] == 0x00 && a[i + 1] == 0x7E) b[i + 1] = 0x7E;
  }
  return std::memcmp(a, b, sizeof(F)) == 0;
#else
  return std::memcmp(&ours, &golden, sizeof(F)) == 0;
#endif
}

int encoded_rows = 0;
int decoded_rows = 0;

template <class F>
void compare_format(const std::string& type, const char* variant) {
  constexpr std::size_t blocks = columns / F::block_size;
  const bool weighted = std::string(variant) == "im";
  const std::vector<float> importance = load<float>("imatrix/im512.f32");
  REQUIRE(importance.size() == columns);
  for (const std::string set : sets) {
    const std::vector<float> input = load<float>("input/" + set + ".f32");
    const std::string stem = set + "/" + type;
    std::vector<F> expected = load<F>("q/" + stem + (weighted ? ".im.bin" : ".bin"));
    std::vector<float> values = load<float>("deq/" + stem + (weighted ? ".im.f32" : ".f32"));
    const bool ignores_importance = weighted && expected.empty();
    if (ignores_importance) expected = load<F>("q/" + stem + ".bin");
    const int rows = static_cast<int>(input.size() / columns);
    REQUIRE(expected.size() == static_cast<std::size_t>(rows) * blocks);
    for (int row = 0; row < rows; ++row) {
      INFO(type << " " << variant << ", set " << set << ", row " << row);
      const std::size_t r = static_cast<std::size_t>(row);
      const F* golden = expected.data() + r * blocks;
      std::vector<F> ours(blocks);
      encode_row(input.data() + r * columns, weighted ? importance.data() : nullptr, ours.data());
      if (!skipped(set, row, type, variant)) {
        ++encoded_rows;
        for (std::size_t i = 0; i < blocks; ++i) {
          INFO("block " << i);
          CHECK(same_bytes(ours[i], golden[i]));
        }
      }
      if (!values.empty()) {
        REQUIRE(values.size() == input.size());
        ++decoded_rows;
        std::vector<float> decoded(columns);
        decode_row(golden, decoded.data());
        CHECK(same_values(decoded.data(), values.data() + r * columns));
      }
    }
  }
}

}  // namespace

TEST_CASE("every format's encoder and decoder equal ggml's bytes and values") {
  for_each_type(test_support::tested_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    // f32 is a copy: nothing to compare with.
    if constexpr (known_to_ggml<F> && !std::is_same_v<F, f32>) {
      if constexpr (!needs_importance<F>) compare_format<F>(golden_name(F::name), "plain");
      compare_format<F>(golden_name(F::name), "im");
    }
  });
  // 29 formats with and 26 without importance, 52 rows each, less 39 rows of notes/ub.tsv and
  // notes/abort.tsv; values of 25 formats without importance (q8_1 has none) and, with it, of the
  // 18 that use it.
  const int expected_encoded = (29 + 26) * 52 - 39;
  const int expected_decoded = (25 + 18) * 52;
  WARN("rows compared: " << encoded_rows << " encoded, " << decoded_rows << " decoded");
  if (test_support::all_formats_tested) {
    CHECK(encoded_rows == expected_encoded);
    CHECK(decoded_rows == expected_decoded);
  }
}
