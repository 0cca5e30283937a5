// SPDX-License-Identifier: Apache-2.0
/// Tests of what the examples calibrate and quantize in memory with: what a session shows of its
/// inputs, linears that are replaced, scales that are folded, and the table of methods.
#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "llama/calibration.hpp"
#include "llama/scaling.hpp"
#include "quantizers.hpp"
#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/f32.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using llama::token;
using subbyte::errc;
using subbyte::index_t;
using subbyte::input_statistics;
using test_support::error_of;

const std::string data = SUBBYTE_EXAMPLE_DATA_DIR;
const std::string f16 = data + "/model-f16.gguf";

llama::windows text(index_t limit) {
  return llama::windows(llama::read_token_file(data + "/calibration.tokens.u16"), 1, 255, limit);
}

std::vector<float> logits_of(const llama::model& m, index_t count) {
  llama::session run(m, count, count, subbyte::serial);
  const std::vector<token> inputs = text(1).inputs(0);
  const auto logits = run.append({inputs.data(), static_cast<std::size_t>(count)});
  return {logits.data(), logits.data() + logits.size()};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, static_cast<double>(std::fabs(a[i] - b[i])));
  }
  return largest;
}

double spread(const std::vector<float>& values) {
  subbyte::moments m;
  for (const float v : values) m.add(static_cast<double>(v));
  return std::sqrt(m.variance());
}

// A few rows, and statistics of an input whose channels lean on each other.
struct small_layer {
  static constexpr index_t rows = 16, cols = 256, tokens = 700;
  std::vector<float> weights = test_support::normal_vector(rows * cols, 0.1, 3);
  input_statistics statistics;

  small_layer() {
    std::vector<float> x = test_support::normal_vector(tokens * cols, 1, 4);
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t j = 1; j < cols; ++j) {  // each channel leans on the one before it
        x[static_cast<std::size_t>(t * cols + j)] +=
            0.8F * x[static_cast<std::size_t>(t * cols + j - 1)];
      }
    }
    subbyte::statistics_collector collector(cols);
    collector.add(subbyte::matrix_view<const float>(x.data(), tokens, cols));
    statistics = std::move(collector).finish();
  }
  [[nodiscard]] subbyte::matrix_view<const float> view() const {
    return {weights.data(), rows, cols};
  }
  /// The squared error of the outputs of `codes` in place of the weights.
  [[nodiscard]] double output_loss(const example::known_input& known,
                                   const subbyte::tensor<float, 2>& codes) const {
    subbyte::block_matrix<subbyte::f32> floats(rows, cols);
    std::copy_n(codes.data(), codes.size(), reinterpret_cast<float*>(floats.row(0)));
    subbyte::layer_inputs inputs;
    inputs.hessian = known.hessian.view();
    inputs.tokens = known.tokens;
    return subbyte::layer_loss<>(view(), floats.view(), inputs);
  }
};

}  // namespace

TEST_CASE("calibration: every weight but the embedding reads exactly one input") {
  const llama::model m(f16);
  std::set<std::string> seen;
  for (const llama::model_input& in : m.inputs()) {
    for (const std::string& weight : in.weights) {
      CHECK(m.source().get(weight).cols == in.cols);
      CHECK(seen.insert(weight).second);
    }
  }
  CHECK(m.inputs().size() == 4 * 4 + 1);
  std::size_t matrices = 0;
  for (const auto& t : m.source().tensors()) matrices += t.rows > 1 ? 1 : 0;
  CHECK(seen.size() == matrices);  // the output is tied to the embedding here
  CHECK(seen.count("token_embd.weight") == 1);
}

TEST_CASE("calibration: statistics of parts are those of the whole, for any number of threads") {
  const llama::model m(f16);
  const llama::windows windows = text(6);
  subbyte::thread_pool pool(2);
  subbyte::statistics_options options;
  options.sample_rows = 9;
  const auto none = [](index_t) {};
  const auto whole = llama::collect_statistics(m, windows, 0, 6, options, subbyte::serial, none);
  auto parts = llama::collect_statistics(m, windows, 0, 2, options, pool, none);
  auto rest = llama::collect_statistics(m, windows, 2, 4, options, pool, none);
  REQUIRE(whole.size() == m.inputs().size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CAPTURE(m.inputs()[i].name);
    parts[i].merge(rest[i]);
    const auto& a = whole[i].parts();
    const auto& b = parts[i].parts();
    CHECK(a.tokens == 6 * 255);
    CHECK(b.tokens == 6 * 255);
    for (index_t j = 0; j < whole[i].cols(); ++j) {
      CHECK(std::fabs(a.sum_square(j) - b.sum_square(j)) <= 1530 * 0x1p-52 * a.sum_square(j));
      CHECK(a.max_magnitude(j) == b.max_magnitude(j));
    }
    CHECK(std::equal(a.sample.data(), a.sample.data() + a.sample.size(), b.sample.data()));
  }
}

