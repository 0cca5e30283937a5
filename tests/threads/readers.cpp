// SPDX-License-Identifier: Apache-2.0
/// Open files read by several threads at once: nothing in them changes after they are opened. The
/// thread sanitizer is the judge; without it, so are the values.
#include <algorithm>  // std::equal
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "subbyte/checkpoint/value_check.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/io/gguf.hpp"
#include "subbyte/io/gguf_split.hpp"
#include "subbyte/io/gguf_split_writer.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/io/safetensors_writer.hpp"
#include "support/files.hpp"
#include "support/gguf_walk.hpp"
#include "support/safetensors_walk.hpp"

namespace gguf = subbyte::gguf;
namespace safetensors = subbyte::safetensors;
using subbyte::errc;
using subbyte::index_t;
using test_support::bytes;
using test_support::gguf_walk;
using test_support::safetensors_walk;

namespace {

constexpr int thread_count = 4;
const std::string golden = SUBBYTE_GOLDEN_DIR "/ggml/gguf/";
const std::string tensors_path = golden + "tensors_align32.gguf";
const std::string keys_path = golden + "kv_all_types.gguf";
const std::string model_path = SUBBYTE_EXAMPLE_DATA_DIR "/model.safetensors";

// Runs body(thread) on several threads that begin together; returns how many returned true.
template <class Body>
int on_threads(const Body& body) {
  std::atomic<int> waiting{0};
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < thread_count; ++t) {
    threads.emplace_back([&, t] {
      ++waiting;
      while (waiting.load() < thread_count) std::this_thread::yield();
      if (body(t)) ++right;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return right.load();
}

template <class Call>
bool throws(errc code, const Call& call) {
  try {
    call();
  } catch (const subbyte::error& e) {
    return e.code() == code;
  }
  return false;
}

std::vector<float> decoded(const gguf::tensor& t) {
  std::vector<float> values;
  t.visit([&](auto matrix) {
    values.resize(static_cast<std::size_t>(matrix.rows() * matrix.cols()));
    for (index_t r = 0; r < matrix.rows(); ++r) {
      matrix.decode_row(r, 0, matrix.cols(), values.data() + r * matrix.cols());
    }
  });
  return values;
}

bool has_format(const gguf::tensor& t) {
  bool found = false;
  try {
    t.visit([&](auto) { found = true; });
  } catch (const subbyte::error&) {
  }
  return found;
}

}  // namespace

TEST_CASE("threads: one open GGUF file is walked by all of them") {
  for (const std::string& path : {tensors_path, keys_path}) {
    const bytes content = test_support::read_file(path);
    const gguf::file mapped = gguf::open(path);
    const gguf::file in_memory = gguf::parse(content, "memory");
    const std::uint64_t expected = gguf_walk(in_memory, content).sum();
    REQUIRE(on_threads([&](int) {
              for (int round = 0; round < 20; ++round) {
                const gguf_walk walk(in_memory, content);
                if (!walk.flaw().empty() || walk.sum() != expected) return false;
                for (const gguf::metadata_entry& e : mapped.metadata()) {
                  if (mapped.find(e.key()) != &e) return false;
                }
                if (!throws(errc::not_found, [&] { (void)mapped.get<int>("absent"); }))
                  return false;
                if (!throws(errc::not_found, [&] { (void)mapped.tensor("absent"); })) return false;
              }
              return true;
            }) == thread_count);
  }
}

TEST_CASE("threads: the tensors of one open GGUF file are decoded by all of them") {
  const gguf::file file = gguf::open(tensors_path);
  std::vector<std::vector<float>> expected;
  for (const gguf::tensor& t : file.tensors()) {
    expected.push_back(has_format(t) ? decoded(t) : std::vector<float>());
  }
  REQUIRE(on_threads([&](int thread) {
            const std::size_t count = file.tensors().size();
            for (std::size_t i = 0; i < count; ++i) {
              const std::size_t at = (i + static_cast<std::size_t>(thread) * 3) % count;
              const gguf::tensor& t = file.tensors()[at];
              if (has_format(t) && decoded(t) != expected[at]) return false;
            }
            return true;
          }) == thread_count);
}

TEST_CASE("threads: one open safetensors file is read by all of them") {
  const bytes content = test_support::read_file(model_path);
  const safetensors::file mapped = safetensors::open(model_path);
  const safetensors::file in_memory = safetensors::parse(content, "memory");
  const std::uint64_t expected = safetensors_walk(in_memory, content).sum();
  REQUIRE(on_threads([&](int thread) {
            const safetensors_walk walk(in_memory, content);
            if (!walk.flaw().empty() || walk.sum() != expected) return false;
            const std::size_t count = mapped.tensors().size();
            for (std::size_t i = 0; i < count; ++i) {
              const auto& t = mapped.tensors()[(i + static_cast<std::size_t>(thread) * 5) % count];
              if (mapped.find_tensor(t.name()) != &t) return false;
              const index_t rows = t.rows() < 8 ? t.rows() : 8;
              std::vector<float> slab(static_cast<std::size_t>(rows * t.cols()));
              t.read_rows(t.rows() - rows, rows, slab.data());
              if (slab.back() != t.view<subbyte::half>()(t.rows() - 1, t.cols() - 1).to_float()) {
                return false;
              }
            }
            return throws(errc::not_found, [&] { (void)mapped.tensor("absent"); }) &&
                   throws(errc::unsupported_format,
                          [&] { (void)mapped.tensors()[0].view<float>(); });
          }) == thread_count);
}

TEST_CASE("threads: the same file is opened, read and closed by all of them") {
  const bytes broken = {'G', 'G', 'U', 'F', 3, 0, 0, 0};
  REQUIRE(on_threads([&](int) {
            for (int round = 0; round < 25; ++round) {
              gguf::file file = gguf::open(tensors_path);
              const gguf::file moved = std::move(file);
              if (moved.tensors().empty() || moved.tensors()[0].bytes().empty()) return false;
              if (safetensors::open(model_path).tensors().empty()) return false;
              if (!throws(errc::truncated, [&] { (void)gguf::parse(broken, "broken"); })) {
                return false;
              }
            }
            return true;
          }) == thread_count);
}

TEST_CASE("threads: workers of a pool read the rows of one tensor") {
  const safetensors::file file = safetensors::open(model_path);
  const safetensors::tensor& t = file.tensor("model.layers.0.mlp.down_proj.weight");
  const auto stored = t.view<subbyte::half>();
  subbyte::thread_pool pool(thread_count);
  std::vector<float> rows(static_cast<std::size_t>(t.size()));
  subbyte::executor_ref(pool).for_range(t.rows(), 4, [&](index_t begin, index_t end) noexcept {
    t.read_rows(begin, end - begin, rows.data() + begin * t.cols());
  });
  index_t different = 0;
  for (index_t i = 0; i < t.size(); ++i) {
    different += rows[static_cast<std::size_t>(i)] == stored.data()[i].to_float() ? 0 : 1;
  }
  REQUIRE(different == 0);
}

TEST_CASE("threads: one matrix in a mapped file is decoded by all of them at once") {
  const gguf::file file = gguf::open(SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf");
  const auto w = file.tensor("blk.0.ffn_up.weight").as<subbyte::f16>();
  std::vector<float> expected(static_cast<std::size_t>(w.rows() * w.cols()));
  for (index_t r = 0; r < w.rows(); ++r) {
    w.decode_row(r, 0, w.cols(), expected.data() + r * w.cols());
  }
  REQUIRE(on_threads([&](int thread) {
            std::vector<float> row(static_cast<std::size_t>(w.cols()));
            for (index_t i = 0; i < w.rows(); ++i) {
              const index_t r =
                  (i + thread * 17) % w.rows();  // each starts elsewhere, all read all
              w.decode_row(r, 0, w.cols(), row.data());
              if (!std::equal(row.begin(), row.end(), expected.begin() + r * w.cols()))
                return false;
            }
            return true;
          }) == thread_count);
}

TEST_CASE("threads: a split GGUF model is opened and read by all of them") {
  const test_support::scratch_directory scratch;
  const gguf::file whole = gguf::open(tensors_path);
  const index_t limit = 7;
  {
    gguf::split_options options;
    options.max_shard_tensors = limit;
    gguf::split_writer out(scratch.file("m.gguf"), options);
    for (const gguf::metadata_entry& e : whole.metadata()) out.metadata(e);
    for (const gguf::tensor& t : whole.tensors()) out.tensor(t);
    out.finish();
  }
  const index_t shards = subbyte::ceil_div(static_cast<index_t>(whole.tensors().size()), limit);
  const std::string first = gguf::split_path(scratch.file("m"), 0, shards);
  const gguf::split_file shared = gguf::open_split(first);
  REQUIRE(shared.shards().size() > 2);
  REQUIRE(on_threads([&](int thread) {
            const gguf::split_file own = gguf::open_split(first);
            const std::size_t count = shared.tensors().size();
            if (count != whole.tensors().size() || own.tensors().size() != count) return false;
            for (std::size_t i = 0; i < count; ++i) {
              const auto& t = shared.tensors()[(i + static_cast<std::size_t>(thread) * 3) % count];
              const gguf::tensor& original = whole.tensor(t.name());
              if (shared.find_tensor(t.name()) != &t) return false;
              if (!std::equal(t.bytes().begin(), t.bytes().end(), original.bytes().begin(),
                              original.bytes().end())) {
                return false;
              }
              if (has_format(t) && decoded(t) != decoded(own.tensor(t.name()))) return false;
            }
            return throws(errc::not_found, [&] { (void)shared.tensor("absent"); });
          }) == thread_count);
}

TEST_CASE("threads: a sharded safetensors model is opened and read by all of them") {
  const test_support::scratch_directory scratch;
  const safetensors::file whole = safetensors::open(model_path);
  {
    safetensors::writer out(scratch.file("model.safetensors"), {.max_shard_bytes = 200000});
    for (const auto& t : whole.tensors()) out.declare(t.name(), t.shape(), t.type());
    for (const auto& t : whole.tensors()) out.write(t.name(), t.bytes());
    out.finish();
  }
  const safetensors::file shared = safetensors::open(scratch.path());
  REQUIRE(shared.shard_count() > 2);
  REQUIRE(
      on_threads([&](int thread) {
        const safetensors::file own = safetensors::open(scratch.path());
        const std::size_t count = shared.tensors().size();
        for (std::size_t i = 0; i < count; ++i) {
          const auto& t = shared.tensors()[(i + static_cast<std::size_t>(thread) * 5) % count];
          const auto expected = whole.tensor(t.name()).bytes();
          const auto again = own.tensor(t.name()).bytes();
          if (!std::equal(t.bytes().begin(), t.bytes().end(), expected.begin(), expected.end()) ||
              !std::equal(again.begin(), again.end(), expected.begin(), expected.end())) {
            return false;
          }
        }
        return count == whole.tensors().size();
      }) == thread_count);
}

TEST_CASE("threads: values are checked by a pool, and by all threads at once") {
  const gguf::file file = gguf::open(SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf");
  const auto w = file.tensor("blk.0.ffn_up.weight").as<subbyte::f16>();
  const auto text_of = [&](subbyte::executor_ref ex) {
    std::vector<subbyte::checkpoint::finding> found;
    subbyte::checkpoint::check_values(w, "w", found, {.largest = 0.1F}, ex);
    std::string text;
    for (const auto& f : found) text += f.text() + "\n";
    return text;
  };
  const std::string serially = text_of(subbyte::serial);
  REQUIRE_FALSE(serially.empty());
  subbyte::thread_pool pool(thread_count);
  REQUIRE(text_of(pool) == serially);
  REQUIRE(on_threads([&](int) { return text_of(subbyte::serial) == serially; }) == thread_count);
}
