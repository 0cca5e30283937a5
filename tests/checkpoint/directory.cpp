// SPDX-License-Identifier: Apache-2.0
/// Directories of checkpoints: opened, transcoded whole, refused, and finished after a kill.
#include "subbyte/checkpoint/directory.hpp"

#include "subbyte/checkpoint/transcode.hpp"
#include "support/checkpoint_files.hpp"
#include "support/interrupted.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::awq_settings;
using checkpoint::compressed_tensors_settings;
using checkpoint::directory;
using checkpoint::gptq_format;
using checkpoint::gptq_settings;
using checkpoint::module_settings;
using checkpoint::quantization_config;
using checkpoint::stored_tensors;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::contains;
using test_support::error_of;
using test_support::exists;
using test_support::list_directory;
using test_support::random_codes;
using test_support::read_file;
using test_support::scratch_directory;
using test_support::write_file;

namespace {

const char* const layer_names[] = {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj",
                                   "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"};

checkpoint::stored_tensor plain(const std::string& name, std::vector<index_t> shape) {
  checkpoint::stored_tensor t{name, safetensors::dtype::bf16, std::move(shape), {}};
  index_t size = 2;
  for (const index_t extent : t.shape) size *= extent;
  for (index_t i = 0; i < size; ++i) t.bytes.push_back(static_cast<std::uint8_t>(i % 61));
  return t;
}

void write_model(const std::string& path, const stored_tensors& tensors,
                 safetensors::write_options options = {}) {
  safetensors::writer out(path + "/model.safetensors", options);
  out.metadata("format", "pt");
  for (const auto& t : tensors) t.declare(out);
  for (const auto& t : tensors) t.write(out);
  out.finish();
}

// Four quantized layers, one of them with a bias, between an embedding, a norm and an output layer.
std::vector<group_codes> make_checkpoint(const std::string& path, const module_settings& settings,
                                         index_t rows = 64, index_t max_shard_bytes = 0) {
  std::vector<group_codes> all;
  stored_tensors tensors = {plain("model.embed_tokens.weight", {16, 8})};
  const bool symmetric = checkpoint::detail::says_symmetric<subbyte::arch::native>(settings);
  for (std::size_t i = 0; i < 4; ++i) {
    all.push_back(random_codes(4, {rows, 128, 32}, 1, symmetric ? 0 : 15, i));
    for (auto& t : checkpoint::store_module(all.back(), layer_names[i], settings)) {
      tensors.push_back(std::move(t));
    }
  }
  tensors.push_back(plain(std::string(layer_names[1]) + ".bias", {rows}));
  tensors.push_back(plain("model.norm.weight", {8}));
  tensors.push_back(plain("lm_head.weight", {16, 8}));
  write_model(path, tensors, {max_shard_bytes});
  quantization_config config;
  config.base = settings;
  if (const auto* const c = std::get_if<compressed_tensors_settings>(&settings)) {
    config.groups.push_back({{"Linear"}, *c, "", ""});
    config.not_converted = {"lm_head"};
  }
  auto root = subbyte::json_value::object();
  root.set("model_type", "llama").set("hidden_size", 8).set("tie_word_embeddings", false);
  root.set("quantization_config", config.to_json());
  write_file(path + "/config.json", root.to_text());
  write_file(path + "/tokenizer.model", "pieces");
  write_file(path + "/empty.txt", "");
  write_file(path + "/pytorch_model.bin", "other weights");
  write_file(path + "/.hidden", "x");
  return all;
}

void check_copy(const std::string& path, const std::vector<group_codes>& expected,
                const char* scheme) {
  const directory copy(path);
  REQUIRE(copy.modules().size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(layer_names[i]);
    const auto* const m = copy.find_module(layer_names[i]);
    REQUIRE(m != nullptr);
    CHECK(std::string(checkpoint::scheme_name(m->settings)) == scheme);
    const group_codes w = copy.load_codes(layer_names[i]);
    CHECK(test_support::same_codes(w, expected[i]));
    CHECK(copy.shape_of(layer_names[i]).rows == w.rows());
    CHECK(copy.shape_of(layer_names[i]).cols == w.cols());
  }
}

gptq_settings gptq_of_32(bool symmetric, gptq_format format) {
  gptq_settings s;
  s.group_size = 32;
  s.symmetric = symmetric;
  s.format = format;
  return s;
}

// Bits and group size as the source has them.
gptq_settings any_gptq(gptq_format format) {
  gptq_settings s;
  s.bits = 0;
  s.group_size = 0;
  s.format = format;
  return s;
}
const compressed_tensors_settings any_compressed{0, 0, true, false};
const awq_settings any_awq{0, 0, false, checkpoint::awq_version::gemm, false};

}  // namespace

