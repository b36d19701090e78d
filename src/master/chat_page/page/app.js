// The conversation: what was said, what is being said, and the controls around it. One answer at a time.

import { ApiError, listModels, streamChat } from "./api.js";
import { AnswerView, ToolResultView, UserView } from "./messages.js";
import { Settings } from "./settings.js";
import { apiKey, loadModel, saveModel, setApiKey, takeKeyFromAddress } from "./store.js";

const $ = (id) => document.getElementById(id);
const BOTTOM_PX = 48; // so near to the end counts as being there

const turns = []; // {message, view}; the message as the API takes it, null for an answer that failed
let answering = null; // the AbortController of the answer under way
let editing = false; // the prompt holds the last message of the user
let follow = true; // scroll along with what comes
let afterKey = null; // what waits for a key

const settings = new Settings(showSettingsCount);

// ---- scrolling ----

const scroller = $("scroll");

function atBottom() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < BOTTOM_PX;
}

function scrollToEnd() {
  follow = true;
  scroller.scrollTop = scroller.scrollHeight;
  $("latest").hidden = true;
}

function onDrawn() {
  if (follow) scrollToEnd();
  else $("latest").hidden = atBottom();
}

scroller.addEventListener("scroll", () => {
  follow = atBottom();
  $("latest").hidden = follow;
}, { passive: true });
$("latest").addEventListener("click", () => {
  scrollToEnd();
  $("prompt").focus();
});

// ---- conversation ----

function push(message, view) {
  const turn = { message, view };
  turns.push(turn);
  $("log").append(view.node);
  document.body.classList.add("talking");
  return turn;
}

function truncate(length) {
  for (const { view } of turns.splice(length)) view.node.remove();
  document.body.classList.toggle("talking", turns.length > 0);
}

const lastUser = () => turns.findLastIndex(({ message }) => message?.role === "user");

// Buttons belong to the end of the conversation alone.
function offerActions() {
  const user = lastUser();
  turns.forEach(({ view }, i) => {
    const last = i === turns.length - 1;
    if (view instanceof UserView) view.offer(i === user && !answering ? [["Edit", edit]] : []);
    if (view instanceof AnswerView) view.offer(last && !answering && !view.failed ? [["Regenerate", regenerate]] : []);
  });
}

function send(text) {
  if (editing) {
    truncate(lastUser());
    stopEditing();
  }
  closeResultForms();
  push({ role: "user", content: text }, new UserView(text));
  answer();
}

// Everything after the last message that was not an answer is said anew.
function regenerate() {
  if (answering) return;
  truncate(turns.findLastIndex(({ view }) => !(view instanceof AnswerView)) + 1);
  if (turns.length > 0) answer();
}

function closeResultForms() {
  for (const { view } of turns) view.closeResults?.();
}

