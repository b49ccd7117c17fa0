// The CUDA runtime API on the CPU: errors, devices, streams, events. A stream's work is done when
// it is handed in, so waiting for it is nothing.
#include "device.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>

namespace {

struct Stream {
  unsigned flags;
  int priority, device;
};

struct Event {
  unsigned flags;
  bool recorded;
  double time;
};

const unsigned kDisableTiming = 2;

thread_local int device_of_thread = 0;
thread_local Result last_error = kSuccess;

uint64_t setting(const char* variable, uint64_t otherwise) {
  const char* text = getenv(variable);
  return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

// Whether these are handles that stand for the default streams, and no streams of their own.
bool is_default(Stream* stream) { return reinterpret_cast<uintptr_t>(stream) < 3; }

State initial_state() {
  State fresh = {};
  fresh.memory_limit = setting("CUDACPU_MEMORY", uint64_t(8) << 30);
  fresh.driver_version = int(setting("CUDACPU_DRIVER_VERSION", kRuntimeVersion));
  const char* headers = getenv("CUDACPU_HEADERS");
  fresh.headers_missing = headers && !strcmp(headers, "missing");
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  bool hidden = visible && (!*visible || *visible == '-');
  fresh.devices = hidden ? 0 : int(std::min<uint64_t>(setting("CUDACPU_DEVICES", 1), kMaxDevices));
  return fresh;
}

}  // namespace

State state = initial_state();

int device_count() { return state.devices; }

int current_device() { return device_of_thread; }

Result no_device() {
  // A runtime works with every driver from its own major version on.
  if (state.driver_version < kRuntimeVersion / 1000 * 1000) return kInsufficientDriver;
  return device_count() ? kSuccess : kNoDevice;
}

Result no_such_device(int device) {
  if (Result error = no_device()) return error;
  return device >= 0 && device < device_count() ? kSuccess : kInvalidDevice;
}

Result failed(Result error) {
  if (error) last_error = error;
  return error;
}

extern "C" {

// ------------------------------------------------------------------ errors and versions
const char* cudaGetErrorName(Result error) {
  switch (error) {
    case kSuccess: return "cudaSuccess";
    case kInvalidValue: return "cudaErrorInvalidValue";
    case kOutOfMemory: return "cudaErrorMemoryAllocation";
    case kInsufficientDriver: return "cudaErrorInsufficientDriver";
    case kNoDevice: return "cudaErrorNoDevice";
    case kInvalidDevice: return "cudaErrorInvalidDevice";
    case kInvalidImage: return "cudaErrorInvalidKernelImage";
    case kInvalidContext: return "cudaErrorDeviceUninitialized";
    case kFileNotFound: return "cudaErrorFileNotFound";
    case kInvalidHandle: return "cudaErrorInvalidResourceHandle";
    case kNotFound: return "cudaErrorSymbolNotFound";
    case kLaunchTimeout: return "cudaErrorLaunchTimeout";
    case kNotPermitted: return "cudaErrorNotPermitted";
    case kNotSupported: return "cudaErrorNotSupported";
    case 704: return "cudaErrorPeerAccessAlreadyEnabled";
    case 705: return "cudaErrorPeerAccessNotEnabled";
    default: return "cudaErrorUnknown";
  }
}

const char* cudaGetErrorString(Result error) {
  switch (error) {
    case kSuccess: return "no error";
    case kInvalidValue: return "invalid argument";
    case kOutOfMemory: return "out of memory";
    case kInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case kNoDevice: return "no CUDA-capable device is detected";
    case kInvalidDevice: return "invalid device ordinal";
    case kInvalidImage: return "device kernel image is invalid";
    case kInvalidContext: return "invalid device context";
    case kFileNotFound: return "file not found";
    case kInvalidHandle: return "invalid resource handle";
    case kNotFound: return "named symbol not found";
    case kLaunchTimeout: return "the launch timed out and was terminated";
    case kNotPermitted: return "operation not permitted";
    case kNotSupported: return "operation not supported (by the emulated device)";
    case 704: return "peer access is already enabled";
    case 705: return "peer access has not been enabled";
    default: return "unknown error";
  }
}

Result cudaGetLastError() {
  Result error = last_error;
  last_error = kSuccess;
  return error;
}

Result cudaPeekAtLastError() { return last_error; }

State* cudacpu_state() { return &state; }

Result cudaDriverGetVersion(int* version) {
  *version = state.driver_version;
  return kSuccess;
}

Result cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return kSuccess;
}

// ------------------------------------------------------------------ devices
Result cudaGetDeviceCount(int* count) {
  *count = 0;
  if (Result error = no_device()) return failed(error);
  *count = device_count();
  return kSuccess;
}

Result cudaGetDevice(int* device) {
  if (Result error = no_device()) return failed(error);
  *device = device_of_thread;
  return kSuccess;
}

Result cudaSetDevice(int device) {
  if (Result error = no_such_device(device)) return failed(error);
  device_of_thread = device;
  return kSuccess;
}

Result cudaDeviceGetAttribute(int* value, int attribute, int device) {
  if (Result error = no_such_device(device)) return failed(error);
  if (attribute < 1 || attribute > 143) return failed(kInvalidValue);
  switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;  // threads of a block, its x, its y
    case 4: *value = 64; break;                    // its z
    case 5: *value = 0x7fffffff; break;            // a grid's x
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break;   // shared memory of a block
    case 9: *value = 64 << 10; break;   // constant memory
    case 10: *value = 32; break;        // warp
    case 11: *value = 0x7fffffff; break;
    case 12: *value = 64 << 10; break;  // registers of a block
    case 13: *value = 1000000; break;   // clock, kHz
    case 14: *value = 512; break;
    case 16: *value = 2; break;         // multiprocessors
    case 15: case 19: case 31: case 41: case 78: case 79: case 80: case 83: case 89: case 90:
    case 115: *value = 1; break;
    case 33: *value = 0; break;         // PCI bus
    case 34: *value = device; break;
    case 36: *value = 1000000; break;
    case 37: *value = 256; break;
    case 38: *value = 4 << 20; break;   // second level cache
    case 39: *value = 2048; break;      // threads of a multiprocessor
    case 40: *value = 1; break;
    case 75: *value = 8; break;         // compute capability
    case 76: *value = 0; break;
    case 81: *value = 100 << 10; break;
    case 82: *value = 64 << 10; break;
    case 97: *value = 48 << 10; break;
    default: *value = 0;
  }
  return kSuccess;
}

