#define FATHOM_ISA avx2
#include "kernels/cpu/isa_kernels.h"
