"""Makes tests/golden/logits: small random checkpoints of every model family and what transformers
computes for them in FP32, and the same for models/tiny.

    python tools/goldens/make_logit_goldens.py        (needs torch and transformers 5)

A case is a folder with config.json, model.safetensors (models/tiny has its own) and
golden.safetensors: tokens_<i> [n] I32, rows_<i> [r] I32 and logits_<i> [r, vocab] F32, the logits
after tokens_<i>[: row + 1].
"""

import json
import math
import pathlib

import torch
import transformers
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "golden" / "logits"

# The pieces that all cases share; a case overrides them.
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
THETA = {"rope_type": "default", "rope_theta": 10000.0}

CASES = {
    # Multi-head, stored in FP32, sizes that are no multiple of a vector, biases everywhere.
    "llama_mha_bias_f32": dict(
        kind="Llama",
        stored="float32",
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        hidden_size=40,
        intermediate_size=73,
        vocab_size=101,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=THETA,
    ),
    # The scaling of Llama 3.1, in the older dialect, head_dim unlike hidden / heads, tied.
    "llama31_gqa4_tied": dict(
        kind="Llama",
        old_dialect=True,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama_linear_f16": dict(
        kind="Llama",
        stored="float16",
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "mistral_window": dict(
        kind="Mistral",
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=24,
        rope_parameters=THETA,
    ),
    # One full and one sliding layer: two groups of KV.
    "qwen2_gqa7_mixed": dict(
        kind="Qwen2",
        num_attention_heads=7,
        num_key_value_heads=1,
        head_dim=32,
        use_sliding_window=True,
        sliding_window=19,
        max_window_layers=1,
        rope_parameters=THETA,
    ),
    "qwen3_dim128_tied": dict(
        kind="Qwen3",
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=128,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
    "qwen3_yarn_dim96_gqa7": dict(
        kind="Qwen3",
        num_attention_heads=7,
        num_key_value_heads=1,
        head_dim=96,
        hidden_size=32,
        intermediate_size=64,
        max_position_embeddings=256,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
}


def randomise(model, generator):
    """Weights that make every part matter: norms unlike 1, biases unlike 0, attention not flat."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("norm.weight"):
            weight.data = 1 + 0.2 * noise
        elif name.endswith("bias"):
            weight.data = 0.2 * noise
        elif "embed_tokens" in name:
            weight.data = noise / math.sqrt(2)
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
            weight.data = gain * noise / math.sqrt(weight.shape[1])


def to_old_dialect(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def goldens(model, sequences):
    """sequences: list of (tokens, rows)."""
    out = {}
    for i, (tokens, rows) in enumerate(sequences):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0]
        out[f"tokens_{i}"] = torch.tensor(tokens, dtype=torch.int32)
        out[f"rows_{i}"] = torch.tensor(rows, dtype=torch.int32)
        out[f"logits_{i}"] = logits[rows].float().contiguous()
    return out


def make_family(name, case, seed):
    case = dict(case)
    kind = case.pop("kind")
    stored = getattr(torch, case.pop("stored", "bfloat16"))
    old_dialect = case.pop("old_dialect", False)
    config = getattr(transformers, f"{kind}Config")(**{**COMMON, **case})
    generator = torch.Generator().manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    randomise(model, generator)
    folder = OUT / name
    model.to(stored).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # What is stored is what is computed with, widened. (Widening the model at hand would keep its
    # rotary frequencies rounded.)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    lengths = (150, 37, 5)
    sequences = []
    for length in lengths:
        tokens = torch.randint(0, config.vocab_size, (length,), generator=generator).tolist()
        rows = sorted(set(range(0, length, 11)) | {length - 1})
        sequences.append((tokens, rows))
    save_file(goldens(model, sequences), folder / "golden.safetensors")
    if old_dialect:
        to_old_dialect(folder / "config.json")


def make_tiny():
    folder = ROOT / "models" / "tiny"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lines = (folder / "eval.jsonl").read_text().splitlines()
    sequences = []
    for index in (0, len(lines) // 2, len(lines) - 1):
        example = json.loads(lines[index])
        prompt = tokenizer.apply_chat_template(
            example["messages"],
            tools=example.get("tools"),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        with torch.no_grad():
            tokens = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
        tokens = tokens[0].tolist()
        # The end of the prefill, and the decode.
        sequences.append((tokens, [0, len(prompt) // 2, *range(len(prompt) - 1, len(tokens), 3)]))
    out = OUT / "tiny"
    out.mkdir(parents=True, exist_ok=True)
    save_file(goldens(model, sequences), out / "golden.safetensors")


def main():
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(CASES.items()):
        make_family(name, case, seed)
    make_tiny()
    total = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{OUT}: {total} bytes")


if __name__ == "__main__":
    main()
