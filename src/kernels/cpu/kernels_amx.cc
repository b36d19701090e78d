#define FATHOM_ISA amx
#include "kernels/cpu/isa_kernels.h"
