// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a calibration file: a typed error, or inputs that are found under their names and
/// statistics that load, or are refused by one.
#include <cstdio>
#include <cstdlib>

#include "subbyte/calibrate/statistics_file.hpp"

namespace {

void expect(bool holds, const char* law) {
  if (holds) return;
  std::fprintf(stderr, "accepted, but not so: %s\n", law);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const subbyte::calibration_file file({data, size}, "fuzz");
    for (std::size_t i = 0; i < file.inputs().size(); ++i) {
      const subbyte::calibration_input& input = file.inputs()[i];
      const auto number = static_cast<subbyte::index_t>(i);
      expect(file.find_input(input.name) == number, "an input is found under its name");
      for (const std::string& weight : input.weights) {
        expect(file.find_weight(weight) == number, "a weight is found under its name");
      }
      try {
        const subbyte::input_statistics statistics = file.load(number);
        expect(statistics.tokens() == input.tokens, "the number of tokens");
        expect(statistics.parts().sum_square.size() == input.cols, "the number of channels");
        expect(statistics.parts().sample.extent(0) == input.sample_rows, "the rows of the sample");
      } catch (const subbyte::error&) {
      }
    }
  } catch (const subbyte::error&) {
  }
  return 0;
}
