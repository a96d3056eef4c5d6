"""A run's model folder, loaded by vLLM and by transformers: `python reloaded.py RUN/model QUESTION...` tells what it answers.

Prints one line of JSON: the greedy answers to the questions by vLLM, and the distance of its log-probs from those that
transformers gives the same tokens, in nats a token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.generate.hf import HFGenerator
from harness.generate.student import ChatCodec
from harness.generate.vllm import VLLMGenerator
from harness.train.load import load_causal_lm, load_tokenizer
from harness.types import Sampling

if __name__ == "__main__":
    folder, questions = sys.argv[1], sys.argv[2:]
    model, codec = load_causal_lm(folder, torch.float32), ChatCodec(load_tokenizer(folder))
    plain = HFGenerator(model, sorted(codec.ends), codec.pad, vocabulary=len(codec.tokenizer))
    sampler = VLLMGenerator(plain, folder, 0.15, "float32")
    asked = [codec.prompt([{"role": "user", "content": question}]) for question in questions]
    replies = sampler.generate(asked, Sampling(0.0, 64), [("row", i) for i in range(len(asked))])
    again = plain.likelihoods([(ids, reply.tokens) for ids, reply in zip(asked, replies, strict=True)])
    gaps = [abs(sum(reply.logprobs) - total) / len(reply.tokens) for reply, (total, _) in zip(replies, again, strict=True)]
    sampler.close()
    print(json.dumps({"answers": [codec.text(reply.tokens) for reply in replies], "gap": max(gaps)}))
