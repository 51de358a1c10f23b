"""A Hugging Face model that answers while something is done to its residual stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from saeguard.integrations.discovery.interventions import Intervention
from saeguard.integrations.discovery.prompts import Prompt
from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.sites import HookPoint

_BATCH = 64


class Answering:
    """The model and its tokenizer."""

    def __init__(self, model: str, hook_point: HookPoint) -> None:
        """
        Raises:
            ConfigError: the model cannot be loaded.
            UnsupportedError: there is nothing to hook at the hook point.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
            self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        except Exception as error:  # whatever a hub, a disk or a parser may say
            raise ConfigError(f"{model}: cannot be loaded by transformers: {error}") from error
        if torch.cuda.is_available():
            self._model = self._model.cuda()
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token_id = self._tokenizer.eos_token_id
        self._layer = _layer(self._model, hook_point)
        self._is_before = hook_point.kind == "resid_pre"

    def answers(
        self, prompts: Sequence[Prompt], intervention: Intervention | None = None
    ) -> list[str]:
        """Greedy ones."""
        texts = []
        with self._hooked(intervention):
            for start in range(0, len(prompts), _BATCH):
                batch = prompts[start : start + _BATCH]
                ids, mask = self._padded([self._ids(prompt) for prompt in batch])
                out = self._model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max(prompt.max_tokens for prompt in batch),
                    do_sample=False,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
                texts += [
                    self._tokenizer.decode(row, skip_special_tokens=True)
                    for row in out[:, ids.shape[1] :]
                ]
        return texts

    def surprise(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        intervention: Intervention | None = None,
    ) -> list[float]:
        """How unlikely each response is, in nats per token."""
        out = []
        with self._hooked(intervention):
            for prompt, response in zip(prompts, responses, strict=True):
                before = self._ids(prompt)
                after = self._tokenizer.encode(response, add_special_tokens=False)
                ids = torch.tensor([before + after], device=self._model.device)
                logits = self._model(ids).logits[0, len(before) - 1 : -1].float()
                chances = logits.log_softmax(-1).gather(1, ids[0, len(before) :, None])
                out.append(-float(chances.mean()) if after else 0.0)
        return out

    def _ids(self, prompt: Prompt) -> list[int]:
        if prompt.prompt is not None:
            return list(self._tokenizer.encode(prompt.prompt))
        encoded = self._tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return list(encoded)

    def _padded(self, sequences: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, sequences))
        pad = self._tokenizer.pad_token_id
        ids = [[pad] * (longest - len(s)) + s for s in sequences]
        mask = [[0] * (longest - len(s)) + [1] * len(s) for s in sequences]
        device = self._model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    @contextlib.contextmanager
    def _hooked(self, intervention: Intervention | None) -> Iterator[None]:
        if intervention is None:
            with torch.no_grad():
                yield
            return

        def change_input(_: Any, args: Any) -> Any:
            return (intervention(args[0]), *args[1:])

        def change_output(_: Any, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (intervention(output[0]), *output[1:])
            return intervention(output)

        if self._is_before:
            handle = self._layer.register_forward_pre_hook(change_input)
        else:
            handle = self._layer.register_forward_hook(change_output)
        try:
            with torch.no_grad():
                yield
        finally:
            handle.remove()


def _layer(model: Any, hook_point: HookPoint) -> Any:
    if hook_point.kind not in ("resid_pre", "resid_post"):
        raise UnsupportedError(
            f"{hook_point}: only the residual stream before or after a layer can be changed"
        )
    config = model.config.get_text_config()
    for module in model.modules():
        is_stack = isinstance(module, torch.nn.ModuleList)
        if is_stack and len(module) == config.num_hidden_layers > hook_point.layer:
            return module[hook_point.layer]
    raise UnsupportedError(f"{type(model).__name__}: its layers were not found")
