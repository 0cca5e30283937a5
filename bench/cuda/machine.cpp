// SPDX-License-Identifier: Apache-2.0
/// What a result must say about the machine it is from.
#include "machine.hpp"

#include <cstdio>
#include <ctime>
#include <sstream>

namespace bench {
namespace {

std::string output_of(const char* command) {
  std::string text;
  FILE* const pipe = popen(command, "r");
  if (pipe == nullptr) return text;
  char buffer[256];
  while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
  return pclose(pipe) == 0 ? text : "";
}

std::string version_of(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

record describe(const subbyte::cuda::device& on, const options& o) {
  int driver = 0;
  int runtime = 0;
  subbyte::cuda::check(cudaDriverGetVersion(&driver), "the driver");
  subbyte::cuda::check(cudaRuntimeGetVersion(&runtime), "the runtime");
  const std::time_t now = std::time(nullptr);
  char date[32] = "";
  static_cast<void>(std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now)));
  const cudaDeviceProp& p = on.properties();
  std::string driver_version =
      output_of("nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null");
  driver_version = driver_version.substr(0, driver_version.find('\n'));
  return {{"device", std::string(on.name())},
          {"compute_capability", std::to_string(p.major) + "." + std::to_string(p.minor)},
          {"multiprocessors", p.multiProcessorCount},
          {"l2_bytes", p.l2CacheSize},
          {"memory_bytes", static_cast<std::int64_t>(p.totalGlobalMem)},
          {"driver", driver_version},
          {"driver_supports_cuda", version_of(driver)},
          {"cuda_runtime", version_of(runtime)},
          {"toolkit", version_of(CUDART_VERSION)},
          {"date", std::string(date)},
          {"commit", o.commit}};
}

void add_clocks(results& r, const std::string& when) {
  const std::string text = output_of(
      "nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu "
      "--format=csv,noheader,nounits 2>/dev/null");
  std::istringstream line(text.substr(0, text.find('\n')));
  record out{{"when", when}};
  for (const char* const name : {"sm_mhz", "memory_mhz", "watts", "celsius"}) {
    std::string field;
    if (!std::getline(line, field, ',')) break;
    char* end = nullptr;
    const double value = std::strtod(field.c_str(), &end);
    if (end != field.c_str()) out.emplace_back(name, value);
  }
  if (out.size() > 1) r.section("clocks").push_back(out);
}

}  // namespace bench
