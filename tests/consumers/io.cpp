// SPDX-License-Identifier: Apache-2.0
#include <subbyte/io.hpp>

int main() {
  try {
    (void)subbyte::gguf::open("/nowhere.gguf");
  } catch (const subbyte::error& e) {
    return e.code() == subbyte::errc::io ? 0 : 1;
  }
  return 1;
}