TEST_CASE("calibration: what a session shows is what its products read") {
  // The last input times the output matrix are the logits.
  const llama::model m(f16);
  llama::session run(m, 5, 5, subbyte::serial);
  std::vector<std::size_t> order;
  std::vector<float> last;
  run.observe([&](std::size_t input, subbyte::matrix_view<const float> x) {
    order.push_back(input);
    CHECK(x.extent(0) == 5);
    CHECK(x.extent(1) == m.inputs()[input].cols);
    last.assign(x.data(), x.data() + x.size());
  });
  const auto logits = run.append(std::span<const token>(text(1).inputs(0)).first(5));
  std::vector<std::size_t> expected(17);
  for (std::size_t i = 0; i < 17; ++i) expected[i] = i;
  CHECK(order == expected);
  std::vector<float> row(256);
  for (const index_t v : {0, 1, 4095}) {
    m.source().get("token_embd.weight").read_row(v, row.data());
    double dot = 0, magnitude = 0;
    for (std::size_t j = 0; j < 256; ++j) {
      const double term = static_cast<double>(row[j]) * static_cast<double>(last[256 * 3 + j]);
      dot += term;
      magnitude += std::fabs(term);
    }
    // A float dot product of 256 terms.
    CHECK(std::fabs(static_cast<double>(logits(3, v)) - dot) <= 256 * 0x1p-24 * magnitude);
  }
}

TEST_CASE("runner: linears are replaced by matrices of any kind, and refused by shape and name") {
  llama::model m(f16);
  const std::vector<float> before = logits_of(m, 20);
  const llama::float_weights weights = llama::read_weights(m);
  CHECK(weights.linears.size() == 28);
  for (const auto& [name, w] : weights.linears) {
    subbyte::block_matrix<subbyte::f32> floats(w.extent(0), w.extent(1));
    std::copy_n(w.data(), w.size(), reinterpret_cast<float*>(floats.row(0)));
    m.replace(name, llama::make_linear(std::move(floats)));
  }
  CHECK(logits_of(m, 20) == before);  // the same values, decoded from f32 instead of f16

  using grid = subbyte::planar<subbyte::int_grid<8>, subbyte::half>;
  const auto& down = weights.linears.at("blk.2.ffn_down.weight");
  auto planar = subbyte::quantize<grid>(down.view(), {64}, subbyte::rtn{});
  m.replace("blk.2.ffn_down.weight", llama::make_linear(std::move(planar.matrix)));
  const double changed = largest_difference(logits_of(m, 20), before);
  CHECK(changed > 0);
  CHECK(changed < 0.05 * spread(before));

  subbyte::block_matrix<subbyte::f32> small(3, 3);
  CHECK(error_of([&] {
          m.replace("blk.0.attn_q.weight", llama::make_linear(std::move(small)));
        }).code() == errc::bad_shape);
  subbyte::block_matrix<subbyte::f32> nowhere(256, 256);
  CHECK(error_of([&] {
          m.replace("blk.4.attn_q.weight", llama::make_linear(std::move(nowhere)));
        }).code() == errc::not_found);
  CHECK(error_of([&] { (void)m.norm("blk.9.attn_norm.weight"); }).code() == errc::not_found);
}

TEST_CASE("runner: folded scales leave the function as it was") {
  llama::model m(f16);
  const std::vector<float> before = logits_of(m, 30);
  llama::float_weights weights = llama::read_weights(m);
  // Powers of two: exact in norms and weights, so only attention's and silu's neighbours could
  // round otherwise, and they see the same numbers.
  for (index_t layer = 0; layer < 4; ++layer) {
    for (int place = 0; place < 4; ++place) {
      const index_t cols = m.inputs()[static_cast<std::size_t>(layer * 4 + place)].cols;
      std::vector<float> scale(static_cast<std::size_t>(cols));
      for (index_t j = 0; j < cols; ++j) {
        // Query heads 0 and 1 read value head 0, and so on: their channels need one scale.
        const index_t channel = place == 1 ? j / 64 * 32 + j % 32 : j;
        scale[static_cast<std::size_t>(j)] = std::ldexp(1.0F, static_cast<int>(channel % 5) - 2);
      }
      llama::fold_scale(weights, m.shape(), layer, place, scale);
    }
  }
  for (const auto& [name, w] : weights.linears) {
    subbyte::block_matrix<subbyte::f32> floats(w.extent(0), w.extent(1));
    std::copy_n(w.data(), w.size(), reinterpret_cast<float*>(floats.row(0)));
    m.replace(name, llama::make_linear(std::move(floats)));
  }
  // Half of it would be another function.
  CHECK(largest_difference(logits_of(m, 30), before) > spread(before) / 100);
  for (const auto& [name, values] : weights.norms) {
    std::copy(values.begin(), values.end(), m.norm(name).begin());
  }
  CHECK(logits_of(m, 30) == before);
}

