// One encoder layer over packed rows, with folded biases; and the loop over layers.
//
// The residual stream stays fp32. Rows run in groups whose activations stay in the second-level
// cache while a layer's weights pass by; nothing in here depends on who else is in the batch.
#pragma once
#include "abi.h"
#include "attention.h"
#include "kernels.h"
#include "team.h"

namespace bertd::BERTD_ISA {
namespace {

constexpr long kGroupTokens = 96;  // of whole rows; a longer row is a group of its own
constexpr long kBlockTokens = 48;  // of a group, for the wide activations of the feed-forward part
constexpr int kTokensOfPiece = 8;  // what a member of a team claims at once

template <class Work>
BERTD_INLINE void in_pieces(Team* team, long pieces, Work work) {
    run_pieces(
        team, (int)pieces, [](void* w, int piece, int member) { (*(Work*)w)(piece, member); }, &work);
}

// A piece of the scratch memory that begins at `address`, and 64 bytes behind it: vectors may be read
// beyond the last value of a row.
template <class T>
BERTD_INLINE T* carve(uintptr_t& address, long count) {
    T* const carved = (T*)address;
    address += (count * (long)sizeof(T) + 63) / 64 * 64 + 64;
    return carved;
}

struct Rows {  // int8: with the scale and the zero point of every token
    uint8_t* data;
    float* scale;
    float* zero;
};

template <class P, class A>
class Forward {
   public:
    Forward(const BertdEncoder& e, const BertdBatch& batch, Team* team, long longest, uintptr_t memory)
        : e_(e), batch_(batch), team_(team), d_(e.hidden), f_(e.ffn), dp_(padded(d_)), fp_(padded(f_)),
          qkv_stride_(padded(3 * d_) * A::kBytes) {
        const long group = longest > kGroupTokens ? longest : kGroupTokens;
        operand_ = {carve<uint8_t>(memory, group * dp_ * 4), carve<float>(memory, group),
                    carve<float>(memory, group)};
        wide_operand_ = {carve<uint8_t>(memory, kBlockTokens * fp_), carve<float>(memory, kBlockTokens),
                         carve<float>(memory, kBlockTokens)};
        qkv_ = carve<uint8_t>(memory, group * qkv_stride_);
        context_ = carve<float>(memory, group * dp_);
        wide_ = carve<float>(memory, kBlockTokens * fp_);
        kept_ = carve<float>(memory, batch.first_only ? group * d_ : 0);
        bias_ = carve<const void*>(memory, group);
        place_ = carve<long>(memory, group);
        head_width_ = d_ / e.heads;
        const long width = whole_vectors(longest), columns = whole_vectors(head_width_);
        for (int i = 0; i < team_size(team); ++i) {
            rotated_[i] = carve<float>(memory, dp_ > fp_ ? dp_ : fp_);
            heads_[i] = {carve<uint8_t>(memory, head_width_ * A::kBytes * width),
                         carve<uint8_t>(memory, (longest + 1) * columns * A::kBytes),
                         carve<float>(memory, kTileRows * width),
                         carve<uint8_t>(memory, kTileRows * width * 4)};
        }
        end_ = memory;
    }

    // Where its scratch memory ends.
    uintptr_t end() const { return end_; }

    void run(const BertdLayer& layer, long index, float* x_TD, bool last) {
        trims_ = last && batch_.first_only;
        long token = 0;
        for (int row = 0; row < batch_.rows;) {
            const int first = row;
            long tokens = 0;
            while (row < batch_.rows &&
                   (tokens == 0 || tokens + batch_.lengths[row] <= kGroupTokens))
                tokens += batch_.lengths[row++];
            run_group(layer, index, x_TD + token * d_, first, row);
            token += tokens;
        }
    }

