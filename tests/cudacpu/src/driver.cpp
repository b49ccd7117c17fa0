// The part of the CUDA driver API that CuPy uses: contexts in name, modules, kernels.
#include "device.h"
#include "launch.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

using cudacpu::Index;
using cudacpu::Kernel;
using cudacpu::Launch;

// ------------------------------------------------------------------ fibers
// Threads of a block that wait for each other. Each has a stack of its own; the scheduler runs
// every one until it waits, then lets those go on for whom all have come.
namespace {

const size_t kStack = 128 << 10;
const unsigned kMaxThreads = 1024;

enum State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  void* stack_pointer;
  State state;
  unsigned mask;
  Index index;
};

std::mutex one_launch;  // a module's indices and shared memory are its globals
Fiber fibers[kMaxThreads];
unsigned fiber_count, current;
bool in_fibers;
void* scheduler;
char* stacks;
void (*thread_function)(void**);
void** thread_arguments;
alignas(16) char slots[kMaxThreads][16];

}  // namespace

// Saves the callee's registers and the stack pointer in *from, and goes on where `to` was saved.
extern "C" void cudacpu_switch(void** from, void* to);
asm(R"(
.text
.globl cudacpu_switch
.hidden cudacpu_switch
.type cudacpu_switch, @function
cudacpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cudacpu_switch, .-cudacpu_switch
)");

