// The one function that every instruction set offers.
#pragma once
#include "abi.h"
#include "team.h"

namespace bertd {

constexpr int kMaxMembers = 64;  // of a team

struct Kernels {
    // Runs `count` layers over x_TD in place, with `memory` as scratch, 64-byte aligned. Without
    // memory it computes nothing and returns how many bytes of it a call like this wants.
    long (*run)(const BertdEncoder&, const BertdLayer* layers, int count, const BertdBatch&,
                float* x_TD, Team*, uint8_t* memory);
};

}  // namespace bertd
