// What multiplies whole blocks of numbers at once, in cores that have such a thing.
#pragma once

#include "numbers.h"

namespace ellm {
namespace ELLM_LEVEL {

// Whoever multiplies in a task holds one until the task has ended.  Most levels have none.
template <class T>
struct MatrixUnit {
  static constexpr bool kPresent = false;
};

}  // namespace ELLM_LEVEL
}  // namespace ellm

#if defined(ELLM_AMX)
#include "amx.h"
#endif