TEST_CASE(
    "quantizers: every method on every format that takes it, by bytes and by decoded values") {
  const small_layer layer;
  const example::known_input known(layer.statistics, {});
  const subbyte::tensor<float, 2> zeros(layer.rows, layer.cols);
  const double loss_of_zeros = layer.output_loss(known, zeros);
  for (const auto* list : {&example::block_target_formats(), &example::group_target_formats()}) {
    for (const example::target_format& format : *list) {
      int taken = 0;
      for (const example::method& m : example::methods()) {
        CAPTURE(format.name, m.name);
        const example::layer_task task{layer.view(), &known, 64, subbyte::serial};
        if (!format.takes(m)) {
          CHECK(error_of([&] { (void)format.quantize(m, task, true); }).code() ==
                errc::bad_argument);
          continue;
        }
        ++taken;
        const auto made = format.quantize(m, task, true);
        REQUIRE(made.decoded.size() == layer.rows * layer.cols);
        CHECK_FALSE(made.report.fell_back);
        // 2 bits and a scale for 16 or 32 weights give 0.4 to 0.63; fewer, or one for 64 weights
        // and more, up to 0.8; zeros 1.
        const bool coarse = !format.grouped() && 80 * format.block_bytes < 23 * format.block_size;
        const double limit = coarse ? 1 : 0.7;
        if (m.data == example::needs::hessian) {
          // Feedback trades error in the weights for less in the outputs.
          CHECK(layer.output_loss(known, made.decoded) < limit * limit * loss_of_zeros);
        } else {
          subbyte::error_sums error;
          for (index_t r = 0; r < layer.rows; ++r) {
            error.add<>(layer.view()[r], made.decoded.view()[r]);
          }
          CHECK(error.report().relative_rmse < limit);
        }
        if (!format.grouped()) {
          const auto bytes = format.quantize(m, task, false);
          CHECK(static_cast<index_t>(bytes.blocks.size()) == made.stored_bytes);
          CHECK(made.stored_bytes ==
                layer.rows *
                    (format.row_bytes + layer.cols / format.block_size * format.block_bytes));
        }
        if (m.data == example::needs::nothing) continue;
        const example::layer_task blind{layer.view(), nullptr, 64, subbyte::serial};
        CHECK(error_of([&] { (void)format.quantize(m, blind, true); }).code() ==
              errc::bad_argument);
      }
      CHECK(taken >= 1);
    }
  }
}

TEST_CASE("quantizers: a method that knows the input has less error in the outputs") {
  const small_layer layer;
  const example::known_input known(layer.statistics, {});
  for (const char* name : {"q4_k", "q3_k", "q2_k", "q4_0"}) {
    CAPTURE(name);
    const auto& formats = example::block_target_formats();
    const auto& format = *std::find_if(formats.begin(), formats.end(),
                                       [&](const auto& f) { return f.name == name; });
    const auto loss = [&](const char* method) {
      const example::layer_task task{layer.view(), &known, 0, subbyte::serial};
      const auto made = format.quantize(*example::parse_method(method).codes, task, true);
      return layer.output_loss(known, made.decoded);
    };
    CHECK(loss("gptq") < 0.9 * loss("reference"));
  }
}

TEST_CASE("quantizers: names of methods") {
  CHECK(example::parse_method("gptq").codes->name == "gptq");
  CHECK_FALSE(example::parse_method("gptq").scaled);
  const example::chosen_method both = example::parse_method("awq+imatrix");
  CHECK(both.scaled);
  CHECK(both.codes->name == "imatrix");
  CHECK(both.data() == example::needs::hessian);
  CHECK(example::parse_method("awq").codes->name == "rtn");
  for (const char* bad : {"", "AWQ", "awq+", "awq+awq", "gptq ", "awqgptq"}) {
    CAPTURE(bad);
    CHECK(error_of([&] { (void)example::parse_method(bad); }).code() == errc::bad_argument);
  }
}

TEST_CASE("quantizers: what is known of a scaled input follows from what was collected") {
  const small_layer layer;
  std::vector<float> scale(layer.cols);
  for (std::size_t j = 0; j < scale.size(); ++j) scale[j] = j % 2 == 0 ? 0.5F : 4.0F;
  const example::known_input plain(layer.statistics, {});
  const example::known_input scaled(layer.statistics, scale);
  CHECK(scaled.importance(0) == plain.importance(0) * 4);
  CHECK(scaled.importance(1) == plain.importance(1) / 16);
  CHECK(scaled.hessian(0, 1) == plain.hessian(0, 1) / 2);
  CHECK(scaled.hessian(1, 3) == plain.hessian(1, 3) / 16);
  CHECK(error_of([&] { example::known_input(input_statistics(), {}); }).code() ==
        errc::bad_argument);
}