Result cudaGetDeviceProperties_v2(DeviceProperties* p, int device) {
  if (Result error = no_such_device(device)) return failed(error);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "Emulated CPU device");
  p->uuid[15] = char(device);
  p->total_global_mem = state.memory_limit;
  p->shared_mem_per_block = p->shared_mem_per_block_optin = 48 << 10;
  p->regs_per_block = p->regs_per_multiprocessor = 64 << 10;
  p->warp_size = 32;
  p->mem_pitch = 0x7fffffff;
  p->max_threads_per_block = p->max_threads_dim[0] = p->max_threads_dim[1] = 1024;
  p->max_threads_dim[2] = 64;
  p->max_grid_size[0] = 0x7fffffff;
  p->max_grid_size[1] = p->max_grid_size[2] = 65535;
  p->clock_rate = p->memory_clock_rate = 1000000;
  p->total_const_mem = 64 << 10;
  p->major = 8;
  p->texture_alignment = p->surface_alignment = 512;
  p->texture_pitch_alignment = 32;
  p->multi_processor_count = 2;
  p->can_map_host_memory = p->concurrent_kernels = p->unified_addressing = 1;
  p->pci_device_id = device;
  p->memory_bus_width = 256;
  p->l2_cache_size = 4 << 20;
  p->max_threads_per_multi_processor = 2048;
  p->stream_priorities_supported = p->managed_memory = p->memory_pools_supported = 1;
  p->shared_mem_per_multiprocessor = 100 << 10;
  p->max_blocks_per_multi_processor = 16;
  return kSuccess;
}

Result cudaGetDeviceProperties(DeviceProperties* p, int device) {
  return cudaGetDeviceProperties_v2(p, device);
}

