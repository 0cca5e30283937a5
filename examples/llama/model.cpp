// SPDX-License-Identifier: Apache-2.0
#include "llama/model.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include "subbyte/core/error.hpp"
#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/kernel/gemv.hpp"

namespace llama {

namespace {

using subbyte::errc;
using subbyte::executor_ref;
using subbyte::matrix_view;
using subbyte::throw_error;
namespace gguf = subbyte::gguf;

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

// A positive size that later products can be made of.
index_t read_size(const gguf::split_file& file, const std::string& key) {
  const auto value = file.get<index_t>(key);
  constexpr index_t limit = 1 << 24;
  if (value < 1 || value > limit) {
    throw_error(
        errc::bad_metadata, file.name(),
        key + " is " + std::to_string(value) + ", required is 1 to " + std::to_string(limit));
  }
  return value;
}

const gguf::tensor& find(const gguf::split_file& file, const std::string& name, index_t rows,
                         index_t cols) {
  const gguf::tensor& t = file.tensor(name);
  if (t.rows() != rows || t.cols() != cols) {
    throw_error(errc::bad_shape, file.name(),
                "tensor " + name + " is " + std::to_string(t.rows()) + " x " +
                    std::to_string(t.cols()) + ", the model needs " + std::to_string(rows) + " x " +
                    std::to_string(cols));
  }
  t.visit([](auto) {});  // refuses a format that the library does not know, here and not later
  return t;
}

std::vector<float> read_vector(const gguf::split_file& file, const std::string& name,
                               index_t size) {
  std::vector<float> values(static_cast<std::size_t>(size));
  find(file, name, 1, size).visit([&](auto w) { w.decode_row(0, 0, size, values.data()); });
  return values;
}

}  // namespace

vocabulary read_vocabulary(const gguf::split_file& file) {
  const auto kind = file.get<std::string_view>("tokenizer.ggml.model");
  if (kind != "llama") {
    throw_error(errc::unsupported_format, file.name(),
                "the tokenizer is \"" + subbyte::printable(kind) +
                    "\", and only \"llama\" (SentencePiece) is read");
  }
  vocabulary words;
  for (const auto piece : file.get<gguf::array_view<std::string_view>>("tokenizer.ggml.tokens")) {
    words.pieces.emplace_back(piece);
  }
  for (const float score : file.get<gguf::array_view<float>>("tokenizer.ggml.scores")) {
    words.scores.push_back(score);
  }
  for (const auto type : file.get<gguf::array_view<std::int32_t>>("tokenizer.ggml.token_type")) {
    words.kinds.push_back(static_cast<piece_kind>(type));
  }
  if (words.scores.size() != words.size() || words.kinds.size() != words.size()) {
    throw_error(errc::bad_metadata, file.name(),
                "the tokenizer has " + std::to_string(words.size()) + " tokens, " +
                    std::to_string(words.scores.size()) + " scores and " +
                    std::to_string(words.kinds.size()) + " types");
  }
  words.bos = file.get_or<token>("tokenizer.ggml.bos_token_id", words.bos);
  words.eos = file.get_or<token>("tokenizer.ggml.eos_token_id", words.eos);
  words.unknown = file.get_or<token>("tokenizer.ggml.unknown_token_id", words.unknown);
  words.add_bos = file.get_or<bool>("tokenizer.ggml.add_bos_token", words.add_bos);
  words.add_space_prefix =
      file.get_or<bool>("tokenizer.ggml.add_space_prefix", words.add_space_prefix);
  return words;
}

model::model(const std::string& path) : file_(gguf::open_split(path)) {
  const auto architecture = file_.get<std::string_view>("general.architecture");
  if (architecture != "llama") {
    throw_error(errc::unsupported_format, path,
                "the architecture is \"" + subbyte::printable(architecture) +
                    "\", and only \"llama\" is run");
  }
  for (const char* key : {"llama.expert_count", "llama.rope.scaling.type"}) {
    if (file_.find(key) != nullptr) {
      throw_error(errc::unsupported_format, path, std::string(key) + " is set, and is not run");
    }
  }
  shape_.width = read_size(file_, "llama.embedding_length");
  shape_.layers = read_size(file_, "llama.block_count");
  shape_.heads = read_size(file_, "llama.attention.head_count");
  shape_.feed_forward = read_size(file_, "llama.feed_forward_length");
  shape_.context = read_size(file_, "llama.context_length");
  shape_.kv_heads = file_.get_or<index_t>("llama.attention.head_count_kv", shape_.heads);
  shape_.head_size =
      file_.get_or<index_t>("llama.attention.key_length", shape_.width / shape_.heads);
  shape_.rotated = file_.get_or<index_t>("llama.rope.dimension_count", shape_.head_size);
  shape_.rope_base = file_.get_or<float>("llama.rope.freq_base", 10000.0F);
  shape_.norm_epsilon = file_.get<float>("llama.attention.layer_norm_rms_epsilon");
  shape_.vocabulary = file_.tensor("token_embd.weight").rows();
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
  embedding_ = find(file_, "token_embd.weight", shape_.vocabulary, shape_.width);
  const bool tied = file_.find_tensor("output.weight") == nullptr;
  output_ = tied ? embedding_ : find(file_, "output.weight", shape_.vocabulary, shape_.width);
  output_norm_ = read_vector(file_, "output_norm.weight", shape_.width);
  if (file_.find_tensor("rope_freqs.weight") != nullptr) {
    rope_factors_ = read_vector(file_, "rope_freqs.weight", shape_.rotated / 2);
  }
  for (index_t l = 0; l < shape_.layers; ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    layers_.push_back({
        find(file_, block + "attn_q.weight", width_q, shape_.width),
        find(file_, block + "attn_k.weight", width_kv, shape_.width),
        find(file_, block + "attn_v.weight", width_kv, shape_.width),
        find(file_, block + "attn_output.weight", shape_.width, width_q),
        find(file_, block + "ffn_gate.weight", shape_.feed_forward, shape_.width),
        find(file_, block + "ffn_up.weight", shape_.feed_forward, shape_.width),
        find(file_, block + "ffn_down.weight", shape_.width, shape_.feed_forward),
        read_vector(file_, block + "attn_norm.weight", shape_.width),
        read_vector(file_, block + "ffn_norm.weight", shape_.width),
    });
  }
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
  weights_.embedding_.visit([&](auto w) {
    subbyte::get_rows(w, subbyte::vector_view<const index_t>(ids_.data(), count), x, executor_);
  });
  const rows normed = first_rows(normed_, count);
  const rows delta = first_rows(delta_, count);
  for (index_t l = 0; l < weights_.shape().layers; ++l) {
    const model::layer& layer = weights_.layers_[static_cast<std::size_t>(l)];
    const rows queries = first_rows(queries_, count);
    const rows keys = first_rows(keys_, count);
    const rows values = first_rows(values_, count);
    const rows mixed = first_rows(mixed_, count);
    normalize(x, layer.attention_norm, normed);
    multiply(layer.query, normed, queries);
    multiply(layer.key, normed, keys);
    multiply(layer.value, normed, values);
    rotate(queries);
    rotate(keys);
    store_keys_and_values(l, keys, values);
    attend(l, queries, mixed);
    multiply(layer.attention_output, mixed, delta);
    add(x, delta);
    feed_forward(layer, x, count);
  }
  length_ += count;

  const index_t rows_wanted = wanted == logits_of::every_token ? count : 1;
  const rows last(&x(count - rows_wanted, 0), rows_wanted, x.extent(1));
  const rows last_normed = first_rows(normed_, rows_wanted);
  const rows logits = first_rows(logits_, rows_wanted);
  normalize(last, weights_.output_norm_, last_normed);
  multiply(weights_.output_, last_normed, logits);
  return logits;
}

void session::multiply(const gguf::tensor& w, matrix_view<const float> in, rows out) const {
  w.visit([&](auto matrix) {
    if (in.extent(0) == 1) {
      subbyte::gemv(matrix, in[0], out[0], executor_);
    } else {
      subbyte::gemm(matrix, in, out, executor_);
    }
  });
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
void session::feed_forward(const model::layer& layer, rows x, index_t count) {
  const rows normed = first_rows(normed_, count);
  const rows gate = first_rows(gate_, count);
  const rows up = first_rows(up_, count);
  const rows delta = first_rows(delta_, count);
  normalize(x, layer.feed_forward_norm, normed);
  multiply(layer.gate, normed, gate);
  multiply(layer.up, normed, up);
  for_each_row(count, executor_, [&](index_t r) {
    float* g = gate[r].data();
    const float* u = up[r].data();
    for (index_t i = 0; i < gate.extent(1); ++i) g[i] = g[i] / (1.0F + std::exp(-g[i])) * u[i];
  });
  multiply(layer.down, gate, delta);
  add(x, delta);
}

}  // namespace llama
