// SPDX-License-Identifier: Apache-2.0
#include "llama/model.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include "subbyte/core/error.hpp"
#include "subbyte/io/diagnostics.hpp"

namespace llama {

namespace {

using subbyte::errc;
using subbyte::executor_ref;
using subbyte::matrix_view;
using subbyte::throw_error;

// The places of a layer where activations enter linears, and the one behind all layers.
enum place : std::size_t { attention, attention_output, feed_forward_input, down, places };

// body(row) for every row, in parallel.
template <class Body>
void for_each_row(index_t rows, executor_ref executor, const Body& body) {
  executor.for_range(rows, 8, [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) body(r);
  });
}

matrix_view<float> first_rows(subbyte::tensor<float, 2>& t, index_t rows) {
  return {t.data(), rows, t.extent(1)};
}

void add(matrix_view<float> x, matrix_view<const float> delta) {
  const index_t size = x.size();
  for (index_t i = 0; i < size; ++i) x.data()[i] += delta.data()[i];
}

// out = softmax(q . keys) values over `count` positions, with keys [head size, pitch] and values
// [count, head size]. Chunk by chunk with a running maximum: no buffer that grows with the text.
void attend_one(const float* q, const float* keys, index_t pitch, const float* values,
                index_t count, index_t head_size, float* out) noexcept {
  constexpr index_t chunk = 64;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_size));
  float best = -std::numeric_limits<float>::infinity();
  float sum = 0;
  for (index_t d = 0; d < head_size; ++d) out[d] = 0;
  for (index_t first = 0; first < count; first += chunk) {
    const index_t n = count - first < chunk ? count - first : chunk;
    float score[chunk] = {};
    for (index_t d = 0; d < head_size; ++d) {
      const float qd = q[d] * scale;
      const float* key = keys + d * pitch + first;
      for (index_t j = 0; j < n; ++j) score[j] += qd * key[j];
    }
    float chunk_best = best;
    for (index_t j = 0; j < n; ++j) chunk_best = score[j] > chunk_best ? score[j] : chunk_best;
    if (chunk_best > best) {
      const float shrink = std::exp(best - chunk_best);
      sum *= shrink;
      for (index_t d = 0; d < head_size; ++d) out[d] *= shrink;
      best = chunk_best;
    }
    for (index_t j = 0; j < n; ++j) {
      const float weight = std::exp(score[j] - best);
      sum += weight;
      const float* value = values + (first + j) * head_size;
      for (index_t d = 0; d < head_size; ++d) out[d] += weight * value[d];
    }
  }
  for (index_t d = 0; d < head_size; ++d) out[d] /= sum;
}

}  // namespace

model::model(const std::string& path) : source_(open_weights(path)), shape_(source_->read_shape()) {
  if (shape_.kv_heads < 1 || shape_.heads % shape_.kv_heads != 0 || shape_.head_size < 1 ||
      shape_.head_size > shape_.width || shape_.rotated < 0 || shape_.rotated % 2 != 0 ||
      shape_.rotated > shape_.head_size) {
    throw_error(errc::bad_metadata, path,
                std::to_string(shape_.heads) + " heads, " + std::to_string(shape_.kv_heads) +
                    " key-value heads, head size " + std::to_string(shape_.head_size) + ", " +
                    std::to_string(shape_.rotated) + " rotated: these do not fit each other");
  }
  const index_t width_q = shape_.heads * shape_.head_size;
  const index_t width_kv = shape_.kv_heads * shape_.head_size;
  embedding_ = load("token_embd.weight", shape_.vocabulary, shape_.width);
  const bool tied = source_->find("output.weight") == nullptr;
  const std::string output_name = tied ? "token_embd.weight" : "output.weight";
  output_ = tied ? embedding_ : load(output_name, shape_.vocabulary, shape_.width);
  output_norm_ = load_vector("output_norm.weight", shape_.width);
  if (source_->find("rope_freqs.weight") != nullptr) {
    rope_factors_ = load_vector("rope_freqs.weight", shape_.rotated / 2);
  }
  for (index_t l = 0; l < shape_.layers; ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    const auto weight = [&](const char* leaf, index_t rows, index_t cols) {
      return load(block + leaf + ".weight", rows, cols);
    };
    layers_.push_back({
        weight("attn_q", width_q, shape_.width),
        weight("attn_k", width_kv, shape_.width),
        weight("attn_v", width_kv, shape_.width),
        weight("attn_output", shape_.width, width_q),
        weight("ffn_gate", shape_.feed_forward, shape_.width),
        weight("ffn_up", shape_.feed_forward, shape_.width),
        weight("ffn_down", shape_.width, shape_.feed_forward),
        load_vector(block + "attn_norm.weight", shape_.width),
        load_vector(block + "ffn_norm.weight", shape_.width),
    });
    const auto names = [&](std::initializer_list<const char*> leaves) {
      std::vector<std::string> list;
      for (const char* leaf : leaves) list.push_back(block + leaf + ".weight");
      return list;
    };
    // In the order of enum place.
    inputs_.push_back({block + "attention", names({"attn_q", "attn_k", "attn_v"}), shape_.width});
    inputs_.push_back({block + "attention_output", names({"attn_output"}), width_q});
    inputs_.push_back({block + "feed_forward", names({"ffn_gate", "ffn_up"}), shape_.width});
    inputs_.push_back({block + "feed_forward_down", names({"ffn_down"}), shape_.feed_forward});
  }
  inputs_.push_back({"output", {output_name}, shape_.width});
}

