// How one message of a conversation is shown. Text that streams in is gathered and drawn once a frame.

import { MarkdownView, copyText } from "./markdown.js";

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function button(className, text, action) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", () => action(made));
  return made;
}

function article(kind, who) {
  const made = element("article", `message ${kind}`);
  made.append(element("h2", "sr", who));
  return made;
}

const pretty = (json) => {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // not whole yet
  }
};

export class UserView {
  constructor(text) {
    this.node = article("user", "You");
    this.node.append(element("div", "bubble", text));
    this.actions = this.node.appendChild(element("div", "actions"));
  }

  // Buttons of the last message alone.
  offer(actions) {
    this.actions.replaceChildren(...actions.map(([label, action]) => button("quiet", label, action)));
  }
}

export class ToolResultView {
  constructor(name, text) {
    this.node = article("tool-result", `Result of ${name}`);
    const details = element("details", "aside");
    details.append(element("summary", "", `Result of ${name}`), element("pre", "", pretty(text)));
    this.node.append(details);
  }
  offer() {}
}

export class AnswerView {
  content = "";
  reasoning = "";
  toolCalls = []; // as they will be sent back
  failed = false;
  #drawn = { content: 0, reasoning: 0 };
  #markdown = null;
  #thought = null; // {details, summary, text node, since}
  #calls = []; // {title, body} a call
  #frame = 0;
  #onDrawn;

  // `onDrawn` is called after each change of what is seen.
  constructor(onDrawn) {
    this.#onDrawn = onDrawn;
    this.node = article("answer", "Answer");
    this.node.setAttribute("aria-busy", "true");
    this.body = this.node.appendChild(element("div", "body"));
    this.text = element("div", "text");
    this.waiting = this.body.appendChild(element("div", "waiting"));
    this.waiting.append(element("i"), element("i"), element("i"));
    this.stats = element("p", "stats");
    this.actions = element("div", "actions");
    this.foot = element("div", "foot");
    this.foot.append(this.stats, this.actions);
  }

  // Takes the `delta` of a chunk. True when it said something.
  take(delta) {
    if (delta.reasoning_content) this.reasoning += delta.reasoning_content;
    if (delta.content) this.content += delta.content;
    for (const piece of delta.tool_calls ?? []) this.#takeCall(piece);
    const said = Boolean(delta.reasoning_content || delta.content || delta.tool_calls?.length);
    if (said && this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#draw());
    return said;
  }

  #takeCall({ index = 0, id, function: part = {} }) {
    const call = (this.toolCalls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (id) call.id = id;
    if (part.name) call.function.name += part.name;
    if (part.arguments) call.function.arguments += part.arguments;
  }

  #draw() {
    cancelAnimationFrame(this.#frame); // none is pending when this one runs
    this.#frame = 0;
    this.waiting.remove();
    const reasoning = this.reasoning.slice(this.#drawn.reasoning);
    if (reasoning) this.#drawReasoning(reasoning);
    const content = this.content.slice(this.#drawn.content);
    if (content) {
      this.#endThought();
      if (!this.#markdown) {
        this.#markdown = new MarkdownView(this.text);
        this.body.append(this.text);
      }
      this.#markdown.append(content);
    }
    this.#drawn = { content: this.content.length, reasoning: this.reasoning.length };
    this.toolCalls.forEach((call, i) => this.#drawCall(call, i));
    this.#onDrawn();
  }

  #drawReasoning(text) {
    if (!this.#thought) {
      const details = element("details", "aside thought");
      const summary = element("summary", "", "Thinking…");
      const pre = element("div", "thought-text");
      const node = pre.appendChild(document.createTextNode(""));
      details.append(summary, pre);
      details.addEventListener("toggle", () => this.#onDrawn());
      this.body.prepend(details);
      this.#thought = { details, summary, node, since: performance.now() };
    }
    this.#thought.node.appendData(this.#thought.node.length === 0 ? text.trimStart() : text);
  }

  #endThought() {
    if (!this.#thought?.since) return;
    const ms = performance.now() - this.#thought.since;
    this.#thought.summary.textContent = ms < 100 ? "Thought" : `Thought for ${(ms / 1000).toFixed(1)} s`;
    this.#thought.since = 0;
  }

  #drawCall(call, i) {
    this.#endThought();
    if (!this.#calls[i]) {
      const card = element("section", "call");
      const title = element("h3");
      const body = element("pre");
      card.append(title, body);
      this.body.append(card);
      this.#calls[i] = { card, title, body };
    }
    this.#calls[i].title.textContent = call.function.name || "…";
    this.#calls[i].body.textContent = pretty(call.function.arguments);
  }

  // The end of the stream, whatever it was.
  finish(note) {
    if (this.#frame !== 0) cancelAnimationFrame(this.#frame);
    this.#draw();
    this.#endThought();
    // A server may number its calls as it likes.
    this.toolCalls = this.toolCalls.filter(Boolean);
    this.#calls = this.#calls.filter(Boolean);
    this.node.setAttribute("aria-busy", "false");
    this.stats.textContent = note;
    this.node.append(this.foot);
    this.#onDrawn();
  }

  offer(actions) {
    const copy = this.content ? [["Copy", (self) => copyText(this.content, self)]] : [];
    this.actions.replaceChildren(...[...copy, ...actions].map(([label, action]) => button("quiet", label, action)));
  }

  // The error in the server's own words, with the way on.
  fail(error, retry) {
    this.failed = true;
    const box = element("div", "error");
    box.setAttribute("role", "alert");
    box.append(element("strong", "", error.status ? `Error ${error.status}` : "Error"), element("p", "", error.message));
    const facts = [error.code, error.param && `parameter: ${error.param}`].filter(Boolean).join(" · ");
    if (facts) box.append(element("p", "facts", facts));
    const again = button("button small", "Try again", retry);
    box.append(again);
    if (error.retryAfter) countDown(again, error.retryAfter);
    this.body.append(box);
    this.#onDrawn();
  }

  // Boxes for the results of the calls; `send` gets a list of texts.
  askResults(send) {
    const boxes = this.toolCalls.map((call, i) => {
      const box = element("textarea", "result");
      box.rows = 2;
      box.placeholder = `What ${call.function.name} returned`;
      box.setAttribute("aria-label", `Result of ${call.function.name}`);
      this.#calls[i].card.append(box);
      return box;
    });
    const form = element("div", "send-results");
    form.append(button("button small", boxes.length > 1 ? "Send results" : "Send result", () => send(boxes.map((b) => b.value))));
    this.body.append(form);
    this.resultForm = [form, ...boxes];
    this.#onDrawn();
  }

  closeResults() {
    for (const node of this.resultForm ?? []) node.remove();
    this.resultForm = null;
  }
}

// Retry-After: the button says how long, and may be pressed sooner.
function countDown(again, left) {
  const tick = () => {
    again.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0) setTimeout(tick, 1000);
    left -= 1;
  };
  tick();
}
