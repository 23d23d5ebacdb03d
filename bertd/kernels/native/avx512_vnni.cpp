#define BERTD_ISA avx512_vnni
#include "layer.h"
