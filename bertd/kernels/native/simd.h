// Sixteen floats at a time, written once for every instruction set.
//
// GCC and Clang lower these vector types to whatever the flags of the including file allow; only
// what plain C++ cannot say (rounding conversions, dot products) is spelled out per instruction set.
// Everything lives in a namespace of the including file, without templates of the standard library:
// the linker must never hand one file's AVX-512 code to another file that runs on any CPU.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BERTD_INLINE inline __attribute__((always_inline))

namespace bertd::BERTD_ISA {
namespace {

constexpr int kLanes = 16;

typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));  // bf16 values
typedef uint8_t B __attribute__((vector_size(16)));

template <class V>
BERTD_INLINE V load(const void* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
BERTD_INLINE void store(void* to, V v) {
    memcpy(to, &v, sizeof v);
}

BERTD_INLINE F all(float x) { return F{} + x; }

// a * b + c, rounded once. The compiler is told to fuse nothing of its own accord (-ffp-contract=off):
// it would do so here and not there, and a row's answer would depend on where it lies in a batch.
BERTD_INLINE F fused(F a, F b, F c) {
#if defined(__AVX512F__)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    __m256 x[2], y[2], z[2];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b), memcpy(z, &c, sizeof c);
    for (int i = 0; i < 2; ++i) z[i] = _mm256_fmadd_ps(x[i], y[i], z[i]);
    memcpy(&c, z, sizeof c);
    return c;
#elif defined(__ARM_FEATURE_FMA)
    for (int i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}
BERTD_INLINE F larger(F a, F b) { return a > b ? a : b; }
BERTD_INLINE F smaller(F a, F b) { return a < b ? a : b; }

// The first `count` lanes of an array, zeros behind; never reads beyond.
BERTD_INLINE F load_some(const float* from, long count) {
    if (count >= kLanes) return load<F>(from);
    F v{};
    if (count > 0) memcpy(&v, from, count * sizeof(float));
    return v;
}

BERTD_INLINE F from_bf16(H h) { return (F)(__builtin_convertvector(h, U) << 16); }

BERTD_INLINE F load_some(const uint16_t* from, long count) {
    if (count >= kLanes) return from_bf16(load<H>(from));
    H h{};
    if (count > 0) memcpy(&h, from, count * sizeof(uint16_t));
    return from_bf16(h);
}

// Lanes from `count` on become `fill`.
BERTD_INLINE F keep(F v, long count, float fill = 0) {
    if (count >= kLanes) return v;
    const I lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lane < (int)count ? v : all(fill);
}

BERTD_INLINE void store_some(float* to, F v, long count) {
    if (count >= kLanes) return store(to, v);
    if (count > 0) memcpy(to, &v, count * sizeof(float));
}

BERTD_INLINE float sum(F v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0;
    for (int i = 0; i < kLanes; ++i) total += v[i];
    return total;
#endif
}

BERTD_INLINE float largest(F v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float most = v[0];
    for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

BERTD_INLINE float smallest(F v) { return -largest(-v); }

// 1 / v to the last bit or two, for v that are neither tiny nor huge.
BERTD_INLINE F reciprocal(F v) {
#if defined(__AVX512F__)
    const F guess = (F)_mm512_rcp14_ps((__m512)v);
    return guess * fused(-v, guess, all(2.0f));
#else
    return 1.0f / v;
#endif
}

// To the nearest integer, halves to even.
BERTD_INLINE I nearest(F v) {
#if defined(__AVX512F__)
    return (I)_mm512_cvtps_epi32((__m512)v);
#else
    const F magic = all(12582912.0f);  // 1.5 * 2^23: adding it leaves the integer in the mantissa
    return (I)(v + magic) - (I)magic;
#endif
}

BERTD_INLINE H to_bf16(F v) {
#if defined(__AVX512BF16__)
    return (H)_mm512_cvtneps_pbh((__m512)v);
#else
    const U u = (U)v;
    return __builtin_convertvector((u + 0x7fff + (u >> 16 & 1)) >> 16, H);
#endif
}

BERTD_INLINE B to_bytes(I v) {  // values must lie in [0, 255]
#if defined(__AVX512F__)
    return (B)_mm512_cvtepi32_epi8((__m512i)v);
#else
    return __builtin_convertvector(v, B);
#endif
}

#if defined(__clang__)
#define BERTD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BERTD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, U{__VA_ARGS__})
#endif

constexpr int kRotated = 8;  // vectors that are rotated together

// 128 values times the orthonormal Hadamard matrix: the same turn that `layout.rotate` gives to
// weights. Fast Walsh-Hadamard transform: three steps between vectors, four between lanes.
BERTD_INLINE void rotate(F (&v)[kRotated]) {
#pragma GCC unroll 3
    for (int step = 1; step < kRotated; step *= 2)
#pragma GCC unroll 8
        for (int i = 0; i < kRotated; ++i)
            if ((i & step) == 0) {
                const F a = v[i], b = v[i + step];
                v[i] = a + b, v[i + step] = a - b;
            }
    const F sign1{1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
    const F sign2{1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
    const F sign4{1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
    const F sign8{1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
    for (F& x : v) {
        x = fused(x, sign1, BERTD_SHUFFLE(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
        x = fused(x, sign2, BERTD_SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
        x = fused(x, sign4, BERTD_SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
        x = fused(x, sign8, BERTD_SHUFFLE(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
        x = x * 0.0883883476f;  // 1 / sqrt(128)
    }
}

// e^x for x <= 0 with relative error below 3e-7; 0 far below the smallest normal float.
BERTD_INLINE F exp_negative(F x) {
    x = larger(x, all(-87.0f));
    const I n = nearest(x * 1.44269504f);
    const F whole = __builtin_convertvector(n, F);
    const F r = fused(whole, all(-1.42860677e-6f), fused(whole, all(-0.693145752f), x));  // ln 2 in two
    F p = all(1.0f / 720);
    p = fused(p, r, all(1.0f / 120));
    p = fused(p, r, all(1.0f / 24));
    p = fused(p, r, all(1.0f / 6));
    p = fused(p, r, all(0.5f));
    p = fused(p, r, all(1.0f));
    p = fused(p, r, all(1.0f));
    return p * (F)((n + 127) << 23);
}

// The error function to 4e-7: x P(x^2)/Q(x^2) on [-3.9, 3.9], fitted by weighted least squares.
BERTD_INLINE F erf(F x) {
    x = smaller(larger(x, all(-3.9f)), all(3.9f));
    const F z = x * x;
    F p = all(2.06647155e-06f);
    p = fused(p, z, all(2.85062415e-04f));
    p = fused(p, z, all(3.73835582e-03f));
    p = fused(p, z, all(5.26681095e-02f));
    p = fused(p, z, all(1.89667046e-01f));
    p = fused(p, z, all(1.12837911e+00f));
    F q = all(3.82700127e-05f);
    q = fused(q, z, all(1.15737855e-03f));
    q = fused(q, z, all(1.49142956e-02f));
    q = fused(q, z, all(1.13819048e-01f));
    q = fused(q, z, all(5.01420796e-01f));
    q = fused(q, z, all(1.0f));
    return x * p * reciprocal(q);
}

BERTD_INLINE F tanh_of(F x) {
    const F e = exp_negative(-2.0f * larger(x, -x));
    const F t = (1.0f - e) * reciprocal(1.0f + e);
    return x < 0.0f ? -t : t;
}

// Far below zero the error function's own error would be multiplied by x: there x counts as -6.
BERTD_INLINE F gelu(F x) { return 0.5f * larger(x, all(-6.0f)) * (1.0f + erf(x * 0.707106781f)); }

BERTD_INLINE F gelu_tanh(F x) {
    return 0.5f * x * (1.0f + tanh_of(0.797884561f * (x + 0.044715f * x * x * x)));
}

BERTD_INLINE F relu(F x) { return larger(x, F{}); }

}  // namespace
}  // namespace bertd::BERTD_ISA
