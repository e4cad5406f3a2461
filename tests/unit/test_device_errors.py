"""What texts of CUDA, cuBLAS and cuDNN mean: another way, this sample, or this process."""

from __future__ import annotations

import pytest
import torch

import engine_support  # noqa: F401  # one thread, no network
from rushes.errors import OutOfMemory, SampleCancelled, WorkerUnfit
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.devices import CPU
from rushes_service.runtime.per_process import use_growing_segments

DOES_NOT_FIT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"),
    RuntimeError("upsample_nearest3d only supports output tensors with less than INT_MAX elements, but got [1, 256]"),
    RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."),
    RuntimeError("input tensor must fit into 32-bit index math"),
    RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("No available kernel. Aborting execution."),
    RuntimeError("CUDA error: invalid configuration argument"),
    MemoryError(),
]
PROCESS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
]
SAMPLE = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("Expected all tensors to be on the same device"),
    RuntimeError("CUDA error: invalid argument"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx`"),
    SampleCancelled("by its trainer"),
    KeyError("block"),
]


def translated(error: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught, device_errors(CPU, "denoising"):
        raise error
    return caught.value


@pytest.mark.parametrize("error", DOES_NOT_FIT, ids=str)
def test_what_does_not_fit_leads_to_another_way(error):
    found = translated(error)
    assert type(found) is OutOfMemory
    assert "while denoising: use a smaller" in str(found)


@pytest.mark.parametrize("error", PROCESS, ids=str)
def test_what_a_device_does_not_recover_from_ends_the_process(error):
    assert type(translated(error)) is WorkerUnfit


@pytest.mark.parametrize("error", SAMPLE, ids=str)
def test_what_the_device_survives_stays_what_it_was(error):
    assert translated(error) is error


def test_the_allocator_grows_unless_it_was_set_otherwise():
    environment: dict[str, str] = {}
    use_growing_segments(environment)
    assert set(environment.values()) == {"expandable_segments:True"}
    own = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    use_growing_segments(own)
    assert own == {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
