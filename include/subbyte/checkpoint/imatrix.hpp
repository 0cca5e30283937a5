// SPDX-License-Identifier: Apache-2.0
/// Importance matrices of llama.cpp ("imatrix"): what a text did to the input of every weight, in
/// either of the two file forms.
#pragma once

#include <algorithm>  // std::max_element
#include <cmath>      // std::ceil
#include <cstring>    // std::memcmp
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/core/bits.hpp"
#include "subbyte/io/atomic_file.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/gguf_writer.hpp"
#include "subbyte/io/mapped_file.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// What is known of one weight's input. A stack of experts has a matrix for each of them, and each
/// matrix sees inputs of its own.
struct imatrix_entry {
  std::vector<double> sum_square;  ///< [matrices * cols] sum of x^2 over the rows seen
  std::vector<double> counts;      ///< [matrices] rows seen; one for all where no more is known

  /// Matrices that saw no row.
  [[nodiscard]] index_t starved() const noexcept {
    index_t count = 0;
    for (const double c : counts) count += c == 0 ? 1 : 0;
    return count;
  }
};

/// An importance matrix: entries by the GGUF name of the weight, and where they are from.
struct imatrix {
  std::map<std::string, imatrix_entry, std::less<>> entries;
  std::vector<std::string> datasets;  ///< names of the texts
  index_t chunks = 0;                 ///< pieces of text, of chunk_size tokens
  index_t chunk_size = 512;

  [[nodiscard]] const imatrix_entry* find(std::string_view name) const noexcept {
    const auto found = entries.find(name);
    return found == entries.end() ? nullptr : &found->second;
  }
};

/// What the legacy form does not say.
struct imatrix_options {
  /// Tokens per chunk of a legacy file, which counts in chunks; 512 is the tool's default. Matters
  /// only where such a file is merged with one that counts rows.
  index_t legacy_chunk_size = 512;
};

namespace detail {

/// What the 32-bit fields of both forms hold.
inline constexpr index_t max_imatrix_number = 0x7FFFFFFF;

template <class Arch>
class imatrix_parser {
 public:
  imatrix_parser(std::span<const std::uint8_t> bytes, std::string name,
                 const imatrix_options& options)
      : bytes_(bytes), name_(std::move(name)), options_(options) {
    if (options.legacy_chunk_size < 1 || options.legacy_chunk_size > max_imatrix_number) {
      throw_error(errc::bad_argument, "legacy_chunk_size",
                  std::to_string(options.legacy_chunk_size) + ", required is 1 to " +
                      std::to_string(max_imatrix_number));
    }
  }

  [[nodiscard]] imatrix parse() {
    constexpr std::uint8_t magic[4] = {'G', 'G', 'U', 'F'};
    const bool is_gguf = bytes_.size() >= 4 && std::memcmp(bytes_.data(), magic, 4) == 0;
    if (is_gguf) {
      parse_gguf();
    } else {
      parse_legacy();
    }
    return std::move(result_);
  }

 private:
  // The smallest entry: two lengths, a count, a name of one byte and one value.
  static constexpr index_t least_entry_bytes = 17;

