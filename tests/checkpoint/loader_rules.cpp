// SPDX-License-Identifier: Apache-2.0
/// The loaders' rules: every one accepts what it should, and is the reason where it is broken.
#include "subbyte/checkpoint/loader_rules.hpp"

#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
using checkpoint::awq_settings;
using checkpoint::awq_version;
using checkpoint::compressed_tensors_settings;
using checkpoint::gptq_format;
using checkpoint::gptq_settings;
using checkpoint::judge;
using checkpoint::loader;
using checkpoint::marlin_settings;
using checkpoint::module_facts;
using checkpoint::module_settings;
using subbyte::index_t;
using subbyte::scale_type;
using test_support::contains;

namespace {

module_facts facts(index_t rows = 256, index_t cols = 256, bool symmetric = true,
                   scale_type scales = scale_type::f16) {
  return {{rows, cols}, scales, false, symmetric};
}

void accepts(loader l, const module_settings& s, const module_facts& f = facts()) {
  const auto v = judge(s, f, l);
  CAPTURE(v.reason);
  CHECK(v.accepted);
  CHECK(v.reason.empty());
}

void refuses(loader l, const module_settings& s, const char* reason,
             const module_facts& f = facts()) {
  const auto v = judge(s, f, l);
  CAPTURE(v.reason, reason);
  CHECK_FALSE(v.accepted);
  CHECK(contains(v.reason, reason));
}

gptq_settings gptq(int bits = 4, index_t group = 128, bool symmetric = true,
                   gptq_format format = gptq_format::gptq) {
  gptq_settings s;
  s.bits = bits;
  s.group_size = group;
  s.symmetric = symmetric;
  s.format = format;
  return s;
}

}  // namespace

TEST_CASE("loader_rules: vLLM takes symmetric GPTQ of 4 and 8 bits in its group sizes") {
  for (const loader l : {loader::vllm, loader::vllm_marlin}) {
    for (const int bits : {4, 8}) {
      for (const index_t group : {-1, 32, 64, 128, 256}) accepts(l, gptq(bits, group));
    }
    for (const int bits : {2, 3, 5}) refuses(l, gptq(bits), "4 or 8 bits");
    refuses(l, gptq(4, 128, false), "symmetric");
    refuses(l, gptq(), "symmetric", facts(256, 256, false));
    for (const index_t group : {16, 256, 512}) {
      refuses(l, gptq(4, group), "groups are -1, 32, 64, 128", facts(256, 1024));
    }
    refuses(l, gptq(4, 128, true, gptq_format::gptq_v2), "checkpoint_format");
  }
  accepts(loader::vllm, gptq(), facts(96, 160));
  refuses(loader::vllm_marlin, gptq(), "96 x 256", facts(96, 256));
  refuses(loader::vllm_marlin, gptq(4, 32), "256 x 160", facts(256, 160));
  accepts(loader::vllm_marlin, gptq(), facts(64, 128));
  refuses(loader::vllm_many_bits, gptq(), "compressed-tensors");
}

TEST_CASE("loader_rules: vLLM takes AWQ's gemm tensors") {
  for (const bool symmetric : {false, true}) {
    accepts(loader::vllm, awq_settings{4, 128, false, {}, false}, facts(256, 256, symmetric));
  }
  refuses(loader::vllm, awq_settings{8, 128, false, {}, false}, "8 with Marlin");
  accepts(loader::vllm_marlin, awq_settings{8, 128, false, {}, false});
  refuses(loader::vllm_marlin, awq_settings{3, 128, false, {}, false}, "4 or 8 bits");
  for (const awq_version v : {awq_version::gemv, awq_version::gemv_tiled}) {
    refuses(loader::vllm, awq_settings{4, 128, false, v, false}, "version gemm");
  }
  const module_facts brain = facts(256, 256, false, scale_type::bf16);
  refuses(loader::vllm, awq_settings{4, 128, false, {}, false}, "f16 only", brain);
  accepts(loader::vllm_marlin, awq_settings{4, 128, false, {}, false}, brain);
  refuses(loader::vllm_marlin, awq_settings{4, 16, false, {}, false}, "groups are");
  refuses(loader::vllm_marlin, awq_settings{4, 32, false, {}, false}, "32 x 96", facts(32, 96));
  refuses(loader::vllm_many_bits, awq_settings{}, "compressed-tensors");
}

