"""The CUDA device that a torch without CUDA lacks: what autograd asks of one before it passes over a fake tensor of it.

``load_device`` has to run before torch is imported, which looks for CUDA then.
"""

import ctypes
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forge.contract.messages import Resources

SPOILT = "spoilt"
"""Of a request's settings: whether part of a batch is left on the CPU, which has to be found."""

_SOURCE = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
namespace {
struct Hooks : at::CUDAHooksInterface {
  Hooks(at::CUDAHooksArgs) {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
struct Guard : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  const Device device{DeviceType::CUDA, 0};
  const Stream stream{Stream::DEFAULT, device};
  Device exchangeDevice(Device) const override { return device; }
  Device getDevice() const override { return device; }
  Stream getStream(Device) const noexcept override { return stream; }
  Stream exchangeStream(Stream) const noexcept override { return stream; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
impl::DeviceGuardImplRegistrar registered(DeviceType::CUDA, new Guard());
}
namespace at { using CUDAHooks = Hooks; REGISTER_CUDA_HOOKS(CUDAHooks); }
"""
"""What a torch that was built without CUDA lacks for autograd to pass over a fake tensor of it: a device and a stream."""


def build_device(folder: Path) -> Path:
    """Compile it, with g++."""
    (folder / "fake.cpp").write_text(_SOURCE)
    place = _place_of_torch()
    given = [f"-I{place / 'include'}", "fake.cpp", f"-L{place / 'lib'}", "-lc10", "-ltorch_cpu"]
    subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", *given, "-o", "fake.so"], cwd=folder, check=True)
    return folder / "fake.so"


def ask(attempt: Any, *, spoilt: bool = False) -> Path:
    """Write the request of an attempt, for devices; returns the file."""
    request = attempt.request()
    resources = Resources(threads=1, processes=attempt.processes, accelerator="cuda")
    changed = {"resources": resources, "settings": {**request.settings, SPOILT: spoilt}}
    path: Path = attempt.folder / "request.json"
    path.write_text(request.model_copy(update=changed).model_dump_json())
    return path


def pass_over(module: str, library: Path, *requests: Path) -> list[dict[str, Any]]:
    """Run a module that loads the device, in a process of its own; what it said of each request."""
    command = [sys.executable, "-m", module, str(library), *map(str, requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def load_device(library: str) -> None:
    """Take it up in this process."""
    ctypes.CDLL(str(_place_of_torch() / "lib" / "libtorch_cpu.so"))
    ctypes.CDLL(library)


def _place_of_torch() -> Path:
    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