model::shared_linear model::load(const std::string& name, index_t rows, index_t cols) const {
  const stored_weight& stored = source_->get(name);
  if (stored.rows != rows || stored.cols != cols) {
    throw_error(errc::bad_shape, source_->name(),
                "tensor " + name + " is " + std::to_string(stored.rows) + " x " +
                    std::to_string(stored.cols) + ", the model needs " + std::to_string(rows) +
                    " x " + std::to_string(cols));
  }
  return source_->make_linear(stored);
}

std::vector<float> model::load_vector(const std::string& name, index_t size) const {
  const shared_linear stored = load(name, 1, size);
  std::vector<float> values(static_cast<std::size_t>(size));
  const index_t first = 0;
  stored->get_rows({&first, 1}, {values.data(), 1, size}, subbyte::serial);
  return values;
}

model::shared_linear* model::find_linear(std::string_view name) noexcept {
  if (name == inputs_.back().weights.front()) return &output_;
  if (name == "token_embd.weight") return &embedding_;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    if (name.substr(0, block.size()) != block) continue;
    const std::string_view leaf = name.substr(block.size());
    layer& at = layers_[l];
    const std::pair<std::string_view, shared_linear*> linears[] = {
        {"attn_q.weight", &at.query},  {"attn_k.weight", &at.key},
        {"attn_v.weight", &at.value},  {"attn_output.weight", &at.attention_output},
        {"ffn_gate.weight", &at.gate}, {"ffn_up.weight", &at.up},
        {"ffn_down.weight", &at.down}};
    for (const auto& [known, found] : linears) {
      if (leaf == known) return found;
    }
  }
  return nullptr;
}

void model::replace(std::string_view name, std::shared_ptr<const linear> weights) {
  shared_linear* const found = find_linear(name);
  if (found == nullptr) {
    throw_error(errc::not_found, subbyte::printable(name), "the model has no linear of that name");
  }
  if (weights->rows() != (*found)->rows() || weights->cols() != (*found)->cols()) {
    throw_error(errc::bad_shape, subbyte::printable(name),
                std::to_string(weights->rows()) + " x " + std::to_string(weights->cols()) +
                    " weights, the model needs " + std::to_string((*found)->rows()) + " x " +
                    std::to_string((*found)->cols()));
  }
  if (found == &output_ && output_ == embedding_) embedding_ = weights;
  *found = std::move(weights);
}

std::span<float> model::norm(std::string_view name) {
  if (name == "output_norm.weight") return output_norm_;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    if (name == block + "attn_norm.weight") return layers_[l].attention_norm;
    if (name == block + "ffn_norm.weight") return layers_[l].feed_forward_norm;
  }
  throw_error(errc::not_found, subbyte::printable(name), "the model has no norm of that name");
}

