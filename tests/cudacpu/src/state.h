// What tests read and set from Python, through ../counters.py, which has the same fields in the
// same order.
#pragma once
#include <stdint.h>

struct State {
  // Counts of calls, and of bytes.
  uint64_t launches, library_calls, compilations, allocations, copies_to_device, copies_to_host,
      copies_on_device, bytes_to_device, bytes_to_host, bytes_on_device, synchronizations;
  uint64_t memory_limit;  // bytes of every device
  int devices;            // how many there are
  int driver_version;     // as cudaDriverGetVersion gives it; 0 where no driver is installed
  int headers_missing;    // whether NVRTC finds no header of the toolkit
  // Asked before every copy to the host; where it answers 0 the copy is refused.
  int (*permit_copy_to_host)(uint64_t bytes);
};

extern "C" State* cudacpu_state();  // in the driver's library, which is loaded before all others

inline void count(uint64_t& counter, uint64_t amount = 1) {
  __atomic_fetch_add(&counter, amount, __ATOMIC_RELAXED);
}
inline void count_library_call() { count(cudacpu_state()->library_calls); }
