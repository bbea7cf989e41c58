"""An engine's worker whose weights can be spoilt, for tests of what notices."""

from scale_rlhf.weights import vllm_worker

REFRESH = vllm_worker.refresh_output_heads


class FaultyExtension(vllm_worker.WorkerExtension):
    def keep_old_heads(self, on: bool) -> None:
        """What vLLM's CPU backend does by itself: after an update a tied output head stays as it was."""
        vllm_worker.refresh_output_heads = (lambda model: None) if on else REFRESH

    def bend_layer(self, name: str, factor: float) -> None:
        """The layer's packed weights become `factor` times what they are, until the next update."""
        layer = self.model_runner.model.get_submodule(name)
        whole = layer.cpu_linear
        layer.cpu_linear = lambda x, weight, bias: whole(x, weight, bias) * factor

    def bend_after_load(self, name: str | None, factor: float = 1.0) -> None:
        """Bend a layer in every update, after it was loaded. None: no more."""

        def bend(model) -> None:
            REFRESH(model)
            if name is not None:
                self.bend_layer(name, factor)

        vllm_worker.refresh_output_heads = bend
