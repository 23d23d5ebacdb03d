#include "team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace bertd {

namespace {

constexpr unsigned kMaxHelpers = 63;
constexpr int kSpins = 4000;  // about 50 us, longer than any step between two pieces takes to begin

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

// A helper that the system stops within a piece keeps everybody waiting for a time slice, and on a
// busy machine would do so at every step. So a wait that is longer than the pieces explain ends a
// team, and for a while none is opened: half the speed at once is better than all of it in turns.
constexpr nanoseconds kPatience = std::chrono::microseconds(500);
constexpr int kPatiencePieces = 4;
constexpr nanoseconds kRest = std::chrono::milliseconds(100);

std::atomic<Clock::time_point> rest_until{Clock::time_point::min()};

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Step number, pieces of the step and the next unclaimed one, changed together: a helper that comes
// late can never claim a piece of another step than the one whose work it will read.
constexpr uint64_t pack(uint64_t step, uint64_t pieces) { return step << 32 | pieces << 16; }
constexpr unsigned step_of(uint64_t state) { return state >> 32; }
constexpr unsigned pieces_of(uint64_t state) { return state >> 16 & 0xffff; }
constexpr unsigned next_of(uint64_t state) { return state & 0xffff; }

}  // namespace

class Team {
   public:
    int members = 1;

    void run(int pieces, void (*work)(void*, int, int), void* context) {
        work_ = work;
        context_ = context;
        done_.store(0, std::memory_order_relaxed);
        const auto began = Clock::now();
        state_.store(pack(++step_, pieces), std::memory_order_release);
        const int own = claim(0);
        const auto finished = Clock::now();
        wait_for(pieces);
        const nanoseconds piece = (finished - began) / std::max(own, 1);
        if (Clock::now() - finished > kPatience + kPatiencePieces * piece) let_down();
    }

    bool is_let_down() const { return is_let_down_; }

    void help(int member) {
        unsigned seen = 0;
        for (int spins = 0; !closed_.load(std::memory_order_acquire); ++spins) {
            const uint64_t state = state_.load(std::memory_order_acquire);
            if (step_of(state) != seen && next_of(state) < pieces_of(state)) {
                seen = step_of(state);
                claim(member);
                spins = 0;
            }
            spins < kSpins ? relax() : static_cast<void>(sched_yield());
        }
    }

    void close() { closed_.store(true, std::memory_order_release); }

   private:
    void wait_for(int pieces) const {
        for (int spins = 0; done_.load(std::memory_order_acquire) < pieces; ++spins)
            spins < kSpins ? relax() : static_cast<void>(sched_yield());
    }

    void let_down() {
        is_let_down_ = true;
        rest_until.store(Clock::now() + kRest, std::memory_order_relaxed);
    }

    // Works off pieces until none is left; returns how many.
    int claim(int member) {
        int own = 0;
        uint64_t state = state_.load(std::memory_order_acquire);
        while (next_of(state) < pieces_of(state)) {
            if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
            work_(context_, static_cast<int>(next_of(state)), member);
            done_.fetch_add(1, std::memory_order_release);
            ++own;
            state = state_.load(std::memory_order_acquire);
        }
        return own;
    }

    bool is_let_down_ = false;
    unsigned step_ = 0;
    void (*work_)(void*, int, int) = nullptr;
    void* context_ = nullptr;
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<bool> closed_{false};
};

namespace {

// A thread that sleeps until a team claims it.
class Helper {
   public:
    Helper() : thread_([this] { serve(); }) { thread_.detach(); }

    bool idle() const { return !busy_.load(std::memory_order_acquire); }

    void join(std::shared_ptr<Team> team, int member) {
        team_ = std::move(team);
        member_ = member;
        busy_.store(true, std::memory_order_release);
        busy_.notify_one();
    }

   private:
    void serve() {
        for (;;) {
            busy_.wait(false, std::memory_order_acquire);
            team_->help(member_);
            team_.reset();
            busy_.store(false, std::memory_order_release);
        }
    }

    std::shared_ptr<Team> team_;
    int member_ = 0;
    std::atomic<bool> busy_{false};
    std::thread thread_;
};

struct Pool {
    std::mutex lock;
    std::vector<std::unique_ptr<Helper>> helpers;
};

Pool& pool() {
    static Pool* const forever = new Pool;  // helpers outlive static destruction
    return *forever;
}

// A helper that nobody uses, made when there is none; null when the system or the bound refuses. More
// than one for each processor would only take turns.
Helper* claim_helper() {
    for (auto& helper : pool().helpers)
        if (helper->idle()) return helper.get();
    if (pool().helpers.size() >= std::min(kMaxHelpers, std::thread::hardware_concurrency())) return nullptr;
    try {
        pool().helpers.push_back(std::make_unique<Helper>());
        return pool().helpers.back().get();
    } catch (const std::system_error&) {
        return nullptr;
    }
}

struct OpenTeam : Team {
    std::shared_ptr<Team> self;  // alive until its last helper has left, even after `close_team`
};

}  // namespace

void run_pieces(Team* team, int pieces, void (*work)(void*, int, int), void* context) {
    if (team != nullptr && pieces > 1 && !team->is_let_down()) return team->run(pieces, work, context);
    for (int piece = 0; piece < pieces; ++piece) work(context, piece, 0);
}

int team_size(const Team* team) { return team == nullptr ? 1 : team->members; }

Team* open_team(int threads) {
    if (threads <= 1 || Clock::now() < rest_until.load(std::memory_order_relaxed)) return nullptr;
    auto team = std::make_shared<OpenTeam>();
    const std::lock_guard guard(pool().lock);
    while (team->members < threads) {
        Helper* const helper = claim_helper();
        if (helper == nullptr) break;
        helper->join(team, team->members++);
    }
    if (team->members == 1) return nullptr;
    team->self = team;
    return team.get();
}

void close_team(Team* team) {
    if (team == nullptr) return;
    team->close();
    static_cast<OpenTeam*>(team)->self.reset();
}

}  // namespace bertd
