// The CUDA runtime API's memory on the CPU. Device memory is host memory, filled with a pattern so
// that no program lives off its zeros.
#include "device.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <mutex>

namespace {

enum MemoryType { kUnregistered, kHost, kDevice, kManaged };
enum CopyKind { kHostToHost, kHostToDevice, kDeviceToHost, kDeviceToDevice, kByAddress };

struct Allocation {
  size_t size;
  MemoryType type;
  int device;
};

std::mutex lock;
std::map<uintptr_t, Allocation> allocations;
size_t used[kMaxDevices];

Result allocate(void** pointer, size_t size, MemoryType type) {
  if (Result error = no_device()) return failed(error);
  *pointer = nullptr;
  if (!size) return kSuccess;
  int device = current_device();
  std::lock_guard<std::mutex> hold(lock);
  if (type != kHost && used[device] + size > state.memory_limit) return failed(kOutOfMemory);
  void* memory = nullptr;
  if (posix_memalign(&memory, 512, size)) return failed(kOutOfMemory);
  memset(memory, 0xcb, size);
  if (type != kHost) {
    used[device] += size;
    count(state.allocations);
  }
  allocations[reinterpret_cast<uintptr_t>(memory)] = {size, type, device};
  *pointer = memory;
  return kSuccess;
}

Result release(void* pointer) {
  if (!pointer) return kSuccess;
  std::lock_guard<std::mutex> hold(lock);
  auto found = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == allocations.end()) return failed(kInvalidValue);
  if (found->second.type != kHost) used[found->second.device] -= found->second.size;
  memset(pointer, 0xdd, found->second.size);  // what is read after its release is not what it was
  allocations.erase(found);
  free(pointer);
  return kSuccess;
}

// The allocation that an address lies in.
Allocation allocation_of(const void* pointer) {
  std::lock_guard<std::mutex> hold(lock);
  auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = allocations.upper_bound(address);
  if (after != allocations.begin()) {
    auto [start, allocation] = *std::prev(after);
    if (address < start + allocation.size) return allocation;
  }
  return {0, kUnregistered, -2};
}

bool on_device(const void* pointer) {
  MemoryType type = allocation_of(pointer).type;
  return type == kDevice || type == kManaged;
}

// Counts a copy; asks whether it may be made if it goes to the host.
Result admit(const void* to, const void* from, size_t size, int kind) {
  if (Result error = no_device()) return error;
  if (!size) return kSuccess;
  if (kind == kByAddress) kind = 2 * on_device(from) + on_device(to);
  switch (kind) {
    case kHostToHost: break;
    case kHostToDevice:
      count(state.copies_to_device), count(state.bytes_to_device, size);
      break;
    case kDeviceToHost:
      count(state.copies_to_host), count(state.bytes_to_host, size);
      if (state.permit_copy_to_host && !state.permit_copy_to_host(size)) return kNotPermitted;
      break;
    case kDeviceToDevice:
      count(state.copies_on_device), count(state.bytes_on_device, size);
      break;
    default: return kInvalidValue;
  }
  return kSuccess;
}

Result copy(void* to, const void* from, size_t size, int kind) {
  if (Result error = admit(to, from, size, kind)) return failed(error);
  memmove(to, from, size);
  return kSuccess;
}

Result copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                 size_t height, int kind) {
  if (width > to_pitch || width > from_pitch) return failed(kInvalidValue);
  if (Result error = admit(to, from, width * height, kind)) return failed(error);
  for (size_t row = 0; row < height; ++row)
    memmove(static_cast<char*>(to) + row * to_pitch,
            static_cast<const char*>(from) + row * from_pitch, width);
  return kSuccess;
}

}  // namespace

struct PointerAttributes {
  int type, device;
  void *device_pointer, *host_pointer;
};

