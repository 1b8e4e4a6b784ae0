// step_end: all of this GPU's work is complete; tells every GPU.
#pragma once

#include "terrazzo/vm/consumer.hpp"
#include "terrazzo/vm/loader.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

/// One empty slot and one empty stage carry the loader's wait to a storer.
struct StepEnd {
  static constexpr bool kHasProducts = false;

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction&, const StepParams&) {
    return {1, 1};
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    loader.wait_all();
    loader.fill(0);
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    consumer.pass();
    if (consumer.index() == 0) {
      consumer.publish(consumer.stage());
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    if (storer.index() == 0) {
      storer.release(storer.take());
      storer.signal_end();
    }
  }
};

}  // namespace terrazzo