session::session(const model& weights, index_t capacity, index_t batch, executor_ref executor)
    : weights_(weights),
      executor_(executor),
      capacity_(capacity),
      batch_(batch),
      ids_(static_cast<std::size_t>(batch)) {
  const llama::shape& s = weights.shape();
  const index_t width_q = s.heads * s.head_size;
  const index_t width_kv = s.kv_heads * s.head_size;
  x_ = subbyte::tensor<float, 2>(batch, s.width);
  normed_ = subbyte::tensor<float, 2>(batch, s.width);
  delta_ = subbyte::tensor<float, 2>(batch, s.width);
  queries_ = subbyte::tensor<float, 2>(batch, width_q);
  mixed_ = subbyte::tensor<float, 2>(batch, width_q);
  keys_ = subbyte::tensor<float, 2>(batch, width_kv);
  values_ = subbyte::tensor<float, 2>(batch, width_kv);
  gate_ = subbyte::tensor<float, 2>(batch, s.feed_forward);
  up_ = subbyte::tensor<float, 2>(batch, s.feed_forward);
  logits_ = subbyte::tensor<float, 2>(batch, s.vocabulary);
  key_cache_ = subbyte::tensor<float, 4>(s.layers, s.kv_heads, s.head_size, capacity);
  value_cache_ = subbyte::tensor<float, 4>(s.layers, s.kv_heads, capacity, s.head_size);

  const index_t pairs = s.rotated / 2;
  cosine_sine_ = subbyte::tensor<float, 3>(capacity, pairs, index_t{2});
  for (index_t i = 0; i < pairs; ++i) {
    double frequency = std::pow(static_cast<double>(s.rope_base),
                                -2.0 * static_cast<double>(i) / static_cast<double>(s.rotated));
    if (!weights.rope_factors_.empty()) {
      frequency /= static_cast<double>(weights.rope_factors_[static_cast<std::size_t>(i)]);
    }
    for (index_t position = 0; position < capacity; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      cosine_sine_(position, i, 0) = static_cast<float>(std::cos(angle));
      cosine_sine_(position, i, 1) = static_cast<float>(std::sin(angle));
    }
  }
}

matrix_view<const float> session::append(std::span<const token> tokens, logits_of wanted) {
  const auto count = static_cast<index_t>(tokens.size());
  const index_t vocabulary = weights_.shape().vocabulary;
  if (count < 1 || count > batch_ || count > capacity_ - length_) {
    throw_error(errc::bad_argument, "tokens",
                std::to_string(count) + " tokens after " + std::to_string(length_) +
                    "; there is room for " + std::to_string(capacity_) + " in all and " +
                    std::to_string(batch_) + " at once");
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary) {
      throw_error(errc::bad_argument, "token " + std::to_string(tokens[i]),
                  "the vocabulary has " + std::to_string(vocabulary) + " entries");
    }
    ids_[i] = tokens[i];
  }

  const rows x = first_rows(x_, count);
  weights_.embedding_->get_rows({ids_.data(), count}, x, executor_);
  const rows normed = first_rows(normed_, count);
  const rows delta = first_rows(delta_, count);
  for (index_t l = 0; l < weights_.shape().layers; ++l) {
    const model::layer& layer = weights_.layers_[static_cast<std::size_t>(l)];
    const rows queries = first_rows(queries_, count);
    const rows keys = first_rows(keys_, count);
    const rows values = first_rows(values_, count);
    const rows mixed = first_rows(mixed_, count);
    normalize(x, layer.attention_norm, normed);
    show(l, attention, normed);
    layer.query->multiply(normed, queries, executor_);
    layer.key->multiply(normed, keys, executor_);
    layer.value->multiply(normed, values, executor_);
    rotate(queries);
    rotate(keys);
    store_keys_and_values(l, keys, values);
    attend(l, queries, mixed);
    show(l, attention_output, mixed);
    layer.attention_output->multiply(mixed, delta, executor_);
    add(x, delta);
    feed_forward(l, x, count);
  }
  length_ += count;

  const index_t rows_wanted = wanted == logits_of::every_token ? count : 1;
  const rows last(&x(count - rows_wanted, 0), rows_wanted, x.extent(1));
  const rows last_normed = first_rows(normed_, rows_wanted);
  const rows logits = first_rows(logits_, rows_wanted);
  normalize(last, weights_.output_norm_, last_normed);
  show(weights_.shape().layers, attention, last_normed);
  weights_.output_->multiply(last_normed, logits, executor_);
  return logits;
}

