// What each instruction set provides.
#pragma once

#include "interface.h"

namespace ellm {

using Run = void (*)(const ellm_op &);

#if defined(__x86_64__)
namespace avx512bf16 {
void run_one(const ellm_op &);
}
namespace avx512 {
void run_one(const ellm_op &);
}
namespace avx2 {
void run_one(const ellm_op &);
}
#endif
namespace portable {
void run_one(const ellm_op &);
}

}  // namespace ellm
