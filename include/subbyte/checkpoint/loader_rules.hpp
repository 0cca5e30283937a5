// SPDX-License-Identifier: Apache-2.0
/// What the runtimes accept of a quantized module, as rules with reasons: vLLM and exllamav2, which
/// cannot run everywhere a checkpoint is written.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "subbyte/checkpoint/directory.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// The loaders that there are rules for.
enum class loader {
  vllm,            ///< any kernel
  vllm_marlin,     ///< its quickest kernels for these schemes (Marlin's tiles)
  vllm_many_bits,  ///< compressed-tensors with the kernels for 2 to 8 bits ("Humming")
  exllama_v2
};
inline constexpr loader all_loaders[] = {loader::vllm, loader::vllm_marlin, loader::vllm_many_bits,
                                         loader::exllama_v2};

[[nodiscard]] SUBBYTE_INLINE constexpr const char* name_of(loader l) noexcept {
  return l == loader::vllm             ? "vLLM"
         : l == loader::vllm_marlin    ? "vLLM with Marlin"
         : l == loader::vllm_many_bits ? "vLLM with kernels for 2 to 8 bits"
                                       : "exllamav2";
}

/// What the rules look at.
struct module_facts {
  matrix_shape shape{};
  scale_type scales = scale_type::f16;
  bool column_groups = false;  ///< act-order
  bool symmetric = true;       ///< by its zero points
};

/// Whether a loader takes a module, and the rule that decided: never empty where it does not.
template <class Arch>
struct basic_verdict {
  bool accepted = false;
  std::string reason;
};

using verdict = basic_verdict<arch::native>;

namespace detail {

template <class Arch>
class loader_check {
 public:
  loader_check(const module_facts& facts, loader which) : facts_(facts), loader_(which) {}

  void check(const gptq_settings& s) {
    if (loader_ == loader::vllm_many_bits) return need(false, "they are for compressed-tensors");
    if (loader_ == loader::exllama_v2) {
      need(s.bits == 4, "GPTQ has 4 bits there, the module has " + std::to_string(s.bits));
      need(s.format == gptq_format::gptq,
           "zero points are read as stored plus one: formats gptq_v2 and gptq_p are off by one");
      need(facts_.scales == scale_type::f16, "scales are f16");
      need(facts_.shape.cols % 32 == 0 && facts_.shape.rows % 32 == 0,
           "rows and columns are multiples of 32");
      return;
    }
    need(s.symmetric && facts_.symmetric, "GPTQ is symmetric there (sym true): qzeros are ignored");
    need(s.bits == 4 || s.bits == 8,
         "GPTQ has 4 or 8 bits there, the module has " + std::to_string(s.bits));
    need(s.format == gptq_format::gptq, "checkpoint_format is gptq");
    need_group(s.group_size, {-1, 32, 64, 128});
    tiles();
  }

  void check(const awq_settings& s) {
    if (loader_ == loader::vllm_many_bits) return need(false, "they are for compressed-tensors");
    if (loader_ == loader::exllama_v2) return need(false, "it reads GPTQ and its own formats");
    need(s.version == awq_version::gemm,
         "the tensors are those of version gemm: qweight int32 [in, out / 8]");
    need(s.bits == 4 || (s.bits == 8 && loader_ == loader::vllm_marlin),
         loader_ == loader::vllm ? "AWQ has 4 bits there (8 with Marlin)"
                                 : "AWQ has 4 or 8 bits there");
    if (loader_ == loader::vllm_marlin) {
      need_group(s.group_size, {-1, 32, 64, 128});
    } else {
      need(facts_.scales == scale_type::f16, "the plain AWQ kernel computes in f16 only");
    }
    tiles();
  }