namespace {

void wait(State state) {
  Fiber& self = fibers[current];
  self.state = state;
  cudacpu_switch(&self.stack_pointer, scheduler);
}

void fiber_body() {
  thread_function(thread_arguments);
  wait(kDone);
  abort();
}

void prepare(Fiber& fiber, char* stack) {
  // As if called: the stack pointer is 8 bytes off a multiple of 16.
  void** top = reinterpret_cast<void**>(stack + kStack) - 3;
  *top = nullptr;                                       // fiber_body never returns
  *--top = reinterpret_cast<void*>(fiber_body);         // where the first switch goes
  for (int registers = 0; registers < 6; ++registers) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.state = kReady;
}

// Lets go on whoever need wait no longer; false where nobody can.
bool release() {
  bool released = false, all_at_block = true;
  for (unsigned warp = 0; warp < fiber_count; warp += 32) {
    unsigned end = warp + 32 < fiber_count ? warp + 32 : fiber_count;
    for (unsigned i = warp; i < end; ++i) {
      if (fibers[i].state != kAtBlock && fibers[i].state != kDone) all_at_block = false;
      if (fibers[i].state != kAtWarp) continue;
      unsigned mask = fibers[i].mask;
      bool complete = true;
      for (unsigned j = warp; j < end; ++j)
        if (mask >> (j - warp) & 1 && fibers[j].state != kAtWarp && fibers[j].state != kDone)
          complete = false;
      if (!complete) continue;
      for (unsigned j = warp; j < end; ++j)
        if (mask >> (j - warp) & 1 && fibers[j].state == kAtWarp)
          fibers[j].state = kReady, released = true;
    }
  }
  if (all_at_block)
    for (unsigned i = 0; i < fiber_count; ++i)
      if (fibers[i].state == kAtBlock) fibers[i].state = kReady, released = true;
  return released;
}

Result run_block(const Kernel& kernel) {
  for (unsigned i = 0; i < fiber_count; ++i) prepare(fibers[i], stacks + i * kStack);
  for (;;) {
    unsigned done = 0;
    for (current = 0; current < fiber_count; ++current) {
      Fiber& fiber = fibers[current];
      if (fiber.state == kReady) {
        *kernel.thread_index = fiber.index;
        cudacpu_switch(&scheduler, fiber.stack_pointer);
      }
      done += fiber.state == kDone;
    }
    if (done == fiber_count) return kSuccess;
    if (!release()) {
      fprintf(stderr, "cudacpu: the threads of a block wait for each other forever\n");
      return kLaunchTimeout;
    }
  }
}

Result run_fibers(const Kernel& kernel, const Launch& launch) {
  if (!stacks) {
    void* memory = mmap(nullptr, kStack * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return kOutOfMemory;
    stacks = static_cast<char*>(memory);
  }
  *kernel.grid_dim = launch.grid;
  *kernel.block_dim = launch.block;
  *kernel.shared = launch.shared;
  thread_function = kernel.thread;
  thread_arguments = launch.arguments;
  fiber_count = 0;
  for (unsigned z = 0; z < launch.block.z; ++z)
    for (unsigned y = 0; y < launch.block.y; ++y)
      for (unsigned x = 0; x < launch.block.x; ++x) fibers[fiber_count++].index = {x, y, z};
  in_fibers = true;
  Result result = kSuccess;
  Index& block = *kernel.block_index;
  for (block.z = 0; block.z < launch.grid.z && !result; ++block.z)
    for (block.y = 0; block.y < launch.grid.y && !result; ++block.y)
      for (block.x = 0; block.x < launch.grid.x && !result; ++block.x) result = run_block(kernel);
  in_fibers = false;
  return result;
}

}  // namespace

extern "C" {

void cudacpu_block_barrier() {
  if (in_fibers) wait(kAtBlock);
}

void cudacpu_warp_barrier(unsigned mask) {
  if (!in_fibers) return;
  fibers[current].mask = mask | 1u << current % 32;
  wait(kAtWarp);
}

unsigned cudacpu_lane() { return in_fibers ? current % 32 : 0; }

unsigned cudacpu_live_lanes() {
  if (!in_fibers) return 1;
  unsigned live = 0, warp = current & ~31u;
  for (unsigned i = warp; i < warp + 32 && i < fiber_count; ++i)
    if (fibers[i].state != kDone) live |= 1u << (i - warp);
  return live;
}

void* cudacpu_warp_slot(unsigned lane) {
  return slots[in_fibers ? (current & ~31u) + lane % 32 : 0];
}

// ------------------------------------------------------------------ driver API
typedef struct Module* CUmodule;
typedef const Kernel* CUfunction;
static char contexts[16];

Result cuInit(unsigned) { return device_count() ? kSuccess : kNoDevice; }
Result cuDriverGetVersion(int* version) {
  *version = state.driver_version;
  return kSuccess;
}
Result cudaSetDevice(int device);
const char* cudaGetErrorString(Result error);

Result cuGetErrorName(Result error, const char** name) {
  switch (error) {
    case kSuccess: *name = "CUDA_SUCCESS"; break;
    case kInvalidValue: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case kOutOfMemory: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kNoDevice: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case kInvalidImage: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case kFileNotFound: *name = "CUDA_ERROR_FILE_NOT_FOUND"; break;
    case kInvalidHandle: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
    case kNotFound: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case kLaunchTimeout: *name = "CUDA_ERROR_LAUNCH_TIMEOUT"; break;
    case kNotSupported: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
  }
  return kSuccess;
}
Result cuGetErrorString(Result error, const char** text) {
  *text = cudaGetErrorString(error);
  return kSuccess;
}

Result cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < device_count() ? kSuccess : kInvalidDevice;
}
Result cuDeviceGetCount(int* count) {
  *count = device_count();
  return kSuccess;
}
Result cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
Result cuCtxGetCurrent(void** context) {
  *context = device_count() ? &contexts[current_device()] : nullptr;
  return kSuccess;
}
Result cuCtxSetCurrent(void* context) {
  return context ? cudaSetDevice(int(static_cast<char*>(context) - contexts)) : kSuccess;
}
Result cuCtxCreate_v2(void** context, unsigned, int device) {
  *context = &contexts[device];
  return cudaSetDevice(device);
}
Result cuCtxDestroy_v2(void*) { return kSuccess; }
Result cuCtxGetDevice(int* device) {
  *device = current_device();
  return kSuccess;
}
Result cuStreamGetCtx(void*, void** context) { return cuCtxGetCurrent(context); }

Result cuModuleLoad(CUmodule* module, const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    fprintf(stderr, "cudacpu: %s\n", dlerror());
    return kInvalidImage;
  }
  *module = static_cast<CUmodule>(handle);
  return kSuccess;
}

