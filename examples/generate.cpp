// SPDX-License-Identifier: Apache-2.0
/// Continues a prompt with a model.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "command_line.hpp"
#include "llama/model.hpp"
#include "llama/tokenizer.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/metrics/divergence.hpp"

namespace {

struct options {
  std::string model;
  std::string prompt = "Alice was beginning to";
  subbyte::index_t tokens = 100;
  float temperature = 0.8F;
  subbyte::index_t top = 40;
  std::uint64_t seed = 1;
  int threads = 0;
};

// A token drawn from softmax(logits / temperature) over the `top` likeliest.
llama::token draw(subbyte::vector_view<const float> logits, const options& o,
                  std::mt19937_64& random) {
  if (o.temperature == 0) return static_cast<llama::token>(subbyte::top_token<>(logits));
  std::vector<llama::token> ids(static_cast<std::size_t>(logits.size()));
  std::iota(ids.begin(), ids.end(), 0);
  const auto kept = static_cast<std::ptrdiff_t>(std::min(o.top, logits.size()));
  std::partial_sort(ids.begin(), ids.begin() + kept, ids.end(),
                    [&](llama::token a, llama::token b) { return logits[a] > logits[b]; });
  std::vector<double> cumulative;
  double sum = 0;
  for (std::ptrdiff_t i = 0; i < kept; ++i) {
    const float above = logits[ids[static_cast<std::size_t>(i)]] - logits[ids[0]];
    sum += std::exp(static_cast<double>(above / o.temperature));
    cumulative.push_back(sum);
  }
  const double point = static_cast<double>(random() >> 11) * 0x1p-53 * sum;
  const auto at = std::upper_bound(cumulative.begin(), cumulative.end() - 1, point);
  return ids[static_cast<std::size_t>(at - cumulative.begin())];
}

void generate(const options& o) {
  using clock = std::chrono::steady_clock;
  const llama::model model(o.model);
  const llama::tokenizer words(model.source().read_vocabulary());
  subbyte::thread_pool pool(o.threads);

  std::vector<llama::token> prompt = words.encode(o.prompt);
  if (words.words().add_bos || prompt.empty()) prompt.insert(prompt.begin(), words.words().bos);
  const auto length = static_cast<subbyte::index_t>(prompt.size());
  const subbyte::index_t context = model.shape().context;
  if (length >= context) {
    subbyte::throw_error(
        subbyte::errc::bad_argument, "prompt",
        std::to_string(length) + " tokens, the model's context holds " + std::to_string(context));
  }
  const subbyte::index_t room = std::min(context, length + o.tokens);
  llama::session session(model, room, length, pool);
  std::mt19937_64 random(o.seed);
  std::cout << o.prompt << std::flush;

  auto logits = session.append(prompt, llama::logits_of::last_token);
  subbyte::index_t made = 0;
  const clock::time_point start = clock::now();
  for (; made < o.tokens; ++made) {
    const llama::token next = draw(logits[0], o, random);
    if (next == words.words().eos) break;
    std::cout << words.text(next) << std::flush;
    if (session.length() == room || made + 1 == o.tokens) {
      ++made;
      break;
    }
    logits = session.append({&next, 1});
  }
  const double seconds = std::chrono::duration<double>(clock::now() - start).count();
  std::cout << "\n";
  std::fprintf(stderr, "%d tokens, %.0f per second\n", static_cast<int>(made),
               static_cast<double>(made) / seconds);
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  CLI::App app("Continues a prompt with a Llama model.", "generate");
  app.add_option("model", o.model, "GGUF file, or folder of a checkpoint, plain or quantized")
      ->required();
  app.add_option("prompt", o.prompt, "text to continue")->capture_default_str();
  app.add_option("-n,--tokens", o.tokens, "tokens to generate")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("-t,--temperature", o.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("-k,--top", o.top, "draw among this many likeliest tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("-s,--seed", o.seed, "of the random draws")->capture_default_str();
  app.add_option("--threads", o.threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  return example::run(app, argc, argv, [&] { generate(o); });
}
