"""Whether there is a vLLM here that runs: on a GPU, or its build for CPUs."""

from __future__ import annotations

import pytest
import torch

from harness.generate.vllm import obstacle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_fault = obstacle(torch.device(DEVICE))
needs_engine = pytest.mark.skipif(_fault is not None, reason=_fault.message if _fault else "")
