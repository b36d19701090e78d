"""JSON schemas made from a seed, of every kind that clients send; every value that fits one is short."""

import random

NAMES = [
    "id",
    "name",
    "kind",
    "count",
    "price",
    "tags",
    "city",
    "when",
    "note",
    "active",
    "größe",
    "名前",
    "a b",
    "x-y",
]
PATTERNS = ["^[a-z]{2,8}$", "^[A-Z][a-z]{1,6}$", "^\\d{3}-\\d{4}$", "^(red|green|blue)$", "^[a-f0-9]{8}$"]
# Not "time": the digits of its fraction have no end.
FORMATS = ["date", "uuid", "ipv4"]


def _string(dice, _):
    kind = dice.randrange(4)
    if kind == 0:
        return {"type": "string", "maxLength": dice.randint(1, 16)}
    if kind == 1:
        return {"type": "string", "pattern": dice.choice(PATTERNS)}
    if kind == 2:
        return {"type": "string", "format": dice.choice(FORMATS)}
    low = dice.randint(0, 4)
    return {"type": "string", "minLength": low, "maxLength": low + dice.randint(0, 8)}


def _number(dice, _):
    if dice.random() < 0.5:
        low = dice.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + dice.randint(0, 500)}
    # The digits of a number with a fraction are not bounded by its range.
    return {"enum": [0.5, 1.25, -2.75, 10]}


def _plain(dice, _):
    return dice.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"const": dice.choice(["fixed", 17, None, True])},
            {"enum": dice.sample(["red", "green", "blue", 1, 2, None, False, "ä", 'quo"te', "back\\slash"], 4)},
        ]
    )


def _array(dice, depth):
    low = dice.randint(0, 2)
    return {"type": "array", "items": _any(dice, depth - 1), "minItems": low, "maxItems": low + dice.randint(0, 3)}


def _object(dice, depth):
    names = dice.sample(NAMES, dice.randint(1, 4))
    required = [n for n in names if dice.random() < 0.7]
    return {
        "type": "object",
        "properties": {n: _any(dice, depth - 1) for n in names},
        "required": required,
        "additionalProperties": False,
    }


def _union(dice, depth):
    return {"anyOf": [_any(dice, depth - 1) for _ in range(dice.randint(2, 3))]}


def _reference(dice, _):
    return {"$ref": f"#/$defs/{dice.choice(['point', 'label'])}"}


def _any(dice, depth):
    leaves = [_string, _number, _plain, _reference]
    return dice.choice(leaves if depth <= 0 else [*leaves, _array, _object, _object, _union])(dice, depth)


def make(seed):
    """A schema whose root is an object, as OpenAI wants it."""
    dice = random.Random(seed)
    schema = _object(dice, dice.randint(1, 3))
    number = {"type": "integer", "minimum": 0, "maximum": 99}
    schema["$defs"] = {
        "point": {
            "type": "object",
            "properties": {"x": number, "y": number},
            "required": ["x", "y"],
            "additionalProperties": False,
        },
        "label": {"type": "string", "enum": ["north", "south"]},
    }
    return schema
