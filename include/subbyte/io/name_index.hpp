// SPDX-License-Identifier: Apache-2.0
/// Positions in a list of named things, sorted by name: duplicates when it is made, then look-up.
#pragma once

#include <algorithm>  // std::sort, std::lower_bound
#include <optional>
#include <string_view>
#include <vector>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Two positions with one name, first < second.
struct duplicate_name {
  index_t first;
  index_t second;
};

/// An index of a list that lives elsewhere; name_of(item) is an item's name, and gives the same for
/// every call.
///
/// Cost    8 bytes an item; O(n log n) comparisons to make, O(log n) to find.
template <class Arch>
class basic_name_index {
 public:
  /// Replaces what was there. Returns a duplicate, if there is one.
  template <class T, class NameOf>
  std::optional<duplicate_name> assign(const std::vector<T>& items, const NameOf& name_of) {
    const auto name_at = [&](index_t i) -> std::string_view {
      return name_of(items[static_cast<std::size_t>(i)]);
    };
    sorted_.resize(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) sorted_[i] = static_cast<index_t>(i);
    std::sort(sorted_.begin(), sorted_.end(), [&](index_t a, index_t b) {
      const int order = name_at(a).compare(name_at(b));
      return order != 0 ? order < 0 : a < b;
    });
    for (std::size_t i = 1; i < sorted_.size(); ++i) {
      if (name_at(sorted_[i]) == name_at(sorted_[i - 1])) {
        return duplicate_name{sorted_[i - 1], sorted_[i]};
      }
    }
    return std::nullopt;
  }

  /// The item of that name in the list that was assigned, or null.
  template <class T, class NameOf>
  [[nodiscard]] const T* find(const std::vector<T>& items, std::string_view name,
                              const NameOf& name_of) const noexcept {
    const auto item = [&](index_t i) -> const T& { return items[static_cast<std::size_t>(i)]; };
    const auto at =
        std::lower_bound(sorted_.begin(), sorted_.end(), name,
                         [&](index_t i, std::string_view text) { return name_of(item(i)) < text; });
    if (at == sorted_.end() || name_of(item(*at)) != name) return nullptr;
    return &item(*at);
  }

 private:
  std::vector<index_t> sorted_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
