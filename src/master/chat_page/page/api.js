// The two calls the page makes. Every failure is an ApiError whose message a person can read.

import { readEvents } from "./sse.js";
import { apiKey } from "./store.js";

export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
    this.retryAfter = retryAfter; // seconds
  }
}

// {"error": {...}} of the server, whatever else came with it.
function errorOf(body, status, headers) {
  const error = body?.error ?? {};
  const seconds = Number.parseInt(headers?.get("retry-after") ?? "", 10);
  return new ApiError(error.message || `The server answered with status ${status}.`, {
    status,
    param: error.param ?? null,
    code: error.code ?? null,
    retryAfter: Number.isFinite(seconds) ? seconds : null,
  });
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw errorOf(body, response.status, response.headers);
}

export async function listModels() {
  const response = await call("v1/models");
  return (await response.json()).data;
}

// Yields the chunks of a streamed answer; throws when it breaks off before its end.
export async function* streamChat(body, signal) {
  const response = await call("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw errorOf(chunk, 0, null);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection to the server was lost.");
  }
  throw new ApiError("The answer ended before it was complete.");
}