async function answer() {
  const view = new AnswerView(onDrawn);
  const body = requestBody();
  const turn = push(null, view);
  scrollToEnd();
  setAnswering(new AbortController());
  const clock = { start: performance.now(), first: 0, last: 0 };
  let usage = null;
  let finish = null;
  let failure = null;
  try {
    for await (const chunk of streamChat(body, answering.signal)) {
      const choice = chunk.choices?.[0];
      if (choice?.delta && view.take(choice.delta)) {
        clock.last = performance.now();
        clock.first ||= clock.last;
      }
      finish = choice?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped";
    else failure = error;
  }
  setAnswering(null);
  view.finish(failure && !clock.first ? "" : describe(body.model, usage, clock, finish));
  if (view.content || view.toolCalls.length > 0) {
    turn.message = { role: "assistant", content: view.content };
    if (view.toolCalls.length > 0) turn.message.tool_calls = view.toolCalls;
  }
  if (failure) fail(turn, failure);
  else if (view.toolCalls.length > 0 && finish !== "stopped") view.askResults((texts) => sendResults(view, texts));
  offerActions();
  announce(failure ? "The answer failed" : finish === "stopped" ? "Stopped" : "Answer complete");
}

function requestBody() {
  return {
    model: $("model").value,
    messages: [...settings.systemMessages, ...turns.map(({ message }) => message).filter(Boolean)],
    stream: true,
    stream_options: { include_usage: true },
    ...settings.fields,
  };
}

function fail(turn, error) {
  // What came before the failure is shown but not said again to the model.
  turn.message = null;
  const shown = error instanceof ApiError ? error : new ApiError(`Something is wrong with this page: ${error.message}`);
  turn.view.fail(shown, regenerate);
  if (shown.status === 401) askKey(regenerate, apiKey() ? shown.message : "");
}

function sendResults(view, texts) {
  if (answering) return;
  view.closeResults();
  view.toolCalls.forEach((call, i) => {
    push({ role: "tool", tool_call_id: call.id, content: texts[i] }, new ToolResultView(call.function.name, texts[i]));
  });
  answer();
}

const counted = (n, what) => `${n.toLocaleString("en")} ${what}`;

// "23 tokens · 310 tokens/s · first after 12 ms · prompt 41 (16 cached)"
function describe(model, usage, clock, finish) {
  const facts = [model];
  if (usage) {
    facts.push(counted(usage.completion_tokens, usage.completion_tokens === 1 ? "token" : "tokens"));
    const ms = clock.last - clock.first;
    if (usage.completion_tokens > 1 && ms > 0) {
      facts.push(`${((usage.completion_tokens - 1) / ms * 1000).toFixed(0)} tokens/s`);
    }
  }
  if (clock.first) facts.push(`first after ${Math.round(clock.first - clock.start)} ms`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    facts.push(`prompt ${usage.prompt_tokens.toLocaleString("en")}${cached > 0 ? ` (${cached.toLocaleString("en")} cached)` : ""}`);
  }
  if (finish === "length") facts.push("ended by the token limit");
  if (finish === "stopped") facts.push("stopped by you");
  return facts.join(" · ");
}

function announce(text) {
  $("status").textContent = text;
}

// ---- controls ----

function setAnswering(controller) {
  answering = controller;
  document.body.classList.toggle("answering", controller !== null);
  const button = $("send");
  button.setAttribute("aria-label", controller ? "Stop" : "Send");
  button.title = controller ? "Stop (Esc)" : "Send (Enter)";
  showSendable();
  offerActions();
  if (controller) announce("Answering");
}

function stop() {
  answering?.abort();
}

function showSendable() {
  $("send").disabled = !answering && ($("prompt").value.trim() === "" || $("model").value === "");
}

function fitPrompt() {
  const prompt = $("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
  showSendable();
}

function setPrompt(text) {
  $("prompt").value = text;
  fitPrompt();
  $("prompt").focus();
}

function edit() {
  const at = lastUser();
  if (answering || at < 0) return;
  editing = true;
  $("editing").hidden = false;
  turns[at].view.node.classList.add("edited");
  setPrompt(turns[at].message.content);
}

function stopEditing() {
  editing = false;
  $("editing").hidden = true;
  for (const { view } of turns) view.node.classList.remove("edited");
}

function newChat() {
  stop();
  stopEditing();
  truncate(0);
  setPrompt("");
}

function showSettingsCount() {
  $("settings-open").classList.toggle("set", settings.count > 0);
  $("settings-open").title = settings.count > 0 ? `Settings (${settings.count} set)` : "Settings";
}

function submit() {
  const text = $("prompt").value.trim();
  if (answering || text === "" || $("model").value === "") return;
  send(text);
  setPrompt("");
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (answering) stop();
  else submit();
});
$("prompt").addEventListener("input", fitPrompt);
$("prompt").addEventListener("keydown", (event) => {
  // Enter that ends a composition belongs to the input method.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
  if (event.key === "ArrowUp" && $("prompt").value === "" && !answering) {
    event.preventDefault();
    edit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (answering) stop();
  else if (editing) {
    stopEditing();
    setPrompt("");
  }
});
$("editing-cancel").addEventListener("click", () => {
  stopEditing();
  setPrompt("");
});
$("new-chat").addEventListener("click", newChat);
$("settings-open").addEventListener("click", () => settings.open());
$("model").addEventListener("change", () => saveModel($("model").value));
for (const example of document.querySelectorAll(".examples button")) {
  example.addEventListener("click", () => {
    setPrompt(example.textContent);
    submit();
  });
}

// ---- key and models ----

// `then` runs once a key is given.
function askKey(then, complaint = "") {
  afterKey = then;
  $("key-error").textContent = complaint;
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("key").value.trim() === "") return;
  setApiKey($("key").value);
  $("key").value = "";
  $("key-dialog").close();
  afterKey?.();
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-dialog").addEventListener("close", () => $("prompt").focus());
$("connect").addEventListener("click", connect);

function showModels(models) {
  const select = $("model");
  select.replaceChildren(...models.map(({ id, max_model_len: length }) => {
    const option = new Option(id, id);
    if (length) option.title = `${length.toLocaleString("en")} tokens of context`;
    return option;
  }));
  const wanted = loadModel();
  if (models.some(({ id }) => id === wanted)) select.value = wanted;
  select.disabled = models.length === 0;
}

async function connect() {
  $("trouble").hidden = true;
  try {
    showModels(await listModels());
  } catch (error) {
    showModels([]);
    const unauthorized = error.status === 401;
    $("trouble-text").textContent = unauthorized ? "This server asks for a key." : error.message;
    $("connect").textContent = unauthorized ? "Enter the key" : "Try again";
    $("trouble").hidden = false;
    if (unauthorized) askKey(connect, apiKey() ? error.message : "");
  }
  showSendable();
}

takeKeyFromAddress();
addEventListener("hashchange", () => {
  takeKeyFromAddress();
  connect();
});
showSettingsCount();
fitPrompt();
connect();
// On a phone it would open the keyboard.
if (!matchMedia("(pointer: coarse)").matches) $("prompt").focus();
