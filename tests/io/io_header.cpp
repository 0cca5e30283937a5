// SPDX-License-Identifier: Apache-2.0
/// The header of the component io brings readers, writers and the names of tensors.
#include "subbyte/io.hpp"

#include <type_traits>

#include "support/catch.hpp"
#include "support/error_of.hpp"

using namespace subbyte;

static_assert(std::is_class_v<gguf::writer> && std::is_class_v<safetensors::writer>);
static_assert(std::is_class_v<gguf::split_writer>);

TEST_CASE("io.hpp: both kinds of file and the names in them, from one include") {
  const auto code_of = [](auto open) { return test_support::error_of(open).code(); };
  CHECK(code_of([] { (void)gguf::open("/nowhere.gguf"); }) == errc::io);
  CHECK(code_of([] { (void)safetensors::open("/nowhere.safetensors"); }) == errc::io);
  CHECK(checkpoint::gguf_name("lm_head.weight") == std::string("output.weight"));
  const tensor<float, 2> w(1, 32);
  CHECK(quantize<q8_0>(w.view()).report.error.mse == 0);
}
