// Matrix products against weights in panels: one loop for fp32, bf16 and int8.
//
// A panel holds 64 columns; each of its steps holds four bytes of every column, so a step is one
// fp32, two bf16 or four int8 values of the inner dimension and the loop never cares which. A tile
// of 6 rows x 64 columns stays in 24 vector registers for the whole inner dimension.
//
// Method: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication".
#pragma once
#include "simd.h"

namespace bertd::BERTD_ISA {
namespace {

constexpr int kPanel = 64;                      // columns
constexpr int kStep = 4;                        // bytes of a column in one step
constexpr int kVectorsOfPanel = kPanel / kLanes;
constexpr int kTileRows = 6;
#if defined(__AVX512F__)
constexpr int kTileVectors = 4;  // 24 accumulators, 4 weights and 1 broadcast of 32 registers
#else
constexpr int kTileVectors = 1;  // two 8-lane halves each: 12 accumulators of 16 registers
#endif

BERTD_INLINE long padded(long columns) { return (columns + kPanel - 1) / kPanel * kPanel; }

// How one step of four bytes is multiplied and added up.

struct Fp32 {
    using Sum = F;
    static constexpr int kElements = 1;
    static BERTD_INLINE F dot(F sum, uint32_t a, I w) {
        float x;
        memcpy(&x, &a, sizeof x);
        return fused(all(x), (F)w, sum);
    }
};

struct Bf16 {
    using Sum = F;
    static constexpr int kElements = 2;
    static BERTD_INLINE F dot(F sum, uint32_t a, I w) {
#if defined(__AVX512BF16__)
        return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)w);
#else
        const uint32_t low = a << 16, high = a & 0xffff0000u;
        float x, y;
        memcpy(&x, &low, sizeof x);
        memcpy(&y, &high, sizeof y);
        return fused(all(y), (F)((U)w & 0xffff0000u), fused(all(x), (F)((U)w << 16), sum));
#endif
    }
};

struct Int8 {  // unsigned activations, signed weights
    using Sum = I;
    static constexpr int kElements = 4;
    static BERTD_INLINE I dot(I sum, uint32_t a, I w) {
#if defined(__AVX512VNNI__)
        return (I)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(a), (__m512i)w);
#elif defined(__AVX512BW__)
        const __m512i even = _mm512_set1_epi32(a & 0x00ff00ffu), odd = _mm512_set1_epi32(a >> 8 & 0x00ff00ffu);
        const __m512i w_even = _mm512_srai_epi16(_mm512_slli_epi16((__m512i)w, 8), 8);
        const __m512i w_odd = _mm512_srai_epi16((__m512i)w, 8);
        return sum + (I)_mm512_madd_epi16(even, w_even) + (I)_mm512_madd_epi16(odd, w_odd);
#elif defined(__AVX2__)
        const __m256i even = _mm256_set1_epi32(a & 0x00ff00ffu), odd = _mm256_set1_epi32(a >> 8 & 0x00ff00ffu);
        __m256i halves[2];
        memcpy(halves, &w, sizeof w);
        for (__m256i& half : halves) {
            const __m256i w_even = _mm256_srai_epi16(_mm256_slli_epi16(half, 8), 8);
            const __m256i w_odd = _mm256_srai_epi16(half, 8);
            half = _mm256_add_epi32(_mm256_madd_epi16(even, w_even), _mm256_madd_epi16(odd, w_odd));
        }
        I products;
        memcpy(&products, halves, sizeof products);
        return sum + products;
#else
        for (int k = 0; k < 4; ++k)
            sum += (int32_t)(a >> 8 * k & 0xff) * ((I)((U)w << (24 - 8 * k)) >> 24);
        return sum;
#endif
    }
};

// sums[r][v] = the products of `Rows` rows with `Vectors` * 16 columns, over all `steps`.
template <class P, int Rows, int Vectors>
BERTD_INLINE void tile(const uint8_t* a, long a_stride, const uint8_t* w, long w_stride, long steps,
                       typename P::Sum (&sums)[Rows][Vectors]) {
    for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < Vectors; ++v) sums[r][v] = typename P::Sum{};
    for (long step = 0; step < steps; ++step) {
        I weights[Vectors];
        for (int v = 0; v < Vectors; ++v) weights[v] = load<I>(w + step * w_stride + v * 64);
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
            uint32_t x;
            memcpy(&x, a + r * a_stride + step * kStep, kStep);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) sums[r][v] = P::dot(sums[r][v], x, weights[v]);
        }
    }
}

// Rows of activations in the form that a product reads.
struct Operand {
    const uint8_t* data;
    long stride;        // bytes from row to row
    const float* scale;  // int8: of each row
    const float* zero;   // int8: the level of each row that stands for 0
};

struct Weight {
    const uint8_t* panels;
    const float* scale;
    const float* total;
    long steps;
};

template <class P>
BERTD_INLINE F value(typename P::Sum sum, const Operand& a, const Weight& w, long row, long column) {
    if constexpr (P::kElements == 4) {
        const F scale = load<F>(w.scale + column), total = load<F>(w.total + column);
        return fused(total, all(-a.zero[row]), __builtin_convertvector(sum, F)) * (scale * a.scale[row]);
    } else {
        return sum;
    }
}

// `rows` tells `out` every value: out(row, column, sixteen values from that column on).
template <class P, int Rows, class Out>
BERTD_INLINE void rows_of_panel(const Operand& a, const Weight& w, long row, long panel, Out& out) {
    const uint8_t* const weights = w.panels + panel * w.steps * kPanel * kStep;
    for (int first = 0; first < kVectorsOfPanel; first += kTileVectors) {
        typename P::Sum sums[Rows][kTileVectors];
        tile<P, Rows, kTileVectors>(a.data + row * a.stride, a.stride, weights + first * 64,
                                    kPanel * kStep, w.steps, sums);
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kTileVectors; ++v) {
                const long column = panel * kPanel + (first + v) * kLanes;
                out(row + r, column, value<P>(sums[r][v], a, w, row + r, column));
            }
    }
}

// One panel's columns for rows [0, rows).
template <class P, class Out>
void panel_product(const Operand& a, const Weight& w, long rows, long panel, Out& out) {
    long row = 0;
    for (; row + kTileRows <= rows; row += kTileRows) rows_of_panel<P, kTileRows>(a, w, row, panel, out);
    switch (rows - row) {
        case 5: return rows_of_panel<P, 5>(a, w, row, panel, out);
        case 4: return rows_of_panel<P, 4>(a, w, row, panel, out);
        case 3: return rows_of_panel<P, 3>(a, w, row, panel, out);
        case 2: return rows_of_panel<P, 2>(a, w, row, panel, out);
        case 1: return rows_of_panel<P, 1>(a, w, row, panel, out);
    }
}

}  // namespace
}  // namespace bertd::BERTD_ISA
