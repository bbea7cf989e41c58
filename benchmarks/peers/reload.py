"""The least that publishing can be: one copy into warm shared memory, and vLLM's own reload from memory."""

import json
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

        self.folder = Path(tempfile.mkdtemp(prefix="scale-rlhf-bench-", dir="/dev/shm"))
        shutil.copytree(model, self.folder, dirs_exist_ok=True)
        tensors, self.copies = load_file(Path(model) / "model.safetensors"), []
        with open(self.folder / "model.safetensors", "r+b") as file:  # what is copied is what vLLM reads
            memory = torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.uint8)
            header = int.from_bytes(file.read(8), "little")
            for name, place in json.loads(file.read(header)).items():
                if name in tensors:
                    begin, end = (8 + header + offset for offset in place["data_offsets"])
                    self.copies.append((memory[begin:end], tensors[name].reshape(-1).view(torch.uint8)))
        self.bytes = sum(len(source) for _, source in self.copies)
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
        started = time.perf_counter()
        for target, source in self.copies:
            target.copy_(source)
        return time.perf_counter() - started

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    serve(Reload)
