// Softmax attention of one row and one head, without padding or mask.
//
// Keys and values are laid out as panels once per head; both products then run on the tiles of
// `product.h`. Scores of six queries stay in the first-level cache between the two.
#pragma once
#include "product.h"

namespace bertd::BERTD_ISA {
namespace {

BERTD_INLINE long whole_vectors(long n) { return (n + kLanes - 1) / kLanes * kLanes; }

// The two kinds of attention operands: how wide a value is, and how fp32 becomes one.

struct FloatValues {
    using Product = Fp32;
    static constexpr long kBytes = 4;
    static BERTD_INLINE void put(uint8_t* to, F v) { store(to, v); }
    static BERTD_INLINE void put_step(uint8_t* to, const uint8_t* from, long, long) {
        store(to, load<F>(from));
    }
};

struct Bf16Values {
    using Product = Bf16;
    static constexpr long kBytes = 2;
    static BERTD_INLINE void put(uint8_t* to, F v) { store(to, to_bf16(v)); }
    // Sixteen columns of two neighbouring tokens become one step of a panel.
    static BERTD_INLINE void put_step(uint8_t* to, const uint8_t* from, long stride, long tokens) {
        const U even = __builtin_convertvector(load<H>(from), U);
        const U odd = tokens > 1 ? __builtin_convertvector(load<H>(from + stride), U) : U{};
        store(to, even | odd << 16);
    }
};

struct HeadScratch {  // of one member of a team
    uint8_t* keys;
    uint8_t* values;
    float* scores;
    uint8_t* weights;
};

struct Head {
    const uint8_t *query, *key, *value;  // of the row's first token
    long stride;                         // bytes from token to token
    long tokens;
    long queries;           // tokens, from the first on, whose context is wanted
    long width;             // of a head
    const float* relative;  // [tokens, relative_stride], added to the scores, or null
    long relative_stride;
};

// Swaps 16 x 16 four-byte values: rows become columns.
BERTD_INLINE void transpose(const uint8_t* from, long from_stride, uint8_t* to, long to_stride) {
    U rows[16], other[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = load<U>(from + i * from_stride);
#define BERTD_SWAP(in, out, step, low, high)                  \
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; ++i)     \
        if ((i & (step)) == 0) {                              \
            out[i] = BERTD_SHUFFLE(in[i], in[i + (step)], low); \
            out[i + (step)] = BERTD_SHUFFLE(in[i], in[i + (step)], high); \
        }
#define BERTD_LOW1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define BERTD_HIGH1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define BERTD_LOW2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define BERTD_HIGH2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define BERTD_LOW4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define BERTD_HIGH4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define BERTD_LOW8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define BERTD_HIGH8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
    BERTD_SWAP(rows, other, 1, BERTD_LOW1, BERTD_HIGH1)
    BERTD_SWAP(other, rows, 2, BERTD_LOW2, BERTD_HIGH2)
    BERTD_SWAP(rows, other, 4, BERTD_LOW4, BERTD_HIGH4)
    BERTD_SWAP(other, rows, 8, BERTD_LOW8, BERTD_HIGH8)
#undef BERTD_SWAP
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) store(to + i * to_stride, rows[i]);
}

// keys[step][token]: step by step of four bytes along the head's width.
template <class A>
void lay_keys(const Head& h, uint8_t* keys) {
    const long steps = h.width * A::kBytes / kStep, width = whole_vectors(h.tokens) * kStep;
    const long whole_steps = steps / kLanes * kLanes, whole_tokens = h.tokens / kLanes * kLanes;
    for (long token = 0; token < whole_tokens; token += kLanes)
        for (long step = 0; step < whole_steps; step += kLanes)
            transpose(h.key + token * h.stride + step * kStep, h.stride,
                      keys + step * width + token * kStep, width);
    for (long token = 0; token < h.tokens; ++token)
        for (long step = token < whole_tokens ? whole_steps : 0; step < steps; ++step)
            memcpy(keys + step * width + token * kStep, h.key + token * h.stride + step * kStep, kStep);
}

// values[step][column]: step by step of four bytes along the tokens.
template <class A>
void lay_values(const Head& h, uint8_t* values) {
    const long each = kStep / A::kBytes, width = whole_vectors(h.width) * kStep;
    for (long token = 0; token < h.tokens; token += each)
        for (long column = 0; column < h.width; column += kLanes)
            A::put_step(values + token / each * width + column * kStep,
                        h.value + token * h.stride + column * A::kBytes, h.stride, h.tokens - token);
}

// All columns of `Rows` rows times a panel of any width: out(row, column, sixteen values).
template <class P, int Rows, class Out>
BERTD_INLINE void product(const uint8_t* a, long a_stride, const uint8_t* w, long columns, long steps,
                          Out out) {
    const long w_stride = columns * kStep;
    long column = 0;
    const auto strip = [&]<int Vectors>() __attribute__((always_inline)) {
        for (; column + Vectors * kLanes <= columns; column += Vectors * kLanes) {
            typename P::Sum sums[Rows][Vectors];
            tile<P, Rows, Vectors>(a, a_stride, w + column * kStep, w_stride, steps, sums);
            for (int r = 0; r < Rows; ++r)
                for (int v = 0; v < Vectors; ++v) out(r, column + v * kLanes, sums[r][v]);
        }
    };
    if constexpr (kTileVectors == 4) {
        strip.template operator()<4>();
        strip.template operator()<2>();
    }
    strip.template operator()<1>();
}

// Turns one row of scores into weights that still want dividing by their sum, which it returns.
template <class A>
BERTD_INLINE float softmax(float* scores, uint8_t* weights, long tokens) {
    const long width = whole_vectors(tokens);
    F most = all(-3e38f);
    for (long i = 0; i < tokens; i += kLanes)
        most = larger(most, keep(load<F>(scores + i), tokens - i, -3e38f));
    const F peak = all(largest(most));
    F total{};
    for (long i = 0; i < width; i += kLanes) {
        const F e = keep(exp_negative(load<F>(scores + i) - peak), tokens - i);
        total += e;
        A::put(weights + i * A::kBytes, e);
    }
    return sum(total);
}

template <class A, int Rows, class Out>
void attend_rows(const Head& h, const HeadScratch& s, long first, Out& out) {
    using P = typename A::Product;
    const long width = whole_vectors(h.tokens), columns = whole_vectors(h.width);
    const float scale = 1.0f / __builtin_sqrtf((float)h.width);
    product<P, Rows>(h.query + first * h.stride, h.stride, s.keys, width, h.width / P::kElements,
                     [&](int r, long column, F sum) {
                         F x = sum * scale;
                         if (h.relative != nullptr)
                             x += load_some(h.relative + (first + r) * h.relative_stride + column,
                                            h.tokens - column);
                         store(s.scores + r * width + column, x);
                     });
    float share[Rows];
    for (int r = 0; r < Rows; ++r)
        share[r] = 1.0f / softmax<A>(s.scores + r * width, s.weights + r * width * A::kBytes, h.tokens);
    product<P, Rows>(s.weights, width * A::kBytes, s.values, columns,
                     (h.tokens + P::kElements - 1) / P::kElements,
                     [&](int r, long column, F sum) { out(first + r, column, sum * share[r]); });
}

// Tells out(token, column, sixteen values) the context of every token that is wanted.
template <class A, class Out>
void attend(const Head& h, const HeadScratch& s, Out out) {
    lay_keys<A>(h, s.keys);
    lay_values<A>(h, s.values);
    long first = 0;
    for (; first + kTileRows <= h.queries; first += kTileRows) attend_rows<A, kTileRows>(h, s, first, out);
    switch (h.queries - first) {
        case 5: return attend_rows<A, 5>(h, s, first, out);
        case 4: return attend_rows<A, 4>(h, s, first, out);
        case 3: return attend_rows<A, 3>(h, s, first, out);
        case 2: return attend_rows<A, 2>(h, s, first, out);
        case 1: return attend_rows<A, 1>(h, s, first, out);
    }
}

}  // namespace
}  // namespace bertd::BERTD_ISA
