// SPDX-License-Identifier: Apache-2.0
/// The errors of the policy best relative to those of reference given the same importance, on
/// normal and heavy-tailed weights and on a model's; and the time that both take, beside ggml's
/// where SUBBYTE_PEER_GGML names a build of it.
///
/// usage: best MODEL.gguf CALIBRATION FORMAT... > TABLES.md
///
/// CALIBRATION is a file of examples/perplexity --calibrate; no FORMAT: every one that best
/// searches.
#include <time.h>  // clock_gettime

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/calibrate/statistics_file.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/io/gguf.hpp"
#include "subbyte/quantize/best.hpp"
#include "subbyte/quantize/reference.hpp"

#if defined(SUBBYTE_PEER_GGML)
#include <ggml.h>
#endif

using namespace subbyte;

namespace {

/// A matrix and the importance of its columns.
struct layer {
  index_t rows, cols;
  std::vector<float> w;
  std::vector<float> importance;
};

using layers = std::vector<layer>;

class deviates {
 public:
  explicit deviates(std::uint64_t seed) : bits_(seed) {}
  double normal() {
    const auto uniform = [&] { return (static_cast<double>(bits_() >> 11U) + 0.5) * 0x1p-53; };
    return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform());
  }
  /// Student's t with 4 degrees of freedom.
  double heavy() {
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += std::pow(normal(), 2);
    return normal() / std::sqrt(sum / 4);
  }

 private:
  std::mt19937_64 bits_;
};

/// Log-normal importance, as different between columns as activations are.
layer random_layer(index_t rows, index_t cols, bool heavy) {
  deviates draw(heavy ? 11 : 7);
  layer l{rows, cols, std::vector<float>(static_cast<std::size_t>(rows * cols)), {}};
  for (float& x : l.w) x = static_cast<float>(0.02 * (heavy ? draw.heavy() : draw.normal()));
  for (index_t i = 0; i < cols; ++i) {
    l.importance.push_back(static_cast<float>(std::exp(draw.normal())));
  }
  return l;
}

/// The matrices of a model that the calibration file knows the inputs of, and those it does not
/// with equal importance.
layers model_layers(const std::string& model, const std::string& calibration) {
  layers all;
  const auto file = gguf::open(model);
  const calibration_file known(calibration);
  for (const auto& t : file.tensors()) {
    if (t.rows() == 1) continue;
    const auto stored = t.as<f16>();
    layer l{t.rows(), t.cols(), std::vector<float>(static_cast<std::size_t>(t.size())), {}};
    for (index_t r = 0; r < l.rows; ++r) {
      stored.decode_row(r, 0, l.cols, l.w.data() + r * l.cols);
    }
    const index_t input = known.find_weight(t.name());
    if (input >= 0) {
      const auto importance = known.load(input).importance();
      l.importance.assign(importance.data(), importance.data() + importance.size());
    } else {
      l.importance.assign(static_cast<std::size_t>(l.cols), 1.0F);
    }
    all.push_back(std::move(l));
  }
  return all;
}

template <class F, class Policy>
double objective(const layer& l, const Policy& policy) {
  block_matrix<F> m(l.rows, l.cols);
  policy.apply(matrix_view<const float>(l.w.data(), l.rows, l.cols), m, serial);
  std::vector<float> back(static_cast<std::size_t>(l.cols));
  double sum = 0;
  for (index_t r = 0; r < l.rows; ++r) {
    m.view().decode_row(r, 0, l.cols, back.data());
    for (index_t i = 0; i < l.cols; ++i) {
      const double e = static_cast<double>(l.w[static_cast<std::size_t>(r * l.cols + i)]) -
                       static_cast<double>(back[static_cast<std::size_t>(i)]);
      const bool weighted = policy.importance.size() != 0;
      sum += (weighted ? static_cast<double>(policy.importance[i]) : 1.0) * e * e;
    }
  }
  return sum;
}

