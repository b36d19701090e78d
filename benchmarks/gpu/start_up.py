#!/usr/bin/env python3
"""Times `fathom up` from the start of the process to the first token, with a checkpoint of Llama-3.1-8B's shape.

The checkpoint is made first, with random weights and the tokenizer of models/tiny, in a folder of about 16 GB that is
removed again: five shards, BF16. Writing it leaves it in the page cache, and every start reads it once more beforehand.
Wants nothing but Python; prints one line a start.
"""

import argparse
import array
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 32, 4096, 14336, 32, 8, 128, 128256
SHARDS = 5
BLOCK = 8 << 20


def tensors():
    """Name and shape of every weight, in the order of the layers."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def nbytes(shape):
    count = 2
    for size in shape:
        count *= size
    return count


def write_checkpoint(folder):
    """A model directory as Hugging Face lays it out; returns its bytes of weights."""
    tiny = ROOT / "models" / "tiny"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(tiny / name, folder / name)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 131072,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
        "eos_token_id": 3197,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = random.Random(1)
    # BF16 of either sign between 0.0078 and 0.031.
    block = array.array("H", (0x3C00 + rng.randrange(256) + 0x8000 * rng.randrange(2) for _ in range(BLOCK // 2)))
    block = memoryview(block).cast("B")

    every = list(tensors())
    total = sum(nbytes(shape) for _, shape in every)
    shards, filled = [[]], 0
    for name, shape in every:
        if filled > total / SHARDS and len(shards) < SHARDS:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += nbytes(shape)
    index = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, offset = {}, 0
        for name, shape in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + nbytes(shape)]}
            offset += nbytes(shape)
            index[name] = file
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(encoded)) + encoded)
            while offset > 0:
                offset -= out.write(block[: min(BLOCK, offset)])
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    return total


def read_through(folder):
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb", buffering=0) as source:
            while source.read(BLOCK):
                pass


def first_token(url, model):
    body = json.dumps({"model": model, "prompt": "What is Fathom?", "max_tokens": 1}).encode()
    request = urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == 1, answer


def time_start(program, folder, device):
    """Seconds from the start of the process to ready and to the first token."""
    with tempfile.TemporaryDirectory() as state:
        description = pathlib.Path(state) / "cluster.json"
        command = [program, "up", "--open", "--port", "0", "--grpc-port", "0", "--device", device]
        command += ["--model", str(folder), "--model-name", "m", "--state-dir", state]
        with open(pathlib.Path(state) / "up.log", "w+b") as log:
            begin = time.monotonic()
            cluster = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                while not (description.exists() and description.stat().st_size):
                    if cluster.poll() is not None:
                        log.seek(0)
                        sys.exit("fathom up ended:\n" + log.read().decode(errors="replace"))
                    time.sleep(0.001)
                ready = time.monotonic() - begin
                first_token(json.loads(description.read_text())["http"], "m")
                return ready, time.monotonic() - begin
            finally:
                cluster.terminate()
                cluster.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=ROOT / "build" / "cuda" / "bin", type=pathlib.Path, help="folder of fathom")
    parser.add_argument("--device", default="cuda", help="as fathom up takes it (default cuda)")
    parser.add_argument("--starts", default=3, type=int, help="how often (default 3)")
    parser.add_argument("--dir", help="where the checkpoint is made (default the temporary folder)")
    parser.add_argument("--json", type=pathlib.Path, help="figures as JSON")
    arguments = parser.parse_args()

    figures = []
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        folder = pathlib.Path(folder)
        print("making the checkpoint", file=sys.stderr)
        total = write_checkpoint(folder)
        for _ in range(arguments.starts):
            read_through(folder)
            ready, first = time_start(str(arguments.bin / "fathom"), folder, arguments.device)
            print(f"ready {ready:.3f} s, first token {first:.3f} s, {total / 1e9:.2f} GB in {SHARDS} files")
            figures.append({"ready_s": ready, "first_token_s": first, "weight_bytes": total, "files": SHARDS})
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
