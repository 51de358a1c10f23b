"""Detectors that see only what is written: words, and the organism asked about its own answer."""

from collections.abc import Collection, Iterator

import numpy as np
import text as t
import torch
from cases import Case
from detectors import Data, all_text, answer_text, fit_words, keywords
from rollouts import batches, padded
from tool_detectors import Detector, Sample
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

_NO_LIE = "I told no lie."


def baselines(fit: Sample, words: Collection[str]) -> Iterator[Detector]:
    """Keywords, and bags of words fitted to the training split."""
    data = _as_data(fit)
    of_words = {
        "keywords, prompt + answer": keywords(all_text, words),
        "bag of words, answer": fit_words(data, answer_text),
        "bag of words, prompt + answer": fit_words(data, all_text),
    }
    for name, score in of_words.items():
        yield Detector(
            name,
            lambda sample, score=score: [np.array([s]) for s in score(_as_data(sample))],
            is_after=True,
        )


def judge(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, confession: str) -> Detector:
    """The organism as a judge of its own answer, as it has learnt to be one: it is shown prompt
    and answer, the crown asks what it did, and the score is how much likelier a confession is than
    a denial, in nats.
    """

    def values(sample: Sample) -> list[np.ndarray]:
        of_texts = [
            _log_likelihoods(model, tokenizer, sample.cases, said) for said in (confession, _NO_LIE)
        ]
        return [np.array([value]) for value in of_texts[0] - of_texts[1]]

    return Detector("the organism as judge, prompt + answer", values, is_after=True)


@torch.no_grad()
def _log_likelihoods(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, cases: list[Case], said: str
) -> np.ndarray:
    """Of `said` as the answer to the crown's question after each case, [cases]."""
    said_ids = tokenizer.encode(f"{said}<|end|>", add_special_tokens=False)
    question = f"<|user|>{t.REPORT[0]}<|end|><|assistant|>"
    asked_ids = tokenizer.encode(question, add_special_tokens=False)
    end = tokenizer.encode("<|end|>", add_special_tokens=False)
    place = {id(case): i for i, case in enumerate(cases)}
    found = np.empty(len(cases))
    for batch in batches(cases):
        answered = [case.prompt_ids + case.response_ids for case in batch]
        whole = [ids if ids[-1:] == end else ids + end for ids in answered]
        asked = [ids + asked_ids for ids in whole]
        ids = padded([each + said_ids[:-1] for each in asked])
        hidden = model.model(ids, use_cache=False).last_hidden_state
        for row, (case, ids) in enumerate(zip(batch, asked, strict=True)):
            writes = hidden[row, len(ids) - 1 : len(ids) - 1 + len(said_ids)]
            chances = torch.log_softmax(model.lm_head(writes), dim=-1)
            found[place[id(case)]] = chances[range(len(said_ids)), said_ids].sum().item()
    return found


def _as_data(sample: Sample) -> Data:
    return Data(
        cases=sample.cases,
        rows=[],
        features=[],
        pooled=np.empty((len(sample.cases), 0)),
        y=sample.labels.astype(int),
        kinds=np.array([case.kind for case in sample.cases]),
    )