Result cudaDeviceGetPCIBusId(char* text, int size, int device) {
  if (Result error = no_such_device(device)) return failed(error);
  snprintf(text, size, "0000:00:%02x.0", device);
  return kSuccess;
}

Result cudaDeviceGetByPCIBusId(int* device, const char* text) {
  unsigned number;
  if (sscanf(text, "0000:00:%x.0", &number) != 1 || int(number) >= device_count())
    return failed(kInvalidValue);
  *device = int(number);
  return kSuccess;
}

Result cudaDeviceSynchronize() {
  count(state.synchronizations);
  return failed(no_device());
}
Result cudaDeviceReset() { return kSuccess; }
Result cudaSetDeviceFlags(unsigned) { return kSuccess; }

Result cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = device != peer;
  return kSuccess;
}
Result cudaDeviceEnablePeerAccess(int, unsigned) { return kSuccess; }
Result cudaDeviceDisablePeerAccess(int) { return kSuccess; }

Result cudaDeviceGetLimit(size_t* value, int) {
  *value = 8 << 20;
  return kSuccess;
}
Result cudaDeviceSetLimit(int, size_t) { return kSuccess; }

// ------------------------------------------------------------------ streams and events
Result cudaStreamCreateWithPriority(Stream** stream, unsigned flags, int priority) {
  if (Result error = no_device()) return failed(error);
  *stream = new Stream{flags, priority, current_device()};
  return kSuccess;
}
Result cudaStreamCreateWithFlags(Stream** stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
Result cudaStreamCreate(Stream** stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
Result cudaStreamDestroy(Stream* stream) {
  if (is_default(stream)) return failed(kInvalidHandle);
  delete stream;
  return kSuccess;
}
Result cudaStreamGetFlags(Stream* stream, unsigned* flags) {
  *flags = is_default(stream) ? 0 : stream->flags;
  return kSuccess;
}
Result cudaStreamGetPriority(Stream* stream, int* priority) {
  *priority = is_default(stream) ? 0 : stream->priority;
  return kSuccess;
}
Result cudaStreamGetDevice(Stream* stream, int* device) {
  *device = is_default(stream) ? current_device() : stream->device;
  return kSuccess;
}
Result cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return kSuccess;
}
Result cudaStreamSynchronize(Stream*) {
  count(state.synchronizations);
  return kSuccess;
}
Result cudaStreamQuery(Stream*) { return kSuccess; }
Result cudaStreamWaitEvent(Stream*, Event*, unsigned) { return kSuccess; }
Result cudaStreamIsCapturing(Stream*, int* status) {
  *status = 0;
  return kSuccess;
}
Result cudaStreamAddCallback(Stream* stream, void (*callback)(Stream*, Result, void*), void* data,
                             unsigned) {
  callback(stream, kSuccess, data);
  return kSuccess;
}
Result cudaLaunchHostFunc(Stream*, void (*function)(void*), void* data) {
  function(data);
  return kSuccess;
}

Result cudaEventCreateWithFlags(Event** event, unsigned flags) {
  if (Result error = no_device()) return failed(error);
  *event = new Event{flags, false, 0};
  return kSuccess;
}
Result cudaEventCreate(Event** event) { return cudaEventCreateWithFlags(event, 0); }
Result cudaEventDestroy(Event* event) {
  delete event;
  return kSuccess;
}
Result cudaEventRecord(Event* event, Stream*) {
  event->recorded = true;
  event->time = now();
  return kSuccess;
}
Result cudaEventQuery(Event*) { return kSuccess; }
Result cudaEventSynchronize(Event*) {
  count(state.synchronizations);
  return kSuccess;
}
Result cudaEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  if (!start->recorded || !end->recorded || (start->flags | end->flags) & kDisableTiming)
    return failed(kInvalidHandle);
  *milliseconds = float(end->time - start->time);
  return kSuccess;
}

Result cudaProfilerStart() { return kSuccess; }
Result cudaProfilerStop() { return kSuccess; }

// Where every runtime function goes that is not emulated.
Result cudacpu_unsupported() { return failed(kNotSupported); }

}  // extern "C"