   private:
    void run_group(const BertdLayer& layer, long index, float* x, int first, int stop) {
        long tokens = find_biases(index, first, stop);
        over_tokens(tokens, [&](long t, int member) { operand_of(x + t * d_, t, member); });
        query_key_value(layer.qkv, tokens);
        attention(first, stop);
        float* const hidden = trims_ ? kept_ : x;
        if (trims_) tokens = keep_first_tokens(x, first, stop);
        over_tokens(tokens, [&](long t, int member) {
            operand_of(context_ + (trims_ ? place_[t] : t) * dp_, t, member);
        });
        add_product(operand_, dp_, layer.output, d_, hidden, d_, tokens, bias_);
        over_tokens(tokens, [&](long t, int member) {
            norm(hidden + t * d_, layer.attention_gain);
            operand_of(hidden + t * d_, t, member);
        });
        for (long t = 0; t < tokens; t += kBlockTokens) {
            const long block = tokens - t < kBlockTokens ? tokens - t : kBlockTokens;
            feed_forward(layer, hidden + t * d_, t, block);
        }
        if (trims_)
            for (long t = 0; t < tokens; ++t) memcpy(x + place_[t] * d_, kept_ + t * d_, d_ * sizeof(float));
    }

    // Moves the first token of each row to the front, and says how many they are.
    long keep_first_tokens(const float* x, int first, int stop) {
        long token = 0;
        for (int row = first; row < stop; token += batch_.lengths[row++]) {
            const long kept = row - first;
            place_[kept] = token;
            bias_[kept] = bias_[token];
            memcpy(kept_ + kept * d_, x + token * d_, d_ * sizeof(float));
        }
        return stop - first;
    }

    // Where each token of rows [first, stop) finds its layer's folded biases; returns how many they are.
    long find_biases(long index, int first, int stop) {
        const long size = batch_.biases_are_bf16 ? 2 : 4;
        long token = 0;
        for (int row = first; row < stop; ++row) {
            const long element = batch_.slots[row] * batch_.slot_stride + index * batch_.layer_stride;
            const void* const biases = (const uint8_t*)batch_.biases + element * size;
            for (int i = 0; i < batch_.lengths[row]; ++i) bias_[token++] = biases;
        }
        return token;
    }

    BERTD_INLINE F bias(const void* const* of_tokens, long token, long offset, long count) const {
        return batch_.biases_are_bf16 ? load_some((const uint16_t*)of_tokens[token] + offset, count)
                                      : load_some((const float*)of_tokens[token] + offset, count);
    }

    template <class Work>
    BERTD_INLINE void over_tokens(long tokens, Work work) {
        in_pieces(team_, (tokens + kTokensOfPiece - 1) / kTokensOfPiece, [&](int piece, int member) {
            const long first = piece * kTokensOfPiece, stop = first + kTokensOfPiece;
            for (long t = first; t < stop && t < tokens; ++t) work(t, member);
        });
    }

    // out(row, column, values) for every value of a product, panel by panel.
    template <class Out>
    BERTD_INLINE void product_of(const Rows& rows, long stride, const BertdLinear& linear, long n, long k,
                                 long tokens, Out out) {
        const Operand a{rows.data, stride, rows.scale, rows.zero};
        const Weight w{(const uint8_t*)linear.panels, linear.scale, linear.total,
                       (k + P::kElements - 1) / P::kElements};
        in_pieces(team_, padded(n) / kPanel,
                  [&](int panel, int) { panel_product<P>(a, w, tokens, panel, out); });
    }

    static constexpr long kOperandBytes = 4 / P::kElements;  // of one value

    void query_key_value(const BertdLinear& linear, long tokens) {
        product_of(operand_, dp_ * kOperandBytes, linear, 3 * d_, d_, tokens,
                   [&](long t, long column, F v) {
                       if (column < d_) v += bias(bias_, t, column, d_ - column);
                       A::put(qkv_ + t * qkv_stride_ + column * A::kBytes, v);
                   });
    }

