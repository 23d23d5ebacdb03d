// The library's entrances: which kernels this processor has, and running layers with them.
#include <cstdlib>
#include <cstring>

#include "abi.h"
#include "kernels.h"
#include "team.h"

#define BERTD_API extern "C" __attribute__((visibility("default")))

namespace bertd {

namespace portable { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512_vnni { extern const Kernels kernels; }
namespace avx512_bf16 { extern const Kernels kernels; }
#endif

namespace {

struct Isa {
    const char* name;
    const Kernels* kernels;
    bool here;
};

// Best first.
const Isa* isas() {
    static const Isa all[] = {
#if defined(__x86_64__)
#define BERTD_HAS(feature) (__builtin_cpu_supports(feature) != 0)
#define BERTD_HAS_AVX512 (BERTD_HAS("avx512bw") && BERTD_HAS("avx512vl") && BERTD_HAS("avx512dq"))
        {"avx512-bf16", &avx512_bf16::kernels,
         BERTD_HAS("avx512bf16") && BERTD_HAS("avx512vnni") && BERTD_HAS_AVX512},
        {"avx512-vnni", &avx512_vnni::kernels, BERTD_HAS("avx512vnni") && BERTD_HAS_AVX512},
        {"avx512", &avx512::kernels, BERTD_HAS_AVX512},
        {"avx2", &avx2::kernels, BERTD_HAS("avx2") && BERTD_HAS("fma")},
#endif
        {"portable", &portable::kernels, true},
        {nullptr, nullptr, false},
    };
    return all;
}

const Isa* find(const char* name) {
    for (const Isa* isa = isas(); isa->name != nullptr; ++isa)
        if (isa->here && std::strcmp(isa->name, name) == 0) return isa;
    return nullptr;
}

// bf16 dot products eat pairs, so attention heads of odd width take the next best kernels.
const Kernels* kernels_for(const char* name, const BertdEncoder& encoder) {
    const Isa* isa = find(name);
    if (isa == nullptr) return nullptr;
    const bool odd = encoder.hidden / encoder.heads % 2 == 1;
    return (odd && std::strcmp(isa->name, "avx512-bf16") == 0 ? isa + 1 : isa)->kernels;
}

// A thread's scratch memory: kept from call to call, so that no call pays for fresh pages.
struct Scratch {
    uint8_t* memory = nullptr;
    long bytes = 0;

    uint8_t* at_least(long wanted) {
        if (wanted <= bytes) return memory;
        std::free(memory);
        bytes = (wanted + 4095) / 4096 * 4096;
        memory = static_cast<uint8_t*>(std::aligned_alloc(4096, bytes));
        if (memory == nullptr) bytes = 0;
        return memory;
    }

    ~Scratch() { std::free(memory); }
};

thread_local Scratch scratch;

}  // namespace
}  // namespace bertd

// What a caller must agree with: BERTD_ABI for n = 0, then the bytes of each structure.
BERTD_API int bertd_abi(int n) {
    constexpr int facts[] = {BERTD_ABI, sizeof(BertdLinear), sizeof(BertdLayer), sizeof(BertdEncoder),
                             sizeof(BertdBatch)};
    return facts[n];
}

// The name of the n-th best instruction set that this processor has, or null.
BERTD_API const char* bertd_isa(int n) {
    for (const bertd::Isa* isa = bertd::isas(); isa->name != nullptr; ++isa)
        if (isa->here && n-- == 0) return isa->name;
    return nullptr;
}

// Runs `count` layers over x_TD [T, D] in place, on up to `threads` threads.
// Returns 0; 1 for an instruction set that is not here; 2 when memory is short.
BERTD_API int bertd_run(const char* isa, const BertdEncoder* encoder, const BertdLayer* layers, int count,
                        const BertdBatch* batch, float* x_TD, int threads) {
    const bertd::Kernels* const kernels = bertd::kernels_for(isa, *encoder);
    if (kernels == nullptr) return 1;
    bertd::Team* const team = bertd::open_team(threads < bertd::kMaxMembers ? threads : bertd::kMaxMembers);
    const long bytes = kernels->run(*encoder, layers, count, *batch, x_TD, team, nullptr);
    uint8_t* const memory = bertd::scratch.at_least(bytes);
    if (memory != nullptr) kernels->run(*encoder, layers, count, *batch, x_TD, team, memory);
    bertd::close_team(team);
    return memory == nullptr ? 2 : 0;
}