TEST_CASE("directory: modules, plain weights and configuration of a checkpoint") {
  for (const index_t shard : {index_t{0}, index_t{8000}}) {
    const scratch_directory scratch;
    const auto codes =
        make_checkpoint(scratch.path(), awq_settings{4, 32, false, {}, false}, 64, shard);
    const directory d(scratch.path());
    CHECK((d.file().shard_count() > 1) == (shard != 0));
    CHECK(d.modules().size() == 4);
    CHECK(d.modules()[2].name == layer_names[2]);
    CHECK(d.modules()[2].tensors.size() == 3);
    CHECK(d.find_module("lm_head") == nullptr);
    CHECK(d.owner_of(std::string(layer_names[1]) + ".qzeros") == &d.modules()[1]);
    CHECK(d.owner_of(std::string(layer_names[1]) + ".bias") == nullptr);
    CHECK(d.has_weight("lm_head"));
    CHECK(d.has_weight(layer_names[3]));
    CHECK_FALSE(d.has_weight("model.layers.0"));
    CHECK(test_support::same_codes(d.load_codes(layer_names[3]), codes[3]));
    const auto w = d.load_weight(layer_names[3]);
    CHECK(w(5, 77) == codes[3].value(5, 77));
    CHECK(d.load_weight("lm_head").extent(0) == 16);
    CHECK(d.load_weight("model.norm").extent(0) == 1);
    CHECK(error_of([&] { (void)d.load_codes("lm_head"); }).code() == errc::not_found);
    CHECK(error_of([&] { (void)d.shape_of("lm_head"); }).code() == errc::not_found);
    CHECK(error_of([&] { (void)d.load_weight("nothing"); }).code() == errc::not_found);
    CHECK_FALSE(d.ties_embeddings());
    CHECK(d.model_config().find("model_type")->text() == "llama");
    CHECK(d.other_files() == std::vector<std::string>{"empty.txt", "tokenizer.model"});
  }
}

TEST_CASE("directory: a checkpoint that is not quantized, and one with a tied output layer") {
  const scratch_directory scratch;
  write_model(scratch.path(), {plain("model.embed_tokens.weight", {16, 8})});
  const directory bare(scratch.path());
  CHECK(bare.modules().empty());
  CHECK_FALSE(bare.quantization());
  CHECK(bare.model_config().is_null());
  CHECK_FALSE(bare.ties_embeddings());
  write_file(scratch.file("config.json"), R"({"tie_word_embeddings": true})");
  CHECK(directory(scratch.path()).ties_embeddings());
}

TEST_CASE("directory: the configuration may stand in files of its own") {
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    const scratch_directory scratch;
    const awq_settings s{4, 32, false, {}, false};
    make_checkpoint(scratch.path(), s);
    write_file(scratch.file("config.json"), "{}");
    const auto e = error_of([&] { directory d(scratch.path()); });
    CHECK(e.code() == errc::not_found);
    CHECK(contains(e.what(), "no configuration says how"));
    quantization_config config;
    config.base = s;
    write_file(scratch.file(name), config.to_legacy_awq_json().to_text());
    CHECK(directory(scratch.path()).modules().size() == 4);
  }
}

TEST_CASE("directory: configurations that contradict the tensors are refused") {
  const auto refused = [](const module_settings& stored, const std::string& section,
                          const char* text) {
    const scratch_directory scratch;
    make_checkpoint(scratch.path(), stored);
    write_file(scratch.file("config.json"), "{\"quantization_config\":" + section + "}");
    const auto e = error_of([&] { directory d(scratch.path()); });
    CAPTURE(e.what());
    CHECK(e.code() == errc::bad_metadata);
    CHECK(contains(e.what(), text));
  };
  const awq_settings awq{4, 32, false, {}, false};
  refused(
      awq,
      R"({"quant_method":"awq","bits":4,"group_size":32,"modules_to_not_convert":["layers.1"]})",
      "layers.1.mlp.up_proj is not to be quantized");
  refused(awq, R"({"quant_method":"compressed-tensors","format":"pack-quantized",
      "config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":4,"strategy":"channel"}}}})",
          "of another one");
  const scratch_directory scratch;
  auto tensors = checkpoint::store_awq(random_codes(4, {64, 128, 32}, 0, 15, 1), "m", awq);
  tensors.push_back(plain("m.weight", {64, 128}));
  write_model(scratch.path(), tensors);
  write_file(scratch.file("quant_config.json"),
             R"({"w_bit":4,"q_group_size":32,"zero_point":true})");
  CHECK(contains(error_of([&] { directory d(scratch.path()); }).what(), "both a weight and a"));
}

