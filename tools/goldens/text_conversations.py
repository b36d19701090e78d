"""Conversations the chat templates are rendered with."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.\nOf today, \"now\" <&> 'there'.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "城市 or city"},
                "days": {"type": "integer", "minimum": 1, "maximum": 1e16, "default": 3},
                "units": {"type": "string", "enum": ["°C", "°F"], "default": None},
                "exact": {"type": ["boolean", "null"], "default": True},
                "ratio": {"type": "number", "default": 0.1},
                "tags": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                "box": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}, "y": {}},
                    "required": ["x"],
                },
            },
            "required": ["place"],
        },
        "return": {"type": "string"},
    },
}
EMPTY_TOOL = {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}

SYSTEM = {"role": "system", "content": "  You are exact.\n"}
ASK = {"role": "user", "content": " What's the weather in 北京? 🌦️ "}
ANSWER = {"role": "assistant", "content": "<think>\nLet me see.\n\n</think>\n\nSunny, e\u0301t\u00e9.\n"}
MORE = {"role": "user", "content": "And\ttomorrow?\r\n\n```python\nprint('{{ x }}')\n```"}


def call(arguments, call_id="abc123XYZ", name="get_weather"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


OBJECT_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [call({"place": "北京", "days": 2, "ratio": 1.0, "exact": None})],
}
TEXT_CALL = {
    "role": "assistant",
    "content": "Calling.",
    "tool_calls": [call('{"place": "Paris"}'), call('{"place": "Łódź"}', "def456UVW")],
}
RESULT = {"role": "tool", "content": '{"sky": "晴", "t": 21.5}', "tool_call_id": "abc123XYZ"}
SECOND_RESULT = {"role": "tool", "content": "rain", "tool_call_id": "def456UVW"}
OBJECT_RESULT = {"role": "tool", "content": {"sky": "晴", "t": [21.5, 1e-7, True, None]}, "tool_call_id": "abc123XYZ"}
PARTS = {
    "role": "user",
    "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what is it?"}],
}
REASONED = {"role": "assistant", "reasoning": "\nBecause.\n", "content": "So."}
NO_CONTENT = {"role": "assistant"}

CONVERSATIONS = {
    "empty": [],
    "one": [ASK],
    "system": [SYSTEM, ASK],
    "long": [SYSTEM, ASK, ANSWER, MORE],
    "twice_user": [ASK, MORE],
    "object_call": [SYSTEM, ASK, OBJECT_CALL, RESULT],
    "text_calls": [ASK, TEXT_CALL, RESULT, SECOND_RESULT, ANSWER, MORE],
    "object_result": [ASK, OBJECT_CALL, OBJECT_RESULT],
    "parts": [PARTS],
    "reasoned": [ASK, REASONED, MORE, REASONED],
    "no_content": [ASK, NO_CONTENT],
    "late_system": [ASK, SYSTEM, ANSWER],
    "odd_role": [ASK, {"role": "critic", "content": "no"}],
}

# (tools, further template arguments, add_generation_prompt)
SETTINGS = {
    "plain": (None, {}, True),
    "no_prompt": (None, {}, False),
    "tools": ([WEATHER, EMPTY_TOOL], {}, True),
    "no_tools": ([], {}, True),
    "arguments": (
        [WEATHER],
        {
            "enable_thinking": False,
            "tools_in_user_message": False,
            "builtin_tools": ["search", "interpreter", "get_weather"],
            "date_string": "1 May 1999",
        },
        True,
    ),
}
