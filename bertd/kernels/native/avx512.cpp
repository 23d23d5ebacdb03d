#define BERTD_ISA avx512
#include "layer.h"
