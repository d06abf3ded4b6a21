"""Whole trainings on a CUDA device that is not there (``fake_cuda``): no operator is given tensors of two devices."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.steps.train.conftest import Attempt
from tests.steps.train.fake_cuda import SPOILT

from forge.contract.messages import Resources

Make = Callable[..., Attempt]
SOURCE = r"""
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
QWEN = {"family": "qwen3", "head_dim": 12}
EXPERTS = {"family": "mixtral", "experts": {"num_local_experts": 4, "num_experts_per_tok": 2}}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the device that is not there is written in C++")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch's missing half of CUDA."""
    folder = tmp_path_factory.mktemp("fake-cuda")
    (folder / "fake.cpp").write_text(SOURCE)
    place = Path(torch.__file__).parent
    given = [f"-I{place / 'include'}", "fake.cpp", f"-L{place / 'lib'}", "-lc10", "-ltorch_cpu"]
    subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", *given, "-o", "fake.so"], cwd=folder, check=True)
    return folder / "fake.so"


@pytest.fixture
def trained(new_attempt: Make, library: Path) -> Callable[..., list[dict[str, Any]]]:
    """Train once for each mapping of an attempt's fields; what each gave."""

    def train(*cases: dict[str, Any]) -> list[dict[str, Any]]:
        paths = []
        for number, case in enumerate(cases):
            settings = dict(case.get("settings", {}))
            spoilt = settings.pop(SPOILT, False)
            fields = {
                "architecture": {"num_hidden_layers": 1, "tie_word_embeddings": False, **case.get("architecture", {})},
                "training": {"tokens": 256, "schedule": {"name": "cosine", "warmup_tokens": 128}, **case.get("training", {})},
            }
            attempt = new_attempt(f"run-{number}", settings=settings, processes=case.get("processes", 1), **fields)
            request = attempt.request()
            resources = Resources(threads=1, processes=attempt.processes, accelerator="cuda")
            changed = {"resources": resources, "settings": {**request.settings, SPOILT: spoilt}}
            paths.append(attempt.folder / "request.json")
            paths[-1].write_text(request.model_copy(update=changed).model_dump_json())
        command = [sys.executable, "-m", "tests.steps.train.fake_cuda", str(library), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return train


def test_no_training_mixes_devices_and_more_micro_batches_are_no_more_waits(
    trained: Callable[..., list[dict[str, Any]]],
) -> None:
    in_bfloat16 = {"precision": "bfloat16"}
    apart = {**in_bfloat16, "intra_document_masking": True}
    found = trained(
        {"training": {**in_bfloat16, "micro_batch_sequences": 8}},
        {"training": {**in_bfloat16, "micro_batch_sequences": 2}, "settings": {"activation_checkpointing": True}},
        {"training": {"intra_document_masking": True}},
        {"training": apart, "architecture": EXPERTS},
        {"training": in_bfloat16, "processes": 2},
        {"training": in_bfloat16, "architecture": QWEN, "processes": 2, "settings": {"parallelism": {"tensor": 2}}},
        {"training": apart, "architecture": EXPERTS, "processes": 2, "settings": {"parallelism": {"data": "fsdp2"}}},
    )
    assert [each["error"] for each in found if "error" in each] == []
    assert len(found) == 7
    assert found[0]["waits"] == found[1]["waits"] > 0


def test_a_tensor_that_is_left_on_the_cpu_is_found(trained: Callable[..., list[dict[str, Any]]]) -> None:
    (found,) = trained({"training": {"intra_document_masking": True}, "settings": {SPOILT: True}})
    assert "device" in found.get("error", "nothing was found")