Result cuModuleLoadData(CUmodule* module, const void* image) {
  auto header = static_cast<const Elf64_Ehdr*>(image);
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != EM_X86_64)
    return kInvalidImage;  // as a GPU's own binary is
  size_t size = header->e_shoff + size_t(header->e_shnum) * header->e_shentsize;
  const char* folder = getenv("TMPDIR");
  // The loader takes a file with the name of a loaded one for that one, although it was removed:
  // what is unlikely of six random letters happens once in thousands of kernels.
  static std::atomic<unsigned long> number{0};
  std::string path = std::string(folder ? folder : "/tmp") + "/cudacpu-" +
                     std::to_string(number++) + "-XXXXXX";
  int file = mkstemp(&path[0]);
  if (file < 0) return kFileNotFound;
  auto bytes = static_cast<const char*>(image);
  for (size_t written = 0; written < size;) {
    ssize_t n = write(file, bytes + written, size - written);
    if (n < 0) {
      close(file), unlink(path.c_str());
      return kOutOfMemory;
    }
    written += n;
  }
  close(file);
  Result result = cuModuleLoad(module, path.c_str());
  unlink(path.c_str());
  return result;
}

Result cuModuleUnload(CUmodule module) {
  dlclose(module);
  return kSuccess;
}

Result cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  *function = static_cast<CUfunction>(
      dlsym(module, (std::string("__cudacpu_kernel_") + name).c_str()));
  return *function ? kSuccess : kNotFound;
}

Result cuModuleGetGlobal_v2(void** pointer, size_t* size, CUmodule module, const char* name) {
  void* found = dlsym(module, name);
  if (!found) return kNotFound;
  Dl_info info;
  const Elf64_Sym* symbol = nullptr;
  dladdr1(found, &info, (void**)&symbol, RTLD_DL_SYMENT);
  if (pointer) *pointer = found;
  if (size) *size = symbol ? symbol->st_size : 0;
  return kSuccess;
}

Result cuLaunchKernel(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_size,
                      void*, void** arguments, void**) {
  uint64_t threads = uint64_t(block_x) * block_y * block_z;
  if (!kernel || !threads || threads > kMaxThreads || block_z > 64 || !grid_x || !grid_y ||
      !grid_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535 ||
      shared_size > 48 << 10)
    return kInvalidValue;
  count(state.launches);
  std::lock_guard<std::mutex> hold(one_launch);
  alignas(64) static char shared[48 << 10];
  Launch launch = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, arguments, shared};
  if (kernel->barriers) return run_fibers(*kernel, launch);
  kernel->loop(launch);
  return kSuccess;
}

Result cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned,
                                 unsigned, unsigned, void*, void**) {
  return kNotSupported;
}

Result cuFuncGetAttribute(int* value, int attribute, CUfunction) {
  switch (attribute) {
    case 0: *value = kMaxThreads; break;
    case 4: *value = 32; break;            // registers
    case 5: case 6: *value = 80; break;    // PTX and binary versions
    case 8: *value = 48 << 10; break;      // dynamic shared memory
    default: *value = 0;
  }
  return kSuccess;
}
Result cuFuncSetAttribute(CUfunction, int, int) { return kSuccess; }

Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int size, size_t) {
  *blocks = size > 0 && size <= int(kMaxThreads) ? 2048 / size : 0;
  return kSuccess;
}
Result cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction, void*, size_t,
                                        int limit) {
  *grid = 4;
  *block = limit > 0 && limit < int(kMaxThreads) ? limit : kMaxThreads;
  return kSuccess;
}

Result cuLinkCreate_v2(unsigned, void*, void*, void**) { return kNotSupported; }
Result cuLinkAddData_v2(void*, int, void*, size_t, const char*, unsigned, void*, void*) {
  return kNotSupported;
}
Result cuLinkAddFile_v2(void*, int, const char*, unsigned, void*, void*) { return kNotSupported; }
Result cuLinkComplete(void*, void**, size_t*) { return kNotSupported; }
Result cuLinkDestroy(void*) { return kSuccess; }

}  // extern "C"