  void check(const compressed_tensors_settings& s) {
    if (loader_ == loader::exllama_v2) return need(false, "it reads GPTQ and its own formats");
    if (loader_ == loader::vllm_many_bits) {
      need(s.bits >= 2, "pack-quantized has 2 to 8 bits there");
    } else {
      need(s.bits == 4 || s.bits == 8,
           "pack-quantized has 4 or 8 bits there, the module has " + std::to_string(s.bits));
    }
    need(s.bits == 4 || s.bits == 8 || !s.padded,
         "3, 5, 6 and 7 bits are packed densely since version 0.17");
    if (loader_ == loader::vllm_marlin) need_group(s.group_size, {-1, 32, 64, 128});
    tiles();
  }

  void check(const marlin_settings&) {
    need(false,
         "Marlin's words are made at load time from GPTQ, AWQ or compressed-tensors; as a "
         "file it was AutoAWQ's and AutoGPTQ's");
  }

  [[nodiscard]] basic_verdict<Arch> result() && {
    basic_verdict<Arch> v;
    v.accepted = reason_.empty();
    v.reason = std::move(reason_);
    return v;
  }

 private:
  // The first rule that is broken is the reason.
  void need(bool met, const std::string& rule) {
    if (!met && reason_.empty()) reason_ = rule;
  }
  void need_group(index_t size, std::initializer_list<index_t> allowed) {
    bool found = false;
    std::string names;
    for (const index_t a : allowed) {
      found = found || a == size || (a == -1 && size == facts_.shape.cols);
      names += (names.empty() ? "" : ", ") + std::to_string(a);
    }
    need(found, "groups are " + names + " columns, the module has " + std::to_string(size));
  }
  void tiles() {
    if (loader_ != loader::vllm_marlin) return;
    need(facts_.shape.cols % 128 == 0 && facts_.shape.rows % 64 == 0,
         "columns are multiples of 128 and rows of 64, the module has " +
             std::to_string(facts_.shape.rows) + " x " + std::to_string(facts_.shape.cols));
  }

  const module_facts& facts_;
  loader loader_;
  std::string reason_;
};

}  // namespace detail

/// Whether a loader takes a module with these settings, by the rules of the middle of 2026.
///
/// Source  vLLM, model_executor/layers/quantization (auto_gptq, awq, compressed_tensors);
///         exllamav2, ext.py (GPTQ matrices).
template <class Arch = arch::native>
[[nodiscard]] basic_verdict<Arch> judge(const module_settings& settings, const module_facts& facts,
                                        loader which) {
  detail::loader_check<Arch> check(facts, which);
  if (const auto* const g = std::get_if<gptq_settings>(&settings)) {
    check.check(*g);
  } else if (const auto* const a = std::get_if<awq_settings>(&settings)) {
    check.check(*a);
  } else if (const auto* const m = std::get_if<marlin_settings>(&settings)) {
    check.check(*m);
  } else {
    check.check(std::get<compressed_tensors_settings>(settings));
  }
  return std::move(check).result();
}

/// What the rules look at of a matrix.
template <class Arch>
[[nodiscard]] module_facts facts_of(const basic_group_codes<Arch>& w) {
  return {{w.rows(), w.cols()},
          w.stored_scale,
          !w.sequential(),
          !w.real_zeros && zeros_are_central<Arch>(w)};
}

/// A verdict on a whole directory, with the first module that stands in the way.
template <class Arch>
struct basic_directory_verdict {
  loader which = loader::vllm;
  std::string module;  ///< empty where all are accepted
  basic_verdict<Arch> verdict;
};

/// The verdicts of all loaders on a directory. Reads every quantized module once.
///
/// Throws  what load_codes throws.
template <class Arch>
[[nodiscard]] std::vector<basic_directory_verdict<Arch>> judge_directory(
    const basic_directory<Arch>& d) {
  std::vector<basic_directory_verdict<Arch>> out;
  for (const loader l : all_loaders) out.push_back({l, "", {true, ""}});
  for (const auto& m : d.modules()) {
    const module_facts facts = facts_of<Arch>(d.load_codes(m.name));
    for (auto& entry : out) {
      if (!entry.verdict.accepted) continue;
      basic_verdict<Arch> v = judge<Arch>(m.settings, facts, entry.which);
      if (v.accepted) continue;
      entry.module = m.name;
      entry.verdict = std::move(v);
    }
  }
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
