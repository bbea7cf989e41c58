"""The least that publishing can be: one copy into warm shared memory, and vLLM's own reload from memory."""

import mmap
import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.peer import serve


class Reload:
    """A vLLM engine in this process's child, and the model's tensors in this one."""

    def __init__(self, model: str):
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
        import torch
        from safetensors.torch import load_file
        from vllm import LLM

        self.torch = torch
        self.tensors = list(load_file(Path(model) / "model.safetensors").values())
        self.bytes = sum(one.numel() * one.element_size() for one in self.tensors)
        self.folder = Path(tempfile.mkdtemp(prefix="scale-rlhf-bench-", dir="/dev/shm"))
        shutil.copytree(model, self.folder, dirs_exist_ok=True)
        with open(self.folder / "copy", "w+b") as file:
            file.truncate(self.bytes)
            self.memory = mmap.mmap(file.fileno(), self.bytes)
        self.engine = LLM(
            str(self.folder), dtype="float32", max_model_len=256, max_num_seqs=8, skip_tokenizer_init=True, enforce_eager=True,
            kv_cache_memory_bytes=2**27, disable_log_stats=True, enable_prefix_caching=False)

    def block(self) -> dict[str, float]:
        copied = self._copy()
        started = time.perf_counter()
        self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(self.folder)})
        reload = time.perf_counter() - started
        return {"copy": copied, "reload": reload, "seconds": copied + reload, "copy_rate": self.bytes / copied / 1e9}

    def _copy(self) -> float:
        target, offset = self.torch.frombuffer(self.memory, dtype=self.torch.uint8), 0
        started = time.perf_counter()
        for tensor in self.tensors:
            flat = tensor.reshape(-1).view(self.torch.uint8)
            target[offset : offset + flat.numel()].copy_(flat)
            offset += flat.numel()
        return time.perf_counter() - started

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    serve(Reload)
