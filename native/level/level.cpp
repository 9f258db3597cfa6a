// All kernels for one instruction set; compiled once for each, as ELLM_LEVEL.
#include "../level.h"

#include "attention.h"
#include "linear.h"
#include "logits.h"
#include "rows.h"

namespace ellm {
namespace ELLM_LEVEL {

template <class T>
static void run(const ellm_op &op) {
  switch (op.kind) {
    case ELLM_LINEAR:
      return linear<T>(op.linear);
    case ELLM_NORM:
      return norm<T>(op.norm);
    case ELLM_ADD:
      return add<T>(op.add);
    case ELLM_ANGLES:
      return angles<T>(op.angles);
    case ELLM_ROTARY:
      return rotary<T>(op.rotary);
    case ELLM_STORE:
      return store_rows<T>(op.store);
    case ELLM_ATTENTION:
      return attention<T>(op.attention);
    case ELLM_ACTIVATE:
      return activate<T>(op.activate);
    case ELLM_SELECT:
      return select<T>(op.select);
    case ELLM_EMBED:
      return embed<T>(op.select);
    case ELLM_SAMPLE:
      return sample<T>(op.sample);
    case ELLM_SCORE:
      return score<T>(op.score);
  }
}

void run_one(const ellm_op &op) {
  if (op.dtype == ELLM_BFLOAT16)
    run<BFloat16>(op);
  else
    run<Float32>(op);
}

}  // namespace ELLM_LEVEL
}  // namespace ellm