  [[noreturn]] void fail(errc code, const std::string& message) const {
    throw_error(code, name_, message);
  }
  [[nodiscard]] index_t remaining() const noexcept {
    return static_cast<index_t>(bytes_.size()) - at_;
  }
  std::span<const std::uint8_t> take(index_t count, const char* what) {
    if (count > remaining()) {
      fail(errc::truncated, std::string(what) + " at byte " + std::to_string(at_) + " needs " +
                                std::to_string(count) + " bytes, and " +
                                std::to_string(remaining()) + " are left");
    }
    const auto taken =
        bytes_.subspan(static_cast<std::size_t>(at_), static_cast<std::size_t>(count));
    at_ += count;
    return taken;
  }
  index_t take_number(const char* what, index_t least) {
    const std::uint32_t bits = load_le<std::uint32_t>(take(4, what).data());
    const index_t value = static_cast<std::int32_t>(bits);
    if (value < least) {
      fail(errc::bad_metadata, std::string(what) + " at byte " + std::to_string(at_ - 4) + " is " +
                                   std::to_string(value) + ", required is at least " +
                                   std::to_string(least));
    }
    return value;
  }
  std::string take_text(const char* what, index_t least) {
    const auto text = take(take_number(what, least), what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  [[nodiscard]] double checked_value(const std::uint8_t* at, std::string_view entry,
                                     const char* what) const {
    const std::uint32_t bits = load_le<std::uint32_t>(at);
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    if (value - value != 0) {
      fail(errc::non_finite, printable<Arch>(entry) + " has a " + what + " that is not finite");
    }
    if (value < 0) {
      fail(errc::bad_metadata, printable<Arch>(entry) + " has a " + what + " of " +
                                   std::to_string(value) + ", required is at least 0");
    }
    return static_cast<double>(value);
  }
  [[nodiscard]] std::vector<double> checked_values(std::span<const std::uint8_t> stored,
                                                   std::string_view entry, const char* what) const {
    std::vector<double> values(stored.size() / 4);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = checked_value(stored.data() + 4 * i, entry, what);
    }
    return values;
  }

  void parse_legacy() {
    const index_t count = take_number("the number of entries", 1);
    if (count > remaining() / least_entry_bytes) {
      fail(errc::truncated, "neither a GGUF file nor as many as " + std::to_string(count) +
                                " entries, for which " + std::to_string(remaining()) +
                                " bytes are too few");
    }
    const double chunk = static_cast<double>(options_.legacy_chunk_size);
    for (index_t i = 0; i < count; ++i) {
      std::string name = take_text("the name of an entry", 1);
      const index_t calls = take_number("a number of calls", 0);
      const index_t size = take_number("a number of values", 1);
      imatrix_entry entry;
      entry.sum_square = checked_values(take(4 * size, "the values of an entry"), name, "value");
      // Values are means, times the number of calls if that is not zero.
      for (double& v : entry.sum_square) v *= chunk;
      entry.counts.assign(1, chunk * static_cast<double>(calls == 0 ? 1 : calls));
      if (!result_.entries.emplace(name, std::move(entry)).second) {
        fail(errc::bad_metadata, "entry " + printable<Arch>(name) + " occurs twice");
      }
    }
    result_.chunk_size = options_.legacy_chunk_size;
    // Old files end here, and less old ones after the number.
    if (remaining() > 0) result_.chunks = take_number("the number of chunks", 0);
    if (remaining() > 0) result_.datasets.push_back(take_text("the name of the dataset", 0));
    if (remaining() > 0) {
      fail(errc::bad_metadata, std::to_string(remaining()) + " bytes follow the last field");
    }
  }

  [[nodiscard]] index_t number_of(const gguf::basic_file<Arch>& file, const char* key,
                                  index_t otherwise, index_t least) const {
    const index_t value = file.get_or(key, otherwise);
    if (value < least || value > max_imatrix_number) {
      fail(errc::bad_metadata, std::string(key) + " is " + std::to_string(value) +
                                   ", required is " + std::to_string(least) + " to " +
                                   std::to_string(max_imatrix_number));
    }
    return value;
  }

  void parse_gguf() {
    const gguf::basic_file<Arch> file = gguf::parse<Arch>(bytes_, name_);
    const auto type = file.template get_or<std::string_view>("general.type", "imatrix");
    if (type != "imatrix") {
      fail(errc::bad_metadata,
           "general.type is " + printable<Arch>(type) + ", required is imatrix");
    }
    if (const auto* const texts = file.find("imatrix.datasets")) {
      for (const std::string_view text :
           texts->template get<gguf::array_view<std::string_view>>()) {
        result_.datasets.emplace_back(text);
      }
    }
    result_.chunks = number_of(file, "imatrix.chunk_count", 0, 0);
    result_.chunk_size = number_of(file, "imatrix.chunk_size", 512, 1);
    constexpr std::string_view sums = ".in_sum2", counts = ".counts";
    const auto stem = [](std::string_view name, std::string_view end) {
      const bool ends = name.size() > end.size() && name.substr(name.size() - end.size()) == end;
      return ends ? name.substr(0, name.size() - end.size()) : std::string_view();
    };
    for (const gguf::basic_tensor<Arch>& t : file.tensors()) {
      if (const std::string_view lone = stem(t.name(), counts); !lone.empty()) {
        if (file.find_tensor(std::string(lone) + std::string(sums)) == nullptr) {
          fail(errc::bad_metadata, printable<Arch>(lone) + " has counts and no sums");
        }
      }
      const std::string_view name = stem(t.name(), sums);
      if (name.empty()) continue;  // further statistics
      const gguf::basic_tensor<Arch>* const seen =
          file.find_tensor(std::string(name) + std::string(counts));
      if (seen == nullptr) {
        fail(errc::bad_metadata, printable<Arch>(name) + " has sums and no counts");
      }
      for (const auto* part : {&t, seen}) {
        if (part->type() != f32::gguf_type) {
          fail(errc::bad_metadata, printable<Arch>(part->name()) + " is of type " +
                                       std::to_string(part->type()) + ", required is F32");
        }
      }
      if (seen->size() == 0 || t.size() == 0 || t.size() % seen->size() != 0) {
        fail(errc::bad_shape, printable<Arch>(name) + " has " + std::to_string(t.size()) +
                                  " sums for " + std::to_string(seen->size()) + " matrices");
      }
      imatrix_entry entry;
      entry.sum_square = checked_values(t.bytes(), name, "sum");
      entry.counts = checked_values(seen->bytes(), name, "count");
      result_.entries.emplace(name, std::move(entry));
    }
    if (result_.entries.empty()) fail(errc::bad_metadata, "no tensor ends in .in_sum2");
  }

  std::span<const std::uint8_t> bytes_;
  std::string name_;
  imatrix_options options_;
  index_t at_ = 0;
  imatrix result_;
};

template <class Arch>
void check_imatrix_number(const std::string& path, index_t value) {
  if (value >= 0 && value <= max_imatrix_number) return;
  throw_error(errc::bad_argument, path,
              std::to_string(value) + " does not fit the 31 bits of a number in an imatrix");
}

// `value` as F32 at the end of `bytes`.
template <class Arch>
void append_f32(std::vector<std::uint8_t>& bytes, const std::string& name, double value) {
  const auto rounded = static_cast<float>(value);
  if (rounded - rounded != 0) {
    throw_error(errc::non_finite, printable<Arch>(name), "a value is beyond the range of F32");
  }
  std::uint32_t bits;
  __builtin_memcpy(&bits, &rounded, sizeof bits);
  bytes.resize(bytes.size() + sizeof bits);
  store_le(bytes.data() + bytes.size() - sizeof bits, bits);
}

}  // namespace detail

/// Reads an importance matrix, of either form, from bytes in memory; `name` is for error messages.
///
/// Legacy entries have one count for all experts, and llama.cpp stored ones for those that saw
/// nothing. Tensors of the GGUF form that are neither sums nor counts are passed over.
///
/// Cost    memory at most 16 times the bytes and 8 KiB, whatever they claim.
/// Throws  truncated, bad_metadata, bad_shape, non_finite; what gguf::parse throws; bad_argument
///         for options.
/// Source  llama.cpp, tools/imatrix/imatrix.cpp at 006e7ef9.
template <class Arch = arch::native>
[[nodiscard]] imatrix parse_imatrix(std::span<const std::uint8_t> bytes, std::string name,
                                    const imatrix_options& options = {}) {
  return detail::imatrix_parser<Arch>(bytes, std::move(name), options).parse();
}

/// The same from a file. Throws also what mapped_file throws.
template <class Arch = arch::native>
[[nodiscard]] imatrix open_imatrix(const std::string& path, const imatrix_options& options = {}) {
  const basic_mapped_file<Arch> file(path);
  return parse_imatrix<Arch>(file.bytes(), path, options);
}

/// Adds what was seen of a weight's input: sum_square [matrices * cols], counts [matrices]. Sums
/// and counts of a weight that has an entry add up.
///
/// Numerics  sums in double.
/// Throws    bad_shape where the sizes do not fit each other or the entry; bad_argument for an
/// empty
///           name and negative numbers; non_finite.
template <class Arch = arch::native>
void add_to_imatrix(imatrix& to, std::string_view name, std::span<const double> sum_square,
                    std::span<const double> counts) {
  const auto refuse = [&](errc code, const std::string& message) {
    throw_error(code, "imatrix of " + printable<Arch>(name), message);
  };
  if (name.empty()) refuse(errc::bad_argument, "a weight needs a name");
  if (counts.empty() || sum_square.empty() || sum_square.size() % counts.size() != 0) {
    refuse(errc::bad_shape, std::to_string(sum_square.size()) + " sums for " +
                                std::to_string(counts.size()) + " matrices");
  }
  for (const auto values : {sum_square, counts}) {
    for (const double v : values) {
      if (v - v != 0) refuse(errc::non_finite, "a sum or count is not finite");
      if (v < 0) refuse(errc::bad_argument, "a sum or count is " + std::to_string(v));
    }
  }
  imatrix_entry& e = to.entries[std::string(name)];
  if (e.counts.empty()) {
    e.sum_square.assign(sum_square.begin(), sum_square.end());
    e.counts.assign(counts.begin(), counts.end());
    return;
  }
  const bool one_for_all = e.counts.size() == 1 || counts.size() == 1;
  if (e.sum_square.size() != sum_square.size() ||
      (e.counts.size() != counts.size() && !one_for_all)) {
    refuse(errc::bad_shape, std::to_string(sum_square.size()) + " sums for " +
                                std::to_string(counts.size()) + " matrices, and the entry has " +
                                std::to_string(e.sum_square.size()) + " for " +
                                std::to_string(e.counts.size()));
  }
  if (e.counts.size() < counts.size()) e.counts.assign(counts.size(), e.counts[0]);
  for (std::size_t i = 0; i < e.counts.size(); ++i) {
    e.counts[i] += counts.size() == 1 ? counts[0] : counts[i];
  }
  for (std::size_t i = 0; i < e.sum_square.size(); ++i) e.sum_square[i] += sum_square[i];
}

/// Adds another importance matrix of the same model: what either has counts, and what both have
/// adds up. Datasets follow those that are there.
///
/// Throws  bad_shape for entries that do not fit each other.
template <class Arch = arch::native>
void merge_imatrix(imatrix& to, const imatrix& from) {
  for (const auto& [name, entry] : from.entries) {
    add_to_imatrix<Arch>(to, name, entry.sum_square, entry.counts);
  }
  to.datasets.insert(to.datasets.end(), from.datasets.begin(), from.datasets.end());
  // In double: what hostile files claim can be beyond 2^63.
  const double chunks = static_cast<double>(to.chunks) + static_cast<double>(from.chunks) *
                                                             static_cast<double>(from.chunk_size) /
                                                             static_cast<double>(to.chunk_size);
  to.chunks = static_cast<index_t>(std::min(chunks, 0x1p62));
}

/// What the error of each weight of a tensor is to be weighted with: mean x^2 [matrices, cols].
///
/// A matrix that saw no row gets ones: all its columns alike, as llama.cpp has it.
///
/// Throws  bad_shape naming the tensor if the entry is for another shape; non_finite for a mean
///         beyond the range of float, which a sum over a fraction of a row can have.
template <class Arch = arch::native>
[[nodiscard]] tensor<float, 2> importance_of(const imatrix_entry& entry, std::string_view name,
                                             index_t cols, index_t matrices) {
  const auto size = static_cast<index_t>(entry.sum_square.size());
  const auto counts = static_cast<index_t>(entry.counts.size());
  if (size != cols * matrices || (counts != 1 && counts != matrices)) {
    throw_error(errc::bad_shape, printable<Arch>(name),
                std::to_string(matrices) + " x " + std::to_string(cols) +
                    " channels, and the importance matrix has " + std::to_string(size) +
                    " values for " + std::to_string(counts) + " matrices");
  }
  tensor<float, 2> means(uninitialized, matrices, cols);
  for (index_t m = 0; m < matrices; ++m) {
    const double count = entry.counts[static_cast<std::size_t>(counts == 1 ? 0 : m)];
    for (index_t j = 0; j < cols; ++j) {
      const double sum = entry.sum_square[static_cast<std::size_t>(m * cols + j)];
      const double mean = count > 0 ? sum / count : 1.0;
      if (!(mean <= static_cast<double>(std::numeric_limits<float>::max()))) {
        throw_error(errc::non_finite, printable<Arch>(name),
                    "the mean of channel " + std::to_string(j) + " is beyond the range of float");
      }
      means(m, j) = static_cast<float>(mean);
    }
  }
  return means;
}

/// Writes the GGUF form: sums and counts as F32, in the order of the names.
///
/// Throws  non_finite for a sum beyond F32's range; what gguf::writer throws, such as for names of
///         more than 55 bytes.
/// Source  llama.cpp, tools/imatrix/imatrix.cpp at 006e7ef9.
template <class Arch = arch::native>
void write_imatrix(const std::string& path, const imatrix& data) {
  for (const index_t number : {data.chunks, data.chunk_size}) {
    detail::check_imatrix_number<Arch>(path, number);
  }
  gguf::basic_writer<Arch> out(path);
  out.metadata("general.type", "imatrix");
  out.metadata("imatrix.datasets", data.datasets);
  out.metadata("imatrix.chunk_count", static_cast<std::uint32_t>(data.chunks));
  out.metadata("imatrix.chunk_size", static_cast<std::uint32_t>(data.chunk_size));
  for (const auto& [name, e] : data.entries) {
    const auto matrices = static_cast<index_t>(e.counts.size());
    const auto cols = static_cast<index_t>(e.sum_square.size() / e.counts.size());
    const std::size_t used = matrices == 1 ? 1 : 2;
    const index_t sum_dims[] = {cols, matrices}, count_dims[] = {1, matrices};
    out.template declare<f32>(name + ".in_sum2", std::span(sum_dims, used));
    out.template declare<f32>(name + ".counts", std::span(count_dims, used));
  }
  std::vector<std::uint8_t> bytes;
  const auto write = [&](const std::string& name, const std::vector<double>& values) {
    bytes.clear();
    for (const double v : values) detail::append_f32<Arch>(bytes, name, v);
    out.write(name, bytes);
  };
  for (const auto& [name, e] : data.entries) {
    write(name + ".in_sum2", e.sum_square);
    write(name + ".counts", e.counts);
  }
  out.finish();
}

/// Writes the legacy form (.dat), which knows one count per entry, in chunks: means are what it
/// keeps. Entries of which no matrix saw a row are left out; a matrix without rows gets ones.
///
/// Throws  bad_argument where nothing is left to write, or a size passes 31 bits; non_finite; what
///         atomic_file throws.
/// Source  llama.cpp, tools/imatrix/imatrix.cpp at 006e7ef9.
template <class Arch = arch::native>
void write_legacy_imatrix(const std::string& path, const imatrix& data) {
  basic_atomic_file<Arch> out(path);
  const auto write_number = [&](index_t value) {
    detail::check_imatrix_number<Arch>(path, value);
    std::uint8_t bytes[4];
    store_le(bytes, static_cast<std::uint32_t>(value));
    out.write(bytes);
  };
  const auto write_text = [&](const std::string& text) {
    write_number(static_cast<index_t>(text.size()));
    out.write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  };
  index_t known = 0;
  for (const auto& [name, e] : data.entries) {
    known += e.starved() < static_cast<index_t>(e.counts.size()) ? 1 : 0;
  }
  if (known == 0) throw_error(errc::bad_argument, path, "no entry saw a row");
  write_number(known);
  std::vector<std::uint8_t> bytes;
  for (const auto& [name, e] : data.entries) {
    const auto matrices = static_cast<index_t>(e.counts.size());
    if (e.starved() == matrices) continue;
    const auto cols = static_cast<index_t>(e.sum_square.size()) / matrices;
    const tensor<float, 2> means = importance_of<Arch>(e, name, cols, matrices);
    // Rounded up: zero calls would mean something else.
    const double most = *std::max_element(e.counts.begin(), e.counts.end());
    const double calls = std::ceil(most / static_cast<double>(data.chunk_size));
    write_text(name);
    write_number(static_cast<index_t>(std::min(calls, 1e18)));
    write_number(means.size());
    bytes.clear();
    for (const float mean : std::span(means.data(), static_cast<std::size_t>(means.size()))) {
      detail::append_f32<Arch>(bytes, name, static_cast<double>(mean) * calls);
    }
    out.write(bytes);
  }
  write_number(data.chunks);
  write_text(data.datasets.empty() ? std::string() : data.datasets.back());
  out.commit();
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
