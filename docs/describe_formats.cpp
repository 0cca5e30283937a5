// SPDX-License-Identifier: Apache-2.0
/// Prints the format table of README.md and docs/formats.md from the registry.
#include <cstdio>
#include <string>

#include "subbyte/format/list.hpp"

namespace {

template <class F>
void print_row() {
  std::string gguf = "-";
  if constexpr (subbyte::gguf_format<F>) gguf = std::to_string(F::gguf_type);
  std::string partner = "-";
  if constexpr (requires { typename F::partner; }) partner = F::partner::name;
  std::printf("| `%s` | %s | %d | %d | %.4f | %s | %s |\n", F::name, gguf.c_str(), F::block_size,
              static_cast<int>(sizeof(F)), subbyte::bits_per_weight<F>, partner.c_str(),
              subbyte::grid_format<F> ? "grid" : "opaque");
}

}  // namespace

int main() {
  std::puts(
      "| format | GGUF type | weights per block | bytes | bits per weight | partner | kind |");
  std::puts("|---|---|---|---|---|---|---|");
  subbyte::for_each_type(subbyte::all_formats{},
                         []<class F>(std::type_identity<F>) { print_row<F>(); });
}
