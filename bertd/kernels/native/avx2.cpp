#define BERTD_ISA avx2
#include "layer.h"
