// The emulated devices: what the runtime, the driver and the library emulations share.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "state.h"

typedef int Result;  // cudaError_t and CUresult: the same numbers wherever both have the error
enum : Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInsufficientDriver = 35,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kFileNotFound = 301,
  kInvalidHandle = 400,
  kNotFound = 500,
  kLaunchTimeout = 702,
  kNotPermitted = 800,
  kNotSupported = 801,
};

// cudaDeviceProp of CUDA 12, field by field as NVIDIA documents it.
struct DeviceProperties {
  char name[256], uuid[16], luid[8];
  unsigned luid_device_node_mask;
  size_t total_global_mem, shared_mem_per_block;
  int regs_per_block, warp_size;
  size_t mem_pitch;
  int max_threads_per_block, max_threads_dim[3], max_grid_size[3], clock_rate;
  size_t total_const_mem;
  int major, minor;
  size_t texture_alignment, texture_pitch_alignment;
  int device_overlap, multi_processor_count, kernel_exec_timeout_enabled, integrated,
      can_map_host_memory, compute_mode;
  int max_texture[29], max_surface[15];  // several fields each; none is emulated
  size_t surface_alignment;
  int concurrent_kernels, ecc_enabled, pci_bus_id, pci_device_id, pci_domain_id, tcc_driver,
      async_engine_count, unified_addressing, memory_clock_rate, memory_bus_width, l2_cache_size,
      persisting_l2_cache_max_size, max_threads_per_multi_processor, stream_priorities_supported,
      global_l1_cache_supported, local_l1_cache_supported;
  size_t shared_mem_per_multiprocessor;
  int regs_per_multiprocessor, managed_memory, is_multi_gpu_board, multi_gpu_board_group_id,
      host_native_atomic_supported, single_to_double_precision_perf_ratio, pageable_memory_access,
      concurrent_managed_access, compute_preemption_supported,
      can_use_host_pointer_for_registered_mem, cooperative_launch,
      cooperative_multi_device_launch;
  size_t shared_mem_per_block_optin;
  int pageable_memory_access_uses_host_page_tables, direct_managed_mem_access_from_host,
      max_blocks_per_multi_processor, access_policy_max_window_size;
  size_t reserved_shared_mem_per_block;
  int host_register_supported, sparse_cuda_array_supported, host_register_read_only_supported,
      timeline_semaphore_interop_supported, memory_pools_supported, gpu_direct_rdma_supported;
  unsigned gpu_direct_rdma_flush_writes_options;
  int gpu_direct_rdma_writes_ordering;
  unsigned memory_pool_supported_handle_types;
  int deferred_mapping_cuda_array_supported, ipc_event_supported, cluster_launch,
      unified_function_pointers, reserved[63];
};

const int kRuntimeVersion = 12080;
const int kMaxDevices = 16;

int current_device();
int device_count();
Result no_device();           // why no device can be used; kSuccess where one can
Result no_such_device(int device);
Result failed(Result error);  // the same error, kept for cudaGetLastError

extern State state;