TEST_CASE("directory: a checkpoint through every scheme comes back with the same codes") {
  const scratch_directory scratch;
  const auto codes = make_checkpoint(scratch.path(), gptq_of_32(false, gptq_format::gptq_v2));
  const std::pair<module_settings, const char*> steps[] = {{any_awq, "awq"},
                                                           {any_compressed, "compressed-tensors"},
                                                           {any_gptq(gptq_format::gptq_p), "gptq"},
                                                           {any_gptq(gptq_format::gptq_v2), "gptq"},
                                                           {any_gptq(gptq_format::gptq), "gptq"}};
  const scratch_directory out;
  std::string from = scratch.path();
  int step = 0;
  for (const auto& [like, scheme] : steps) {
    CAPTURE(step);
    const std::string to = out.file(std::to_string(step++));
    const directory source(from);
    double last = 0;
    bool rising = true;
    auto watch = [&](double share) {
      rising = rising && share >= last;
      last = share;
      return true;
    };
    checkpoint::transcode_options options;
    options.write.max_shard_bytes = step == 2 ? 8000 : 0;
    options.progress = watch;
    // AWQ does not say symmetric or not of a matrix whose zero points differ.
    const auto report = checkpoint::transcode_directory(source, to, like, false, options);
    CHECK(report.exact());
    CHECK(report.modules == 4);
    CHECK(report.weights == 4 * 64 * 128);
    CHECK(rising);
    CHECK(last == Approx(1));
    check_copy(to, codes, scheme);
    const directory copy(to);
    CHECK((copy.file().shard_count() > 1) == (step == 2));
    for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
                             "model.layers.0.mlp.down_proj.bias"}) {
      CAPTURE(name);
      const auto& a = source.file().tensor(name);
      const auto& b = copy.file().tensor(name);
      CHECK(a.type() == b.type());
      CHECK(std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin(), b.bytes().end()));
    }
    CHECK(copy.file().metadata()[0].key == "format");
    CHECK(copy.model_config().find("hidden_size")->text() == "8");
    CHECK(copy.other_files() == source.other_files());
    CHECK(read_file(to + "/tokenizer.model") == read_file(scratch.file("tokenizer.model")));
    CHECK(read_file(to + "/empty.txt").empty());
    CHECK_FALSE(exists(to + "/pytorch_model.bin"));
    CHECK_FALSE(exists(to + "/.hidden"));
    CHECK_FALSE(exists(to + "/.subbyte-parts"));
    CHECK(exists(to + "/quantize_config.json") == (std::string(scheme) == "gptq"));
    const auto settings = copy.quantization()->settings_of("lm_head", "x");
    CHECK(settings.has_value() == (std::string(scheme) == "gptq"));
    from = to;
  }
}

TEST_CASE("directory: symmetric checkpoints reach Marlin, and their flags follow") {
  const scratch_directory scratch, out;
  const auto codes = make_checkpoint(scratch.path(), gptq_of_32(true, gptq_format::gptq));
  const directory source(scratch.path());
  checkpoint::transcode_directory(source, out.file("marlin"),
                                  checkpoint::marlin_settings{0, 0, checkpoint::marlin_names::awq});
  check_copy(out.file("marlin"), codes, "marlin");
  const directory marlin(out.file("marlin"));
  checkpoint::transcode_directory(marlin, out.file("ct"), any_compressed);
  check_copy(out.file("ct"), codes, "compressed-tensors");
  const directory ct(out.file("ct"));
  CHECK(std::get<compressed_tensors_settings>(ct.modules()[0].settings).symmetric);
  CHECK(ct.file().find_tensor(std::string(layer_names[0]) + ".weight_zero_point") == nullptr);
}

