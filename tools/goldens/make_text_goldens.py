#!/usr/bin/env python3
"""Writes tests/golden/text: what transformers makes of our texts and templates.

Run with an interpreter that has transformers (any 5.x) and tokenizers. The output is committed;
it changes only when these scripts or the reference do.
"""

import datetime
import json
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import text_conversations
import text_idioms
import text_templates
import text_tokenizers
from text_corpus import SAMPLES
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "golden" / "text"
NOW = datetime.datetime(2024, 5, 17, 12, 30, 15, tzinfo=datetime.UTC)
TOKENS = {"bos_token": "<|bos|>", "eos_token": "</s>"}
TINY_PROMPTS = 16
RANDOM_SEQUENCES = 9
# Conversations that every setting is tried on; the others see the plain one alone.
THOROUGH = ("long", "object_call", "text_calls")


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # Lone surrogates or line separators would be trouble for other readers.
    (OUT / name).write_text(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n", encoding="utf-8")


def tokenizer_cases(tokenizer, seed):
    """`tokenizer` as transformers wraps it; everything with its own encode and decode."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()

    def decode(ids, skip):
        if not ids:
            return ""
        return tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)

    added = backend.get_added_tokens_decoder()
    special = sorted(i for i, token in added.items() if token.special)

    def decoded(ids):
        kept = [i for i in ids if i not in special]
        # Some decoders of the reference crash on nothing at all.
        both = [decode(ids, False), decode(ids, True) if kept else ""]
        return both[:1] if both[0] == both[1] else both

    encoded = []
    for text in SAMPLES:
        ids = tokenizer.encode(text)
        plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        encoded.append(
            {
                "text": text,
                "ids": ids,
                "plain": plain,
                "decoded": decoded(ids),
            }
        )
    rng = random.Random(seed)
    size = max(tokenizer.get_vocab().values()) + 1
    sequences = []
    for index in range(RANDOM_SEQUENCES):
        ids = [rng.randrange(size) for _ in range(1 + 5 * index)]
        sequences.append({"ids": ids, "decoded": decoded(ids)})
    return {"vocab_size": size, "special": special, "encoded": encoded, "sequences": sequences}


def wrap(path):
    backend = Tokenizer.from_file(str(path))
    specials = [t.content for t in backend.get_added_tokens_decoder().values() if t.special]
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=specials)


def make_tokenizers():
    cases = {}
    for index, (name, make) in enumerate(text_tokenizers.ALL.items()):
        path = OUT / f"{name}.json"
        if not path.exists():  # training is not reproducible to the last tie
            path.write_text(make().to_str() + "\n", encoding="utf-8")
        cases[name] = tokenizer_cases(wrap(path), index)
    write("tokenizer_cases.json", cases)


def render(template, messages, tools, add_generation_prompt, variables):
    """{"text": ..} or {"error": ..}; "" stands for an error in words of the reference's own."""
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
        return {"text": rendered[0]}
    except Exception as error:
        raised = type(error).__name__ == "TemplateError"
        return {"error": str(error) if raised else ""}


def compact(value):
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def make_templates():
    families = []
    for name, source in text_templates.FAMILIES.items():
        cases = []
        for messages in text_conversations.CONVERSATIONS:
            for setting, (tools, extra, prompt) in text_conversations.SETTINGS.items():
                if setting != "plain" and messages not in THOROUGH:
                    continue
                outcome = render(source, text_conversations.CONVERSATIONS[messages], tools, prompt, {**TOKENS, **extra})
                cases.append({"messages": messages, "setting": setting, **outcome})
        families.append({"name": name, "source": source, "cases": cases})
    idioms = []
    variables = {**TOKENS, **text_idioms.VARIABLES}
    for source in text_idioms.IDIOMS + text_idioms.BLOCKS:
        messages = text_conversations.CONVERSATIONS["long"]
        idioms.append({"source": source, **render(source, messages, None, True, variables)})
    write(
        "template_cases.json",
        {
            "tokens": compact(TOKENS),
            "now": int(NOW.timestamp()),
            "messages": {k: compact(v) for k, v in text_conversations.CONVERSATIONS.items()},
            "settings": {
                k: {"tools": compact(tools), "extra": compact(extra), "prompt": prompt}
                for k, (tools, extra, prompt) in text_conversations.SETTINGS.items()
            },
            "families": families,
            "idiom_variables": compact(text_idioms.VARIABLES),
            "idioms": idioms,
        },
    )


def make_tiny():
    """The tiny model's own tokenizer and template, over prompts of its evaluation."""
    directory = ROOT / "models" / "tiny"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    tokenizer.chat_template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    prompts = []
    lines = (directory / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[:: max(1, len(lines) // TINY_PROMPTS)]:
        row = json.loads(line)
        text = tokenizer.apply_chat_template(
            row["messages"], tools=row.get("tools"), add_generation_prompt=True, tokenize=False
        )
        prompts.append(
            {
                "messages": compact(row["messages"]),
                "tools": compact(row.get("tools")),
                "text": text,
                "ids": tokenizer.encode(text),
            }
        )
    write("tiny_cases.json", {"prompts": prompts, **tokenizer_cases(tokenizer, 99)})


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    chat_template_utils.datetime = FixedClock
    make_tokenizers()
    make_templates()
    make_tiny()


if __name__ == "__main__":
    main()
