"""A Hugging Face model that answers while something is done to its residual stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from saeguard.integrations.discovery.interventions import Intervention
from saeguard.integrations.discovery.prompts import Prompt
from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.sites import HookPoint

Floats = npt.NDArray[np.float32]

_BATCH = 64


Interventions = Mapping[HookPoint, Intervention]
"""What is done where."""
_NOTHING: Interventions = {}


class Answering:
    """The model and its tokenizer."""

    def __init__(self, model: str, hook_point: HookPoint) -> None:
        """
        Args:
            hook_point: where something is to be done; also at `layers` it can be.

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
        _layer(self._model, hook_point)

    @property
    def layers(self) -> list[HookPoint]:
        """Behind each layer of the model."""
        config = self._model.config.get_text_config()
        return [HookPoint(layer) for layer in range(config.num_hidden_layers)]

    def answers(
        self, prompts: Sequence[Prompt], interventions: Interventions = _NOTHING
    ) -> list[str]:
        """Greedy ones."""
        texts = []
        with torch.no_grad(), self._hooked(interventions):
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

    def means(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Floats:
        """What leaves the layers, in the mean over the tokens of prompt and response, [prompts,
        layers, inputs]. The first token is left out: its states are like no other's.
        """
        found = []
        for prompt, response in zip(prompts, responses, strict=True):
            of_layers: list[torch.Tensor] = []

            def keep(x: torch.Tensor, into: list[torch.Tensor] = of_layers) -> torch.Tensor:
                into.append(x[0, 1:].float().mean(dim=0))
                return x

            with torch.no_grad(), self._hooked(dict.fromkeys(self.layers, keep)):
                self._model(
                    torch.tensor([self._whole(prompt, response)], device=self._model.device)
                )
            found.append(torch.stack(of_layers).cpu().numpy())
        return np.stack(found)

    def surprise(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        interventions: Interventions = _NOTHING,
    ) -> list[float]:
        """How unlikely each response is, in nats per token."""
        out = []
        with torch.no_grad(), self._hooked(interventions):
            for prompt, response in zip(prompts, responses, strict=True):
                num_before = len(self._ids(prompt))
                whole = self._whole(prompt, response)
                ids = torch.tensor([whole], device=self._model.device)
                logits = self._model(ids).logits[0, num_before - 1 : -1].float()
                chances = logits.log_softmax(-1).gather(1, ids[0, num_before:, None])
                out.append(-float(chances.mean()) if len(whole) > num_before else 0.0)
        return out

    def _whole(self, prompt: Prompt, response: str) -> list[int]:
        after = self._tokenizer.encode(response, add_special_tokens=False)
        return [*self._ids(prompt), *after]

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
    def _hooked(self, interventions: Interventions) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for place, intervention in interventions.items():
                layer = _layer(self._model, place)
                if place.kind == "resid_pre":
                    handle = layer.register_forward_pre_hook(_on_input(intervention))
                else:
                    handle = layer.register_forward_hook(_on_output(intervention))
                hooks.callback(handle.remove)
            yield


def _on_input(intervention: Intervention) -> Callable[[Any, Any], Any]:
    return lambda _, args: (intervention(args[0]), *args[1:])


def _on_output(intervention: Intervention) -> Callable[[Any, Any, Any], Any]:
    def change(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (intervention(output[0]), *output[1:])
        return intervention(output)

    return change


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