TEST_CASE("loader_rules: vLLM takes pack-quantized of 4 and 8 bits, with newer kernels 2 to 8") {
  for (int bits = 1; bits <= 8; ++bits) {
    const compressed_tensors_settings s{bits, 128, true, false};
    if (bits == 4 || bits == 8) {
      accepts(loader::vllm, s);
      accepts(loader::vllm_marlin, s);
    } else {
      refuses(loader::vllm, s, "4 or 8 bits");
    }
    if (bits == 1) {
      refuses(loader::vllm_many_bits, s, "2 to 8 bits");
    } else {
      accepts(loader::vllm_many_bits, s);
    }
  }
  refuses(loader::vllm_many_bits, compressed_tensors_settings{3, 128, true, true}, "densely");
  accepts(loader::vllm, compressed_tensors_settings{4, 128, true, true});
  refuses(loader::vllm_marlin, compressed_tensors_settings{4, 48, true, false}, "groups are");
}

TEST_CASE("loader_rules: exllamav2 takes 4-bit GPTQ with zero points minus one") {
  accepts(loader::exllama_v2, gptq());
  accepts(loader::exllama_v2, gptq(4, 32, false), facts(256, 256, false));
  accepts(loader::exllama_v2, gptq(4, 512), facts(256, 1024));
  refuses(loader::exllama_v2, gptq(8), "4 bits");
  for (const gptq_format f : {gptq_format::gptq_v2, gptq_format::gptq_p}) {
    refuses(loader::exllama_v2, gptq(4, 128, true, f), "off by one");
  }
  refuses(loader::exllama_v2, gptq(), "f16", facts(256, 256, true, scale_type::bf16));
  refuses(loader::exllama_v2, gptq(), "multiples of 32", facts(48, 256));
  refuses(loader::exllama_v2, awq_settings{}, "GPTQ");
  refuses(loader::exllama_v2, compressed_tensors_settings{}, "GPTQ");
}

TEST_CASE("loader_rules: Marlin's words as a file are nobody's any more") {
  for (const loader l : checkpoint::all_loaders) {
    refuses(l, marlin_settings{}, "load time");
    CHECK(std::string(checkpoint::name_of(l)).size() > 3);
  }
}

TEST_CASE("loader_rules: a directory is judged by its first module that stands in the way") {
  const test_support::scratch_directory scratch;
  gptq_settings s = gptq(4, 32);
  subbyte::safetensors::writer out(scratch.file("model.safetensors"));
  checkpoint::stored_tensors tensors;
  for (const char* name : {"a", "b"}) {
    const index_t rows = name[0] == 'a' ? 64 : 32;
    for (auto& t :
         checkpoint::store_gptq(test_support::random_codes(4, {rows, 128, 32}, 1, 0, 1), name, s)) {
      tensors.push_back(std::move(t));
    }
  }
  for (const auto& t : tensors) t.declare(out);
  for (const auto& t : tensors) t.write(out);
  out.finish();
  test_support::write_file(scratch.file("quantize_config.json"),
                           R"({"quant_method":"gptq","bits":4,"group_size":32})");
  const checkpoint::directory d(scratch.path());
  const auto verdicts = checkpoint::judge_directory(d);
  REQUIRE(verdicts.size() == 4);
  CHECK(verdicts[0].verdict.accepted);
  CHECK(verdicts[0].module.empty());
  CHECK_FALSE(verdicts[1].verdict.accepted);
  CHECK(verdicts[1].module == "b");
  CHECK(contains(verdicts[1].verdict.reason, "32 x 128"));
  CHECK(verdicts[3].verdict.accepted);
  CHECK(verdicts[3].which == loader::exllama_v2);
}
