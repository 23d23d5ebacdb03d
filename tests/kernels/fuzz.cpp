// Random shapes through every instruction set, under sanitizers: `make kernels-fuzz`.
//
// Every instruction set must give what the first one gives; any number of threads, several lanes at
// once, and a last layer of first tokens alone must change no bit. Buffers are as long as `abi.h`
// says and no longer, so that sanitizers see one byte too many.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "../../bertd/kernels/native/abi.h"

extern "C" const char* bertd_isa(int n);
extern "C" int bertd_run(const char* isa, const BertdEncoder*, const BertdLayer*, int count,
                         const BertdBatch*, float* x_TD, int threads);

namespace {

constexpr int kLayers = 2, kSlots = 3, kLanes = 2, kMostTokens = 150;
constexpr int kPanel = 64;
constexpr int kElements[] = {1, 2, 4};  // of a group of four bytes, by precision
constexpr float kTolerances[] = {2e-4f, 0.25f, 0.25f};

[[noreturn]] void fail(int seed, const char* isa, const char* what) {
    std::printf("seed %d, %s: %s\n", seed, isa, what);
    std::exit(1);
}

struct Aligned {
    explicit Aligned(size_t bytes) : data((uint8_t*)std::aligned_alloc(64, bytes)) { memset(data, 0, bytes); }
    ~Aligned() { std::free(data); }
    uint8_t* const data;
};

// One encoder and one batch; pointers lead to what the case owns.
class Case {
   public:
    explicit Case(int seed) : random_(seed), precision_(whole(0, 2)) {
        const int heads = whole(1, 4), hidden = heads * whole(1, 60), ffn = whole(1, 300);
        encoder = {hidden, heads, ffn, (BertdActivation)whole(0, 2), (BertdPrecision)precision_, 1e-12f,
                   nullptr, 0};
        if (whole(0, 2) == 0) {
            encoder.relative = floats((size_t)heads * kMostTokens * kMostTokens, 0, 1);
            encoder.relative_tokens = kMostTokens;
        }
        for (int i = 0; i < kLayers; ++i)
            layers.push_back({linear(3 * hidden, hidden), linear(hidden, hidden), linear(ffn, hidden),
                              linear(hidden, ffn), floats(hidden, 1, 0.1f), floats(hidden, 1, 0.1f)});
        for (int rows = whole(0, 12); rows > 0; --rows) {
            lengths_.push_back(whole(1, seed % 5 == 0 ? kMostTokens : 20));
            slots_.push_back(whole(0, kSlots - 1));
            tokens += lengths_.back();
        }
        const int width = 3 * hidden + ffn, values = kSlots * kLayers * width;
        const bool rounded = precision_ == BERTD_BF16;
        batch = {(int)lengths_.size(), lengths_.data(), slots_.data(), floats(values, 0, 0.1f), rounded,
                 kLayers * width, width, 0};
        if (rounded) batch.biases = halves((const float*)batch.biases, values);
        const float* const start = floats((size_t)tokens * hidden, 0, 1);
        x.assign(start, start + (size_t)tokens * hidden);
    }

    std::vector<float> run(const char* isa, int threads, bool first_only = false) const {
        BertdBatch trimmed = batch;
        trimmed.first_only = first_only;
        std::vector<float> y = x;
        if (bertd_run(isa, &encoder, layers.data(), kLayers, &trimmed, y.data(), threads) != 0) y.clear();
        return y;
    }

    // Whether two results have the same bits in the first token of every row.
    bool agree_at_first_tokens(const std::vector<float>& a, const std::vector<float>& b) const {
        size_t at = 0;
        for (const int length : lengths_) {
            if (memcmp(&a[at], &b[at], encoder.hidden * sizeof(float)) != 0) return false;
            at += (size_t)length * encoder.hidden;
        }
        return true;
    }

    float tolerance() const { return kTolerances[precision_]; }

    BertdEncoder encoder;
    std::vector<BertdLayer> layers;
    BertdBatch batch;
    int tokens = 0;
    std::vector<float> x;

   private:
    int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

    const float* floats(size_t count, float middle, float spread) {
        std::vector<float>& made = floats_.emplace_back(count);
        std::uniform_real_distribution<float> values(middle - spread, middle + spread);
        for (float& value : made) value = values(random_);
        return made.data();
    }

    static uint16_t half(float value) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return (uint16_t)(bits >> 16);
    }

    const uint16_t* halves(const float* from, size_t count) {
        std::vector<uint16_t>& made = halves_.emplace_back(count);
        std::transform(from, from + count, made.begin(), half);
        return made.data();
    }

    // A weight [rows, columns] as `bertd/kernels/layout.py` lays it out.
    BertdLinear linear(int rows, int columns) {
        const int e = kElements[precision_], bytes = 4 / e;
        const size_t padded = (rows + kPanel - 1) / kPanel * kPanel, groups = (columns + e - 1) / e;
        const size_t behind = padded * groups * 4;
        uint8_t* const panels =
            weights_.emplace_back(behind + (precision_ == BERTD_INT8 ? 2 * padded * sizeof(float) : 0)).data;
        const float* const values = floats((size_t)rows * columns, 0, 0.2f);
        float* const scale = (float*)(panels + behind);
        for (int n = 0; n < rows; ++n)
            for (int k = 0; k < columns; ++k) {
                const float value = values[(size_t)n * columns + k];
                const size_t group = n / kPanel * groups + k / e;
                uint8_t* const at = panels + (group * kPanel + n % kPanel) * 4 + k % e * bytes;
                const uint16_t rounded = half(value);
                const int8_t level = (int8_t)std::lround(value * 127 / 0.2f);
                memcpy(at, e == 1 ? (const void*)&value : e == 2 ? (const void*)&rounded : &level, bytes);
                if (e == 4) scale[n] = 0.2f / 127, scale[padded + n] += level;
            }
        if (e != 4) return {panels, nullptr, nullptr};
        return {panels, scale, scale + padded};
    }

    std::mt19937 random_;
    int precision_;
    std::vector<int32_t> lengths_, slots_;
    std::deque<std::vector<float>> floats_;
    std::deque<std::vector<uint16_t>> halves_;
    std::deque<Aligned> weights_;
};

float difference(const std::vector<float>& a, const std::vector<float>& b) {
    float most = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        if (!std::isfinite(a[i])) return INFINITY;
        most = std::max(most, std::fabs(a[i] - b[i]));
    }
    return most;
}

void check(const Case& c, int seed, const char* isa, const std::vector<float>& expected) {
    const std::vector<float> alone = c.run(isa, 1);
    if (alone.size() != c.x.size()) fail(seed, isa, "did not run");
    if (difference(alone, expected) > c.tolerance()) fail(seed, isa, "differs from the best");
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < kLanes; ++lane)
        lanes.emplace_back([&, lane] {
            if (c.run(isa, 2 + lane) != alone) fail(seed, isa, "threads change bits");
        });
    for (std::thread& lane : lanes) lane.join();
    for (const int threads : {1, 2})
        if (!c.agree_at_first_tokens(c.run(isa, threads, true), alone))
            fail(seed, isa, "first tokens differ when they are alone");
}

}  // namespace

int main(int count, char** arguments) {
    const int seeds = count > 1 ? std::atoi(arguments[1]) : 100;
    for (int seed = 0; seed < seeds; ++seed) {
        const Case c(seed);
        const std::vector<float> expected = c.run(bertd_isa(0), 1);
        for (int n = 0; const char* isa = bertd_isa(n); ++n) check(c, seed, isa, expected);
    }
    std::printf("%d shapes ran\n", seeds);
}