    void attention(int first, int stop) {
        in_pieces(team_, (long)(stop - first) * e_.heads, [&](int piece, int member) {
            const int row = first + piece / e_.heads, head = piece % e_.heads;
            long token = 0;
            for (int r = first; r < row; ++r) token += batch_.lengths[r];
            const uint8_t* const query = qkv_ + token * qkv_stride_ + head * head_width_ * A::kBytes;
            const long tokens = batch_.lengths[row];
            const Head h{query, query + d_ * A::kBytes, query + 2 * d_ * A::kBytes, qkv_stride_,
                         tokens, trims_ ? 1 : tokens, head_width_, relative_of(head), e_.relative_tokens};
            attend<A>(h, heads_[member], [&](long t, long column, F v) {
                store_some(context_ + (token + t) * dp_ + head * head_width_ + column, v,
                           head_width_ - column);
            });
        });
    }

    const float* relative_of(int head) const {
        if (e_.relative == nullptr) return nullptr;
        return e_.relative + head * e_.relative_tokens * e_.relative_tokens;
    }

    // x += product + bias, where `offset` says which biases.
    void add_product(const Rows& rows, long width, const BertdLinear& linear, long k, float* x, long offset,
                     long tokens, const void* const* bias_of) {
        product_of(rows, width * kOperandBytes, linear, d_, k, tokens, [&](long t, long column, F v) {
            const long count = d_ - column;
            float* const at = x + t * d_ + column;
            store_some(at, v + bias(bias_of, t, offset + column, count) + load_some(at, count), count);
        });
    }

    void feed_forward(const BertdLayer& layer, float* x, long first, long tokens) {
        const Rows rows{operand_.data + first * dp_ * kOperandBytes, operand_.scale + first,
                        operand_.zero + first};
        const void* const* const bias_of = bias_ + first;
        product_of(rows, dp_ * kOperandBytes, layer.up, f_, d_, tokens, [&](long t, long column, F v) {
            v = activate(v + bias(bias_of, t, 2 * d_ + column, f_ - column));
            if constexpr (P::kElements == 2)
                store((uint16_t*)wide_ + t * fp_ + column, to_bf16(v));
            else
                store(wide_ + t * fp_ + column, v);
        });
        Rows wide{(uint8_t*)wide_, nullptr, nullptr};
        if constexpr (P::kElements == 4) {
            wide = wide_operand_;
            over_tokens(tokens, [&](long t, int member) {
                quantise(wide_ + t * fp_, f_, member, wide.data + t * fp_, wide.scale[t], wide.zero[t]);
            });
        }
        add_product(wide, fp_, layer.down, f_, x, 2 * d_ + f_, tokens, bias_of);
        over_tokens(tokens, [&](long t, int) { norm(x + t * d_, layer.ffn_gain); });
    }

    BERTD_INLINE F activate(F v) const {
        if (e_.activation == BERTD_GELU) return gelu(v);
        return e_.activation == BERTD_RELU ? relu(v) : gelu_tanh(v);
    }

    // One token's fp32 values as the next product wants them.
    BERTD_INLINE void operand_of(const float* x, long token, int member) {
        uint8_t* const to = operand_.data + token * dp_ * kOperandBytes;
        if constexpr (P::kElements == 4)
            return quantise(x, d_, member, to, operand_.scale[token], operand_.zero[token]);
        for (long i = 0; i < d_; i += kLanes) {
            const F v = load_some(x + i, d_ - i);
            if constexpr (P::kElements == 2)
                store(to + i * 2, to_bf16(v));
            else
                store(to + i * 4, v);
        }
    }

