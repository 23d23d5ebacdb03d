// What crosses from Python into the library: plain structures of raw pointers, nothing owned.
//
// Matrices are row-major. Shapes: T tokens of all rows, D hidden, F ffn, B rows of the batch.
// `bertd/kernels/native.py` mirrors these structures field by field, and refuses a library that was
// built from others: `bertd_abi` tells it the sizes and this number.
#pragma once
#include <cstdint>

extern "C" {

// Goes up when a value of a structure, or a byte of a weight, comes to mean something else.
constexpr int BERTD_ABI = 1;

enum BertdPrecision : int32_t { BERTD_FP32 = 0, BERTD_BF16 = 1, BERTD_INT8 = 2 };
enum BertdActivation : int32_t { BERTD_GELU = 0, BERTD_GELU_TANH = 1, BERTD_RELU = 2 };

// One linear weight in the layout of `bertd/kernels/layout.py`; scale and total only for int8.
struct BertdLinear {
    const void* panels;
    const float* scale;
    const float* total;
};

struct BertdLayer {
    BertdLinear qkv;     // [3D, D]
    BertdLinear output;  // [D, D]
    BertdLinear up;      // [F, D]
    BertdLinear down;    // [D, F]
    const float* attention_gain;
    const float* ffn_gain;
};

struct BertdEncoder {
    int32_t hidden;
    int32_t heads;
    int32_t ffn;
    BertdActivation activation;
    BertdPrecision precision;
    float norm_eps;
    const float* relative;  // [heads, relative_tokens, relative_tokens], or null
    int64_t relative_tokens;
};

// Rows end to end, and where each finds its folded biases: element
// slots[b] * slot_stride + layer * layer_stride of `biases`, laid out query D, output D, up F, down D.
struct BertdBatch {
    int32_t rows;
    const int32_t* lengths;
    const int32_t* slots;
    const void* biases;
    int32_t biases_are_bf16;
    int64_t slot_stride;
    int64_t layer_stride;
    int32_t first_only;  // whether only each row's first token is read after the last layer
};

}  // extern "C"
