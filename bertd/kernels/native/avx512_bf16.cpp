#define BERTD_ISA avx512_bf16
#include "layer.h"
