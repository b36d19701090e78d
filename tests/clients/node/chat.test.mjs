// OpenAI's Node client, as its users use it. FATHOM_URL and FATHOM_KEY say where the server is.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const options = { baseURL: `${process.env.FATHOM_URL}/v1`, maxRetries: 0 };
const client = new OpenAI({ ...options, apiKey: process.env.FATHOM_KEY });
const ANSWER = "Fathom is a distributed inference server for large language models.";
const about = { model: "tiny", temperature: 0, messages: [{ role: "user", content: "What is Fathom?" }] };

test("chat answers", async () => {
  const answer = await client.chat.completions.create(about);
  assert.equal(answer.choices[0].message.content.trim(), ANSWER);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a stream says the same, with its usage", async () => {
  let text = "";
  let usage = null;
  const stream = await client.chat.completions.create({ ...about, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text.trim(), ANSWER);
  assert.ok(usage.completion_tokens > 0);
});

test("the stream helper gathers the whole answer", async () => {
  const runner = client.chat.completions.stream(about);
  const pieces = [];
  runner.on("content", (delta) => pieces.push(delta));
  const whole = await runner.finalChatCompletion();
  assert.equal(pieces.join(""), whole.choices[0].message.content);
  assert.equal(whole.choices[0].message.content.trim(), ANSWER);
});

test("an aborted stream ends", async () => {
  const endless = { ...about, stream: true, max_tokens: 3000, ignore_eos: true };
  const stream = await client.chat.completions.create(endless);
  let chunks = 0;
  for await (const _ of stream) {
    if (++chunks === 3) stream.controller.abort();
  }
  assert.ok(chunks < 3000);
});

test("completions and models", async () => {
  const answer = await client.completions.create({ model: "tiny", prompt: "Hello", max_tokens: 4, temperature: 0 });
  assert.equal(answer.usage.completion_tokens, 4);
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.deepEqual(names, ["tiny"]);
  assert.equal((await client.models.retrieve("tiny")).id, "tiny");
});

test("a JSON schema is kept to", async () => {
  const [text, integer] = [{ type: "string" }, { type: "integer" }];
  const properties = { name: text, item: text, count: integer, city: text };
  const schema = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  const answer = await client.chat.completions.create({
    ...about,
    messages: [{ role: "user", content: "Extract the order as JSON. Finn ordered 96 needles to York." }],
    response_format: { type: "json_schema", json_schema: { name: "order", strict: true, schema } },
  });
  const order = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(order, { name: "Finn", item: "needle", count: 96, city: "York" });
});

test("errors are of the client's own classes", async () => {
  const stranger = new OpenAI({ ...options, apiKey: "wrong" });
  await assert.rejects(stranger.chat.completions.create(about), OpenAI.AuthenticationError);
  await assert.rejects(client.chat.completions.create({ ...about, model: "none" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...about, temperature: -1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
});
