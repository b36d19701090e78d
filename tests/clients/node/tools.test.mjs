// Tool calls with OpenAI's Node client: whole, streamed, and by the helper that runs the tools itself.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.FATHOM_URL}/v1`, apiKey: process.env.FATHOM_KEY, maxRetries: 0 });
const parameters = { type: "object", properties: { item: { type: "string" } }, required: ["item"] };
const tools = [{ type: "function", function: { name: "open_price", description: "Open the price.", parameters } }];
const request = {
  model: "tiny",
  temperature: 0,
  tools,
  messages: [
    { role: "system", content: "Answer briefly." },
    { role: "user", content: "Please open the price for item saddle." },
  ],
};

test("a call comes apart from the text", async () => {
  const { message, finish_reason: finish } = (await client.chat.completions.create(request)).choices[0];
  assert.equal(finish, "tool_calls");
  assert.equal(message.tool_calls.length, 1);
  assert.equal(message.tool_calls[0].type, "function");
  assert.ok(message.tool_calls[0].id);
  assert.equal(message.tool_calls[0].function.name, "open_price");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { item: "saddle" });
  assert.ok(!message.content?.includes("tool_call"));
});

test("the stream helper gathers the same call", async () => {
  const { message, finish_reason: finish } = (await client.chat.completions.stream(request).finalChatCompletion()).choices[0];
  assert.equal(finish, "tool_calls");
  assert.equal(message.tool_calls[0].function.name, "open_price");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { item: "saddle" });
});

test("a result can be sent back", async () => {
  const { message } = (await client.chat.completions.create(request)).choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: '{"price": 40}' };
  const next = await client.chat.completions.create({
    ...request,
    messages: [...request.messages, message, result],
    max_tokens: 64,
  });
  assert.ok(["stop", "length", "tool_calls"].includes(next.choices[0].finish_reason));
});