void session::show(index_t layer, std::size_t place, matrix_view<const float> x) const {
  if (observer_) observer_(static_cast<std::size_t>(layer) * places + place, x);
}

// out = in / rms(in) * scale, row by row.
void session::normalize(rows in, const std::vector<float>& scale, rows out) const {
  const index_t width = in.extent(1);
  for_each_row(in.extent(0), executor_, [&](index_t r) {
    const float* x = in[r].data();
    float* y = out[r].data();
    double sum = 0;
    for (index_t i = 0; i < width; ++i)
      sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const auto mean = static_cast<float>(sum / static_cast<double>(width));
    const float factor = 1.0F / std::sqrt(mean + weights_.shape().norm_epsilon);
    for (index_t i = 0; i < width; ++i) y[i] = x[i] * factor * scale[static_cast<std::size_t>(i)];
  });
}

// Rotates elements 2i and 2i + 1 of every head by an angle that grows with the row's position.
void session::rotate(rows vectors) const {
  const index_t head_size = weights_.shape().head_size;
  const index_t pairs = weights_.shape().rotated / 2;
  for_each_row(vectors.extent(0), executor_, [&](index_t r) {
    const float* turn = &cosine_sine_(length_ + r, index_t{0}, index_t{0});
    for (index_t head = 0; head < vectors.extent(1); head += head_size) {
      float* v = &vectors(r, head);
      for (index_t i = 0; i < pairs; ++i) {
        const float cosine = turn[2 * i];
        const float sine = turn[2 * i + 1];
        const float even = v[2 * i];
        const float odd = v[2 * i + 1];
        v[2 * i] = even * cosine - odd * sine;
        v[2 * i + 1] = even * sine + odd * cosine;
      }
    }
  });
}

void session::store_keys_and_values(index_t layer, rows keys, rows values) {
  const index_t head_size = weights_.shape().head_size;
  for_each_row(keys.extent(0), executor_, [&](index_t r) {
    const index_t position = length_ + r;
    for (index_t i = 0; i < keys.extent(1); ++i) {
      const index_t head = i / head_size;
      const index_t d = i % head_size;
      key_cache_(layer, head, d, position) = keys(r, i);
      value_cache_(layer, head, position, d) = values(r, i);
    }
  });
}

// Row r sees the positions up to its own; neighbouring heads share a key and value head.
void session::attend(index_t layer, rows queries, rows out) const {
  const llama::shape& s = weights_.shape();
  const index_t sharing = s.heads / s.kv_heads;
  for_each_row(queries.extent(0) * s.heads, executor_, [&](index_t i) {
    const index_t r = i / s.heads;
    const index_t head = i % s.heads;
    const index_t kv_head = head / sharing;
    attend_one(&queries(r, head * s.head_size), &key_cache_(layer, kv_head, index_t{0}, index_t{0}),
               capacity_, &value_cache_(layer, kv_head, index_t{0}, index_t{0}), length_ + r + 1,
               s.head_size, &out(r, head * s.head_size));
  });
}

// x += down(silu(gate(norm x)) * up(norm x))
void session::feed_forward(index_t l, rows x, index_t count) {
  const model::layer& layer = weights_.layers_[static_cast<std::size_t>(l)];
  const rows normed = first_rows(normed_, count);
  const rows gate = first_rows(gate_, count);
  const rows up = first_rows(up_, count);
  const rows delta = first_rows(delta_, count);
  normalize(x, layer.feed_forward_norm, normed);
  show(l, feed_forward_input, normed);
  layer.gate->multiply(normed, gate, executor_);
  layer.up->multiply(normed, up, executor_);
  for_each_row(count, executor_, [&](index_t r) {
    float* g = gate[r].data();
    const float* u = up[r].data();
    for (index_t i = 0; i < gate.extent(1); ++i) g[i] = g[i] / (1.0F + std::exp(-g[i])) * u[i];
  });
  show(l, down, gate);
  layer.down->multiply(gate, delta, executor_);
  add(x, delta);
}

}  // namespace llama