extern "C" {

// ------------------------------------------------------------------ allocations
Result cudaMalloc(void** pointer, size_t size) { return allocate(pointer, size, kDevice); }
Result cudaMallocManaged(void** pointer, size_t size, unsigned) {
  return allocate(pointer, size, kManaged);
}
Result cudaMallocAsync(void** pointer, size_t size, void*) {
  return allocate(pointer, size, kDevice);
}
Result cudaMallocFromPoolAsync(void** pointer, size_t size, void*, void*) {
  return allocate(pointer, size, kDevice);
}
Result cudaHostAlloc(void** pointer, size_t size, unsigned) {
  return allocate(pointer, size, kHost);
}
Result cudaMallocHost(void** pointer, size_t size) { return allocate(pointer, size, kHost); }
Result cudaFree(void* pointer) { return release(pointer); }
Result cudaFreeHost(void* pointer) { return release(pointer); }
Result cudaFreeAsync(void* pointer, void*) { return release(pointer); }

Result cudaHostRegister(void* pointer, size_t size, unsigned) {
  std::lock_guard<std::mutex> hold(lock);
  allocations[reinterpret_cast<uintptr_t>(pointer)] = {size, kHost, current_device()};
  return kSuccess;
}
Result cudaHostUnregister(void* pointer) {
  std::lock_guard<std::mutex> hold(lock);
  return allocations.erase(reinterpret_cast<uintptr_t>(pointer)) ? kSuccess
                                                                 : failed(kInvalidValue);
}

Result cudaMemGetInfo(size_t* free, size_t* total) {
  if (Result error = no_device()) return failed(error);
  std::lock_guard<std::mutex> hold(lock);
  size_t taken = used[current_device()];
  *total = state.memory_limit;
  *free = taken < *total ? *total - taken : 0;
  return kSuccess;
}

Result cudaPointerGetAttributes(PointerAttributes* out, const void* pointer) {
  Allocation allocation = allocation_of(pointer);
  auto address = const_cast<void*>(pointer);
  bool known = allocation.type != kUnregistered;
  *out = {allocation.type, allocation.device, known ? address : nullptr,
          allocation.type == kDevice ? nullptr : address};
  return kSuccess;
}

// ------------------------------------------------------------------ copies
Result cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  return copy(to, from, size, kind);
}
Result cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void*) {
  return copy(to, from, size, kind);
}
Result cudaMemcpyPeer(void* to, int, const void* from, int, size_t size) {
  return copy(to, from, size, kDeviceToDevice);
}
Result cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, void*) {
  return copy(to, from, size, kDeviceToDevice);
}
Result cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                    size_t height, int kind) {
  return copy_rows(to, to_pitch, from, from_pitch, width, height, kind);
}
Result cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, int kind, void*) {
  return copy_rows(to, to_pitch, from, from_pitch, width, height, kind);
}
Result cudaMemset(void* pointer, int value, size_t size) {
  memset(pointer, value, size);
  return kSuccess;
}
Result cudaMemsetAsync(void* pointer, int value, size_t size, void*) {
  memset(pointer, value, size);
  return kSuccess;
}
Result cudaMemPrefetchAsync(const void* pointer, size_t size, int device, void*) {
  return failed(admit(pointer, pointer, size, device < 0 ? kDeviceToHost : kHostToDevice));
}
Result cudaMemAdvise(const void*, size_t, int, int) { return kSuccess; }

// ------------------------------------------------------------------ memory pools
// One a device, which keeps nothing.
static char pools[kMaxDevices];
Result cudaDeviceGetDefaultMemPool(void** pool, int device) {
  if (Result error = no_such_device(device)) return failed(error);
  *pool = &pools[device];
  return kSuccess;
}
Result cudaDeviceGetMemPool(void** pool, int device) {
  return cudaDeviceGetDefaultMemPool(pool, device);
}
Result cudaDeviceSetMemPool(int, void*) { return kSuccess; }
Result cudaMemPoolTrimTo(void*, size_t) { return kSuccess; }
Result cudaMemPoolGetAttribute(void*, int, void* value) {
  memset(value, 0, 4);
  return kSuccess;
}
Result cudaMemPoolSetAttribute(void*, int, void*) { return kSuccess; }

}  // extern "C"
