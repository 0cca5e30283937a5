// SPDX-License-Identifier: Apache-2.0
#include "subbyte/exec/executor.hpp"

#include <type_traits>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

struct piece {
  index_t begin, end;
  bool operator==(const piece&) const = default;
};

// Exactly what the concept asks: no copy, no move, no const, no return value; a count that merely
// converts to int.
class archetype {
 public:
  explicit archetype(index_t grains_per_piece) : grains_per_piece_(grains_per_piece) {}
  archetype(const archetype&) = delete;
  archetype& operator=(const archetype&) = delete;

  struct count {
    operator int() const noexcept { return 3; }
  };
  count concurrency() noexcept { return {}; }
  void for_range(index_t n, index_t grain, range_fn f, void* body) {
    ++calls;
    const index_t step = grain * grains_per_piece_;
    for (index_t last = (n - 1) / step; last >= 0; --last) {  // backwards: any order is allowed
      f(body, last * step, n < (last + 1) * step ? n : (last + 1) * step);
    }
  }
  int calls = 0;

 private:
  index_t grains_per_piece_;
};
static_assert(executor<archetype>);
static_assert(!executor<const archetype>);
static_assert(executor<serial_executor> && executor<const serial_executor>);
static_assert(!executor<int> && !executor<executor_ref*>);

struct may_throw_when_asked {
  int concurrency();
  void for_range(index_t, index_t, range_fn, void*);
};
static_assert(!executor<may_throw_when_asked>);

// Three words, a value, made from lvalues and from temporaries, never from another type.
static_assert(sizeof(executor_ref) == 3 * sizeof(void*));
static_assert(std::is_trivially_copyable_v<executor_ref>);
static_assert(std::is_convertible_v<archetype&, executor_ref>);
static_assert(std::is_convertible_v<serial_executor, executor_ref>);
static_assert(std::is_convertible_v<const serial_executor&, executor_ref>);
static_assert(!std::is_convertible_v<const archetype&, executor_ref>);
static_assert(!std::is_convertible_v<int&, executor_ref>);
static_assert(!std::is_default_constructible_v<executor_ref>);

std::vector<piece> pieces_of(executor_ref ex, index_t n, index_t grain) {
  std::vector<piece> seen;
  ex.for_range(n, grain, [&](index_t begin, index_t end) noexcept {
    seen.push_back({begin, end});
  });
  return seen;
}

index_t sum_to(index_t n, executor_ref ex = serial) {
  index_t total = 0;
  ex.for_range(n, 1, [&](index_t begin, index_t end) noexcept {
    for (; begin < end; ++begin) total += begin;
  });
  return total;
}

}  // namespace

TEST_CASE("executor: the serial one takes everything in one piece") {
  CHECK(pieces_of(serial, 10, 3) == std::vector<piece>{{0, 10}});
  CHECK(pieces_of(serial, 1, 1) == std::vector<piece>{{0, 1}});
  CHECK(executor_ref(serial).concurrency() == 1);
  int calls = 0;
  const range_fn count = [](void* body, index_t, index_t) noexcept { ++*static_cast<int*>(body); };
  serial.for_range(0, 1, count, &calls);
  CHECK(calls == 0);
  serial.for_range(1, 1, count, &calls);
  CHECK(calls == 1);
  CHECK(sum_to(101) == 5050);
}

TEST_CASE("executor: no work calls neither the executor nor the body") {
  archetype pool(1);
  CHECK(pieces_of(pool, 0, 1).empty());
  CHECK(pieces_of(pool, 0, 100).empty());
  CHECK(pool.calls == 0);
  CHECK(pieces_of(serial, 0, 1).empty());
}

TEST_CASE("executor: what fits one grain runs on the caller, without the executor") {
  archetype pool(1);
  CHECK(pieces_of(pool, 5, 5) == std::vector<piece>{{0, 5}});
  CHECK(pieces_of(pool, 5, 1000) == std::vector<piece>{{0, 5}});
  CHECK(pool.calls == 0);
  CHECK(pieces_of(pool, 6, 5) == std::vector<piece>{{5, 6}, {0, 5}});
  CHECK(pool.calls == 1);
}

TEST_CASE("executor: a pool that has only what the concept asks plugs in") {
  archetype pool(2);
  const executor_ref ex = pool;
  CHECK(ex.concurrency() == 3);
  CHECK(pieces_of(ex, 10, 2) == std::vector<piece>{{8, 10}, {4, 8}, {0, 4}});
  CHECK(sum_to(101, pool) == 5050);
  CHECK(sum_to(101, archetype(7)) == 5050);
  const executor_ref copy = ex;
  CHECK(pieces_of(copy, 3, 1) == std::vector<piece>{{2, 3}, {0, 2}});
}

TEST_CASE("executor: a body may be an lvalue, const, or a function object with state") {
  struct counter {
    index_t total = 0;
    void operator()(index_t begin, index_t end) noexcept { total += end - begin; }
  };
  counter body;
  archetype pool(1);
  executor_ref(pool).for_range(10, 3, body);
  CHECK(body.total == 10);
  index_t total = 0;
  const auto constant = [&](index_t begin, index_t end) noexcept { total += end - begin; };
  executor_ref(pool).for_range(7, 3, constant);
  CHECK(total == 7);
}