TEST_CASE("directory: act-order and modules with settings of their own reach the configuration") {
  const scratch_directory scratch, out;
  const gptq_settings s = gptq_of_32(false, gptq_format::gptq_v2);
  make_checkpoint(scratch.path(), s);
  // Module 1 with groups of 64, module 2 in act-order.
  stored_tensors tensors;
  std::vector<group_codes> codes;
  for (std::size_t i = 0; i < 4; ++i) {
    codes.push_back(random_codes(4, {64, 128, i == 1 ? 64 : 32}, 1, 15, i));
    if (i == 2) test_support::scatter_columns(codes.back(), 4);
    for (auto& t : checkpoint::store_gptq(codes.back(), layer_names[i], s)) {
      tensors.push_back(std::move(t));
    }
  }
  write_model(scratch.path(), tensors);
  write_file(scratch.file("config.json"), R"({"quantization_config":{"quant_method":"gptq","bits":4,
      "group_size":32,"sym":false,"checkpoint_format":"gptq_v2",
      "dynamic":{"+:.*0\\.mlp\\.down.*":{"group_size":64}}}})");
  const directory source(scratch.path());
  checkpoint::transcode_directory(source, out.file("v1"), any_gptq(gptq_format::gptq));
  check_copy(out.file("v1"), codes, "gptq");
  const directory v1(out.file("v1"));
  CHECK(std::get<gptq_settings>(v1.modules()[0].settings).act_order);
  CHECK(std::get<gptq_settings>(v1.modules()[1].settings).group_size == 64);
  checkpoint::transcode_directory(v1, out.file("ct"), any_compressed);
  check_copy(out.file("ct"), codes, "compressed-tensors");
  CHECK(directory(out.file("ct")).quantization()->groups[0].actorder == "group");
  // AWQ has neither: the first that stands in the way is named, and nothing is written.
  const auto e =
      error_of([&] { checkpoint::transcode_directory(source, out.file("awq"), any_awq); });
  CHECK(e.code() == errc::bad_argument);
  CHECK(e.subject() == layer_names[1]);
  CHECK_FALSE(exists(out.file("awq")));
  const auto order = error_of([&] {
    checkpoint::transcode_directory(source, out.file("awq"), awq_settings{4, 32, false, {}, false});
  });
  CHECK(order.subject() == layer_names[2]);
  CHECK(contains(order.what(), "act-order"));
  CHECK_FALSE(exists(out.file("awq") + "/config.json"));
  checkpoint::transcode_options again;
  again.allowed = checkpoint::fidelity::requantize;
  const auto report = checkpoint::transcode_directory(
      source, out.file("again"), awq_settings{4, 32, false, {}, false}, std::nullopt, again);
  CHECK(report.requantized_modules == 1);
  CHECK(report.requantization_error() > 0);
  CHECK(directory(out.file("again")).modules().size() == 4);
}

TEST_CASE("directory: a directory with anything else in it is not written to") {
  const scratch_directory scratch, out;
  make_checkpoint(scratch.path(), awq_settings{4, 32, false, {}, false});
  const directory source(scratch.path());
  const auto e =
      error_of([&] { checkpoint::transcode_directory(source, scratch.path(), any_compressed); });
  CHECK(e.code() == errc::bad_argument);
  CHECK(contains(e.what(), "not empty"));
  // Parts of another job: other settings, or a source that changed.
  const checkpoint::directory_writer other(out.file("x"), source, "another job");
  CHECK(contains(error_of([&] {
                   checkpoint::transcode_directory(source, out.file("x"), any_compressed);
                 }).what(),
                 "parts of another job"));
  CHECK(!other.has_part("lm_head"));  // a plain weight may be replaced
  CHECK(error_of([&] { (void)other.has_part("nothing"); }).code() == errc::not_found);
}