    // Rotated, then asymmetric to [0, 255], with a scale and zero point of this token alone.
    BERTD_INLINE void quantise(const float* x, long count, int member, uint8_t* to, float& scale,
                               float& zero) {
        float* const rotated = rotated_[member];
        F low{}, high{};
        long i = 0;
        for (; i + kRotated * kLanes <= count; i += kRotated * kLanes) {
            F v[kRotated];
            for (int k = 0; k < kRotated; ++k) v[k] = load<F>(x + i + k * kLanes);
            rotate(v);
            for (int k = 0; k < kRotated; ++k) {
                low = smaller(low, v[k]);
                high = larger(high, v[k]);
                store(rotated + i + k * kLanes, v[k]);
            }
        }
        for (; i < count; i += kLanes) {
            const F v = load_some(x + i, count - i);
            low = smaller(low, v);
            high = larger(high, v);
            store(rotated + i, v);
        }
        const float least = smallest(low), range = largest(high) - least;
        scale = range / 255 > 0 ? range / 255 : 1.0f;
        zero = __builtin_rintf(-least / scale);
        const float inverse = 1.0f / scale;
        for (i = 0; i < count; i += kLanes) {
            const F v = fused(load<F>(rotated + i), all(inverse), all(zero));
            store(to + i, to_bytes(nearest(smaller(larger(v, F{}), all(255.0f)))));
        }
    }

    // LayerNorm without bias, in place; two passes, as the reference does.
    BERTD_INLINE void norm(float* x, const float* gain) const {
        F total{};
        for (long i = 0; i < d_; i += kLanes) total += load_some(x + i, d_ - i);
        const float mean = sum(total) / d_;
        F squares{};
        for (long i = 0; i < d_; i += kLanes) {
            const F v = keep(load_some(x + i, d_ - i) - mean, d_ - i);
            squares = fused(v, v, squares);
        }
        const float factor = 1.0f / __builtin_sqrtf(sum(squares) / d_ + e_.norm_eps);
        for (long i = 0; i < d_; i += kLanes) {
            const F v = (load_some(x + i, d_ - i) - mean) * factor;
            store_some(x + i, v * load_some(gain + i, d_ - i), d_ - i);
        }
    }

    const BertdEncoder& e_;
    const BertdBatch& batch_;
    Team* team_;
    long d_, f_, dp_, fp_, qkv_stride_, head_width_;
    Rows operand_, wide_operand_;
    uint8_t* qkv_;
    float *context_, *wide_;
    float* kept_;        // hidden states of the tokens that go on, in a layer that trims
    const void** bias_;  // of each token that goes on
    long* place_;        // of each token that goes on, within its group
    bool trims_ = false;
    float* rotated_[kMaxMembers];
    HeadScratch heads_[kMaxMembers];
    uintptr_t end_;
};

// What attention inside bf16 and int8 layers computes with.
#if defined(__AVX512BF16__)
using HalfValues = Bf16Values;
#else
using HalfValues = FloatValues;
#endif

long longest_of(const BertdBatch& batch) {
    long longest = 0;
    for (int row = 0; row < batch.rows; ++row)
        longest = batch.lengths[row] > longest ? batch.lengths[row] : longest;
    return longest;
}

template <class P, class A>
long run_with(const BertdEncoder& e, const BertdLayer* layers, int count, const BertdBatch& batch,
              float* x_TD, Team* team, uint8_t* memory) {
    Forward<P, A> forward(e, batch, team, longest_of(batch), (uintptr_t)memory);
    if (memory == nullptr) return (long)forward.end();
    for (int i = 0; i < count; ++i) forward.run(layers[i], i, x_TD, i + 1 == count);
    return 0;
}

// Runs `count` layers in place; without memory it only says how many bytes it wants.
long run(const BertdEncoder& e, const BertdLayer* layers, int count, const BertdBatch& batch,
         float* x_TD, Team* team, uint8_t* memory) {
    switch (e.precision) {
        case BERTD_FP32: return run_with<Fp32, FloatValues>(e, layers, count, batch, x_TD, team, memory);
        case BERTD_BF16: return run_with<Bf16, HalfValues>(e, layers, count, batch, x_TD, team, memory);
        case BERTD_INT8: return run_with<Int8, HalfValues>(e, layers, count, batch, x_TD, team, memory);
    }
    return -1;
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels{run};

}  // namespace bertd::BERTD_ISA
