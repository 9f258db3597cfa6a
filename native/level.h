// What each instruction set provides, and which of them this machine can run.
#pragma once

#include <string>
#include <vector>

#include "interface.h"

namespace ellm {

using Run = void (*)(const ellm_op &);

namespace amx {
void run_one(const ellm_op &);
}
namespace amx_model {
void run_one(const ellm_op &);
}
namespace avx512bf16 {
void run_one(const ellm_op &);
}
namespace avx512 {
void run_one(const ellm_op &);
}
namespace avx2 {
void run_one(const ellm_op &);
}
namespace portable {
void run_one(const ellm_op &);
}

struct Level {
  std::string name;
  Run run;
};

// Those of this library that this machine can run, best first.
const std::vector<Level> &levels();

}  // namespace ellm
