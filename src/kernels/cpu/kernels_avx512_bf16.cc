#define FATHOM_ISA avx512_bf16
#include "kernels/cpu/isa_kernels.h"
