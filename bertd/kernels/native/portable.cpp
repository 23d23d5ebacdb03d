#define BERTD_ISA portable
#include "layer.h"
