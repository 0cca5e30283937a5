// SPDX-License-Identifier: Apache-2.0
/// Times of calls on a device: graphs of many calls, replayed, contenders in turn.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"
#include "subbyte/cuda/device.cuh"

namespace bench {

using subbyte::cuda::check;

/// One of those that are timed beside each other.
struct contender {
  std::string name;
  /// Queues call number i; number i and number i + copies touch the same memory.
  std::function<void(cudaStream_t, int)> queue;
  int copies = 1;
};

struct timing {
  int replays = 9;
  /// How long a replay lasts about.
  double replay_us = 1500;
  int most_calls = 500;
};

struct timed {
  std::string name;
  summary us;  ///< of a call
  int calls = 0;
};

/// What runs on one stream, and how long.
class timer {
 public:
  explicit timer(const subbyte::cuda::device& on) {
    on.make_current();
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }
  timer(const timer&) = delete;
  timer& operator=(const timer&) = delete;
  ~timer() { static_cast<void>(cudaStreamDestroy(stream_)); }

  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_), "a benchmark"); }

  /// Replays of all contenders in turn: A B C A B C ...
  std::vector<timed> interleaved(const std::vector<contender>& contenders, const timing& t) {
    std::vector<std::unique_ptr<graph>> graphs;
    for (const contender& c : contenders) graphs.push_back(captured(c, t));
    std::vector<event> marks(contenders.size() * static_cast<std::size_t>(t.replays) + 1);
    // All at once: the device never waits for the host between two replays.
    marks[0].record(stream_);
    std::size_t at = 0;
    for (int r = 0; r < t.replays; ++r) {
      for (const auto& g : graphs) {
        check(cudaGraphLaunch(g->ready, stream_), "a graph");
        marks[++at].record(stream_);
      }
    }
    synchronize();
    std::vector<timed> out;
    for (std::size_t c = 0; c < contenders.size(); ++c) {
      std::vector<double> us;
      for (std::size_t i = c; i + 1 < marks.size(); i += contenders.size()) {
        us.push_back(marks[i].us_until(marks[i + 1]) / graphs[c]->calls);
      }
      out.push_back({contenders[c].name, summarize(us), graphs[c]->calls});
    }
    return out;
  }

  timed alone(const contender& c, const timing& t) { return interleaved({c}, t).front(); }

 private:
  class event {
   public:
    event() { check(cudaEventCreate(&event_), "an event"); }
    event(const event&) = delete;
    event& operator=(const event&) = delete;
    ~event() { static_cast<void>(cudaEventDestroy(event_)); }

    void record(cudaStream_t s) { check(cudaEventRecord(event_, s), "an event"); }
    [[nodiscard]] double us_until(const event& later) const {
      float ms = 0;
      check(cudaEventElapsedTime(&ms, event_, later.event_), "an event");
      return 1000.0 * static_cast<double>(ms);
    }

   private:
    cudaEvent_t event_ = nullptr;
  };

  struct graph {
    graph() = default;
    graph(const graph&) = delete;
    graph& operator=(const graph&) = delete;
    ~graph() {
      if (ready != nullptr) static_cast<void>(cudaGraphExecDestroy(ready));
      if (calls_as_queued != nullptr) static_cast<void>(cudaGraphDestroy(calls_as_queued));
    }
    cudaGraph_t calls_as_queued = nullptr;
    cudaGraphExec_t ready = nullptr;
    int calls = 0;
  };

  std::unique_ptr<graph> captured(const contender& c, const timing& t) {
    c.queue(stream_, 0);  // whatever a first call loads
    synchronize();
    event begin;
    event end;
    begin.record(stream_);
    constexpr int probed = 3;
    for (int i = 0; i < probed; ++i) c.queue(stream_, i);
    end.record(stream_);
    synchronize();
    auto g = std::make_unique<graph>();
    g->calls = calls_of_a_replay(begin.us_until(end) / probed, c.copies, t.replay_us, t.most_calls);
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "a capture");
    for (int i = 0; i < g->calls; ++i) c.queue(stream_, i);
    check(cudaStreamEndCapture(stream_, &g->calls_as_queued), "a capture");
    check(cudaGraphInstantiate(&g->ready, g->calls_as_queued, 0), "a graph");
    check(cudaGraphLaunch(g->ready, stream_), "a graph");
    synchronize();
    return g;
  }

  cudaStream_t stream_ = nullptr;
};

}  // namespace bench
