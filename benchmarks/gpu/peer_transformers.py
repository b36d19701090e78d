#!/usr/bin/env python3
"""The peer on the same card: transformers' compiled decode on a static cache, and its prefill.

    benchmarks/gpu/peer_transformers.py [--batch 1,32] [--context 1024] [--prompt 8192] [--json FILE]

Llama-3.1-8B's shape with random weights, BF16, as fathom-gpu-engine-bench runs it; PyTorch's own attention (SDPA).
Needs a machine with torch and transformers; the project itself does not. Run it in one go with the engine's benchmark.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
STEPS = 40
ROUNDS = 5


def make_model():
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="sdpa"))
    return model.eval()


def seconds(call, calls):
    torch.cuda.synchronize()
    rounds = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - before) / calls)
    return statistics.median(rounds)


def decode(model, batch, context):
    """Seconds a step of `batch` sequences behind `context` tokens takes."""
    # The cache counts what it holds by itself, so the context grows by a token with every step.
    cache = StaticCache(config=model.config, max_cache_len=context + STEPS * ROUNDS + 64)
    prompt = torch.randint(0, SHAPE["vocab_size"], (batch, 64), device="cuda")
    token = prompt[:, :1].clone()
    with torch.inference_mode():
        for _ in range(0, context, 64):
            model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        step = torch.compile(model, mode="reduce-overhead", fullgraph=True)

        def one():
            out = step(token, past_key_values=cache, use_cache=True)
            return out.logits[:, -1].argmax(-1)

        for _ in range(4):
            one()
        return seconds(one, STEPS)


def prefill(model, prompt):
    ids = torch.randint(0, SHAPE["vocab_size"], (1, prompt), device="cuda")
    with torch.inference_mode():

        def one():
            model(ids, use_cache=True, logits_to_keep=1)

        one()
        return seconds(one, 1)


def numbers(text):
    return [int(x) for x in text.split(",") if x]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=numbers, default=[1, 32])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--prompt", type=numbers, default=[8192])
    parser.add_argument("--json")
    options = parser.parse_args()
    model = make_model()
    print(f"transformers on {torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    cells = []
    for prompt in options.prompt:
        took = prefill(model, prompt)
        cells.append({"kind": "prefill", "prompt": prompt, "seconds": took})
        print(f"prefill  {prompt:8} {took * 1e3:10.3f} ms {prompt / took:10.0f} tokens/s", flush=True)
    for batch in options.batch:
        torch.compiler.reset()
        took = decode(model, batch, options.context)
        cells.append({"kind": "decode", "batch": batch, "context": options.context, "seconds": took})
        print(f"decode   {batch:8} {took * 1e3:10.3f} ms {batch / took:10.0f} tokens/s", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(cells, file)


if __name__ == "__main__":
    main()