/// Percent that best's objective lies below reference's, the mean over the layers.
template <class F>
double percent_saved(const layers& all, bool weighted, int effort) {
  double sum = 0;
  for (const layer& l : all) {
    reference plain;
    best searched{.effort = effort};
    if (weighted) searched.importance = plain.importance = l.importance;
    sum += 1 - objective<F>(l, searched) / objective<F>(l, plain);
  }
  return 100 * sum / static_cast<double>(all.size());
}

template <class Encode>
double milliseconds(Encode&& encode) {
  // Of this thread's processor time: a loaded machine changes wall time, not this.
  const auto now = [] {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  encode();
  return now() - start;
}

/// Medians of interleaved repetitions: reference, efforts 1, 2 and 3, ggml (0 without it).
template <class F>
void print_times(const layer& l, bool weighted) {
  const matrix_view<const float> w(l.w.data(), l.rows, l.cols);
  block_matrix<F> m(l.rows, l.cols);
  reference plain;
  best searched;
  if (weighted) searched.importance = plain.importance = l.importance;
  std::vector<double> times[5];
  for (int repetition = 0; repetition < 5; ++repetition) {
    times[0].push_back(milliseconds([&] { plain.apply(w, m, serial); }));
    for (int effort = 1; effort <= 3; ++effort) {
      searched.effort = effort;
      times[effort].push_back(milliseconds([&] { searched.apply(w, m, serial); }));
    }
#if defined(SUBBYTE_PEER_GGML)
    times[4].push_back(milliseconds([&] {
      ggml_quantize_chunk(static_cast<ggml_type>(F::gguf_type), l.w.data(), m.row(0), 0, l.rows,
                          l.cols, weighted ? l.importance.data() : nullptr);
    }));
#endif
  }
  std::printf("| %s%s |", F::name, weighted ? ", importance" : "");
  for (auto& t : times) {
    std::sort(t.begin(), t.end());
    if (t.empty()) {
      std::printf(" |");
    } else {
      std::printf(" %.2f |", 1e6 * t[t.size() / 2] / static_cast<double>(w.size()));
    }
  }
  std::printf("\n");
  std::fflush(stdout);
}

template <class Body>
void for_each_chosen(int argc, char** argv, Body&& body) {
#if defined(SUBBYTE_BEST_FORMATS)
  for_each_type(type_list<SUBBYTE_BEST_FORMATS>{}, [&]<class F>(std::type_identity<F> tag) {
#else
  for_each_type(all_formats{}, [&]<class F>(std::type_identity<F> tag) {
#endif
    if constexpr (best_encodable<F>) {
      bool chosen = argc == 3;
      for (int i = 3; i < argc; ++i) chosen = chosen || std::string_view(argv[i]) == F::name;
      if (chosen) body(tag);
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: best MODEL.gguf CALIBRATION FORMAT...\n");
    return 2;
  }
  const layers sets[] = {{random_layer(256, 2048, false)},
                         {random_layer(256, 2048, true)},
                         model_layers(argv[1], argv[2])};
  std::printf("Percent that the objective lies below reference's, at effort 1, 2 and 3.\n\n");
  std::printf(
      "| format | normal | heavy-tailed | model | normal, importance | "
      "heavy-tailed, importance | model, importance |\n|---|---|---|---|---|---|---|\n");
  for_each_chosen(argc, argv, [&]<class F>(std::type_identity<F>) {
    std::printf("| %s |", F::name);
    for (const bool weighted : {false, true}) {
      for (const layers& set : sets) {
        for (int effort = 1; effort <= 3; ++effort) {
          std::printf("%s%.1f", effort == 1 ? " " : ", ", percent_saved<F>(set, weighted, effort));
        }
        std::printf(" |");
      }
    }
    std::printf("\n");
    std::fflush(stdout);
  });
  std::printf("\nNanoseconds of processor time per weight.\n\n");
  std::printf(
      "| format | reference | effort 1 | effort 2 | effort 3 | ggml |\n"
      "|---|---|---|---|---|---|\n");
  const layer timed = random_layer(64, 4096, false);
  for_each_chosen(argc, argv, [&]<class F>(std::type_identity<F>) {
    for (const bool weighted : {false, true}) print_times<F>(timed, weighted);
  });
}
