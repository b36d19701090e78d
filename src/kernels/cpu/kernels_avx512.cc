#define FATHOM_ISA avx512
#include "kernels/cpu/isa_kernels.h"
