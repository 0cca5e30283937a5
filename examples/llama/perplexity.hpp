// SPDX-License-Identifier: Apache-2.0
/// How well models predict a token stream: perplexity, and the divergence from a base model.
///
/// The rule: the stream's bos is dropped, the rest is cut into consecutive windows of equal length
/// (a short tail is dropped), bos is put in front of each, and every token of a window is predicted
/// from bos and the tokens before it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llama/model.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/io/mapped_file.hpp"
#include "subbyte/metrics/divergence.hpp"

namespace llama {

/// The tokens of a file of little-endian uint16.
inline std::vector<token> read_token_file(const std::string& path) {
  const subbyte::mapped_file file(path);
  const std::span<const std::uint8_t> bytes = file.bytes();
  if (bytes.size() % 2 != 0) {
    subbyte::throw_error(subbyte::errc::bad_metadata, path,
                         std::to_string(bytes.size()) +
                             " bytes; a stream of 16-bit tokens has an "
                             "even number");
  }
  std::vector<token> tokens;
  tokens.reserve(bytes.size() / 2);
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    tokens.push_back(bytes[i] | bytes[i + 1] << 8);
  }
  return tokens;
}

/// A token stream cut into windows by the rule.
class windows {
 public:
  /// At most `limit` windows of `length` tokens; limit 0 means all.
  windows(std::vector<token> stream, token bos, index_t length, index_t limit)
      : stream_(std::move(stream)), bos_(bos), length_(length) {
    if (!stream_.empty() && stream_.front() == bos) stream_.erase(stream_.begin());
    count_ = static_cast<index_t>(stream_.size()) / length;
    if (limit > 0) count_ = std::min(count_, limit);
    if (count_ == 0) {
      subbyte::throw_error(
          subbyte::errc::bad_argument, "token stream",
          std::to_string(stream_.size()) + " tokens; one window takes " + std::to_string(length));
    }
  }

  [[nodiscard]] index_t count() const noexcept { return count_; }
  [[nodiscard]] index_t length() const noexcept { return length_; }
  /// The tokens of window w, which are to be predicted.
  [[nodiscard]] std::span<const token> targets(index_t w) const {
    return {stream_.data() + w * length_, static_cast<std::size_t>(length_)};
  }
  /// What the model is given: bos and all targets but the last.
  [[nodiscard]] std::vector<token> inputs(index_t w) const {
    const std::span<const token> tokens = targets(w);
    std::vector<token> in{bos_};
    in.insert(in.end(), tokens.begin(), tokens.end() - 1);
    return in;
  }

 private:
  std::vector<token> stream_;
  token bos_;
  index_t length_;
  index_t count_ = 0;
};

/// What a stream says about one model. Without a base model only `likelihood` and `seconds` count.
struct stream_score {
  subbyte::perplexity_sums likelihood;
  subbyte::divergence_sums divergence;
  subbyte::moments window_kl;        // one mean per window: windows are independent, tokens are not
  std::vector<double> kl_of_window;  // those means
  double seconds = 0;                // in the model, metrics not counted
};

/// Runs every model over the windows, one window at a time, so that memory holds the logits of one
/// window per model whatever the length of the stream. The first model is also the base if
/// `compare`.
///
/// on_window(done, total) is called after each window of each model.
template <class Progress>
std::vector<stream_score> score_stream(std::span<const model* const> models, bool compare,
                                       const windows& text, subbyte::executor_ref executor,
                                       const Progress& on_window) {
  using clock = std::chrono::steady_clock;
  std::vector<stream_score> scores(models.size());
  std::deque<session> sessions;
  for (const model* m : models) sessions.emplace_back(*m, text.length(), text.length(), executor);
  std::vector<subbyte::token_divergence> rows(static_cast<std::size_t>(text.length()));

  const index_t total = text.count() * static_cast<index_t>(models.size());
  for (index_t w = 0; w < text.count(); ++w) {
    const std::vector<token> inputs = text.inputs(w);
    const std::span<const token> targets = text.targets(w);
    subbyte::matrix_view<const float> base;
    for (std::size_t m = 0; m < models.size(); ++m) {
      sessions[m].clear();
      const clock::time_point start = clock::now();
      const subbyte::matrix_view<const float> logits = sessions[m].append(inputs);
      scores[m].seconds += std::chrono::duration<double>(clock::now() - start).count();
      if (m == 0) base = logits;

      const bool against_base = compare && m > 0;
      executor.for_range(text.length(), 1, [&](index_t begin, index_t end) noexcept {
        for (index_t r = begin; r < end; ++r) {
          const auto at = static_cast<std::size_t>(r);
          if (against_base) {
            rows[at] = subbyte::compare_token<>(base[r], logits[r], targets[at]);
          } else {
            rows[at].nll = subbyte::token_nll<>(logits[r], targets[at]);
          }
        }
      });
      subbyte::moments kl;
      for (const subbyte::token_divergence& row : rows) {
        scores[m].likelihood.add(row.nll);
        if (!against_base) continue;
        scores[m].divergence.add(row);
        kl.add(row.kl);
      }
      if (against_base) {
        scores[m].window_kl.add(kl.mean());
        scores[m].kl_of_window.push_back(kl.mean());
      }
      on_window(w * static_cast<index_t>(models.size()) + static_cast<index_t>(m) + 1, total);
    }
  }
  return scores;
}

/// Tokens per second through a model.
struct speed {
  double prompt;      // a whole prompt at once, logits of its last token
  double generation;  // one token after another, each with its logits
};

/// Measures both for at least `seconds` each, after one run to warm up. The generated tokens follow
/// the prompt and are the most likely ones.
inline speed measure_speed(const model& m, std::span<const token> prompt, index_t generated,
                           double seconds, subbyte::executor_ref executor) {
  using clock = std::chrono::steady_clock;
  const auto length = static_cast<index_t>(prompt.size());
  session run(m, length + generated, length, executor);
  const auto since = [](clock::time_point start) {
    return std::chrono::duration<double>(clock::now() - start).count();
  };
  double prompt_seconds = 0, generation_seconds = 0;
  index_t runs = -1;  // the first does not count
  while (runs < 1 || prompt_seconds < seconds || generation_seconds < seconds) {
    run.clear();
    clock::time_point start = clock::now();
    subbyte::matrix_view<const float> logits = run.append(prompt, logits_of::last_token);
    const double prompt_time = since(start);
    start = clock::now();
    for (index_t i = 0; i < generated; ++i) {
      const token next = static_cast<token>(subbyte::top_token<>(logits[0]));
      logits = run.append({&next, 1});
    }
    if (++runs > 0) {
      prompt_seconds += prompt_time;
      generation_seconds += since(start);
    }
  }
  return {static_cast<double>(runs * length) / prompt_seconds,
          static_cast<double>(runs * generated) / generation_seconds};
}

}  // namespace llama