TEST_CASE("directory: a plain weight is replaced like a module, and all else is carried over") {
  const scratch_directory scratch, out;
  make_checkpoint(scratch.path(), gptq_settings{4, 32, false});
  const directory source(scratch.path());
  const std::string copy = out.file("copy");
  checkpoint::directory_writer writer(copy, source, "a job");
  auto head = plain("lm_head.weight", {16, 8});
  for (auto& b : head.bytes) b = static_cast<std::uint8_t>(b + 1);
  writer.write_part("lm_head", {head}, "why");
  CHECK(writer.has_part("lm_head"));
  CHECK(writer.part_note("lm_head") == "why");
  CHECK(!writer.has_part("model.norm"));
  writer.finish(*source.quantization());
  const directory written(copy);
  CHECK(!exists(copy + "/.subbyte-parts"));
  REQUIRE(written.file().tensors().size() == source.file().tensors().size());
  for (std::size_t i = 0; i < source.file().tensors().size(); ++i) {
    const auto& from = source.file().tensors()[i];
    const auto& to = written.file().tensor(from.name());
    const auto expected =
        from.name() == "lm_head.weight" ? std::span<const std::uint8_t>(head.bytes) : from.bytes();
    CHECK(std::equal(to.bytes().begin(), to.bytes().end(), expected.begin(), expected.end()));
  }
}

TEST_CASE("directory: a cancelled job goes on where it stopped") {
  const scratch_directory scratch, out;
  const auto codes = make_checkpoint(scratch.path(), awq_settings{4, 32, false, {}, false});
  const directory source(scratch.path());
  const std::string to = out.file("copy");
  for (const int stop_at : {1, 3, 5}) {
    int calls = 0;
    auto watch = [&](double) { return ++calls < stop_at; };
    checkpoint::transcode_options options;
    options.progress = watch;
    const auto e = error_of([&] {
      checkpoint::transcode_directory(source, to, any_compressed, std::nullopt, options);
    });
    CHECK(e.code() == errc::cancelled);
    CHECK_FALSE(exists(to + "/model.safetensors"));
    CHECK(list_directory(to + "/.subbyte-parts").size() ==
          static_cast<std::size_t>(stop_at < 5 ? stop_at : 4) + 1);
  }
  // A part that is there is not made again: its module is not even read.
  const std::string part = to + "/.subbyte-parts/2.safetensors";
  const auto before = read_file(part);
  const auto report = checkpoint::transcode_directory(source, to, any_compressed);
  CHECK(report.modules == 4);
  check_copy(to, codes, "compressed-tensors");
  CHECK(contains(std::string(before.begin(), before.end()), "note"));
}

TEST_CASE("directory: a job killed at any moment is finished by the next run") {
  const scratch_directory scratch, out;
  const auto codes = make_checkpoint(scratch.path(), awq_settings{4, 32, false, {}, false}, 512);
  const auto run = [&](const std::string& to) {
    const directory source(scratch.path());
    checkpoint::transcode_options options;
    options.write.max_shard_bytes = 100000;
    checkpoint::transcode_directory(source, to, any_compressed, std::nullopt, options);
  };
  const auto clock = [] {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * std::int64_t{1000000000} + now.tv_nsec;
  };
  const std::int64_t begin = clock();
  run(out.file("whole"));
  const std::int64_t whole = clock() - begin;
  check_copy(out.file("whole"), codes, "compressed-tensors");
  const auto reference = list_directory(out.file("whole"));
  int kills = 0, resumed = 0;
  for (int i = 0; i < 16; ++i) {
    CAPTURE(i);
    const std::string to = out.file(std::to_string(i));
    // Several kills in a row on the same directory.
    for (int again = 0; again < 3; ++again) {
      if (exists(to + "/config.json") && !exists(to + "/.subbyte-parts/job")) break;
      kills += test_support::killed_after(whole * (i + 1) / 18, [&] { run(to); });
      // A model that can be opened is whole.
      if (exists(to + "/model.safetensors.index.json")) {
        check_copy(to, codes, "compressed-tensors");
      }
    }
    if (!exists(to + "/model.safetensors.index.json") || exists(to + "/.subbyte-parts/job")) {
      resumed += exists(to + "/.subbyte-parts/0.safetensors");
      run(to);
    }
    check_copy(to, codes, "compressed-tensors");
    std::vector<std::string> files = list_directory(to), expected = reference;
    for (std::size_t f = 0; f < files.size();) {
      // A kill between the last two steps leaves an empty folder, or temporaries.
      if (files[f].compare(0, 9, ".subbyte-") == 0) {
        files.erase(files.begin() + static_cast<std::ptrdiff_t>(f));
      } else {
        ++f;
      }
    }
    std::sort(files.begin(), files.end());
    std::sort(expected.begin(), expected.end());
    CHECK(files == expected);
  }
  CHECK(kills > 0);
  CHECK(resumed > 0);
}
