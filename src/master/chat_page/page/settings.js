// The settings: what they are, the form that shows them, the fields of a request they become. An empty one is left out of
// the request, so that the model's own default holds.

import { loadSettings, saveSettings } from "./store.js";

// The bounds are the server's; it is the judge of what is between.
const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 100, step: "any", hint: "0: always the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: "any", hint: "Share of probability kept" },
  { name: "top_k", label: "Top k", min: -1, step: 1, hint: "Tokens kept; 0: all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: "any", hint: "Against the likeliest token" },
  { name: "max_tokens", label: "Max tokens", min: 1, step: 1, hint: "Length of an answer" },
  { name: "seed", label: "Seed", step: 1, hint: "Same seed, same answer" },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: "any", hint: "-2 to 2" },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: "any", hint: "-2 to 2" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0, max: 100, step: "any", hint: "1: none" },
];

function parseTools(text) {
  if (text.trim() === "") return [];
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new SyntaxError("a list is expected: [{\"type\": \"function\", ...}]");
  return tools;
}

export class Settings {
  #values = loadSettings();
  #dialog = document.getElementById("settings");
  #form = document.getElementById("settings-form");
  #changed;

  // `changed` is called whenever a setting is.
  constructor(changed) {
    this.#changed = changed;
    const grid = document.getElementById("numbers");
    for (const number of NUMBERS) grid.append(numberField(number));
    this.#show();
    this.#form.addEventListener("input", () => this.#read());
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("settings-reset").addEventListener("click", () => {
      this.#values = {};
      this.#show();
      this.#save();
    });
    document.getElementById("settings-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close(); // beside it
    });
  }

  open() {
    this.#dialog.showModal();
  }

  // How many are set.
  get count() {
    return Object.keys(this.#values).length;
  }

  // The fields of a request but for model and messages.
  get fields() {
    const { system, stop, tools, ...numbers } = this.#values;
    const fields = { ...numbers };
    if (stop) fields.stop = stop.split("\n").filter((line) => line !== "");
    if (tools) fields.tools = parseTools(tools);
    return fields;
  }

  get systemMessages() {
    return this.#values.system ? [{ role: "system", content: this.#values.system }] : [];
  }

  #input(name) {
    return this.#form.elements.namedItem(name);
  }

  #show() {
    for (const { name } of NUMBERS) this.#input(name).value = this.#values[name] ?? "";
    for (const name of ["system", "stop", "tools"]) this.#input(name).value = this.#values[name] ?? "";
    this.#check();
  }

  // What cannot be understood is not taken over.
  #read() {
    const values = {};
    for (const { name } of NUMBERS) {
      const input = this.#input(name);
      if (input.value !== "" && input.validity.valid) values[name] = input.valueAsNumber;
    }
    for (const name of ["system", "stop", "tools"]) {
      const text = this.#input(name).value;
      if (text.trim() !== "") values[name] = text;
    }
    if (!this.#check()) delete values.tools;
    this.#values = values;
    this.#save();
  }

  #check() {
    const box = this.#input("tools");
    const note = document.getElementById("tools-error");
    try {
      parseTools(box.value);
      note.textContent = "";
    } catch (error) {
      note.textContent = `Not used: ${error.message}`;
    }
    box.setAttribute("aria-invalid", String(note.textContent !== ""));
    return note.textContent === "";
  }

  #save() {
    saveSettings(this.#values);
    this.#changed();
  }
}

function numberField({ name, label, hint, ...limits }) {
  const field = document.createElement("label");
  field.className = "field";
  const title = document.createElement("span");
  title.textContent = label;
  const input = document.createElement("input");
  Object.assign(input, { type: "number", name, placeholder: "default", inputMode: "decimal", autocomplete: "off" });
  for (const [limit, value] of Object.entries(limits)) input.setAttribute(limit, value);
  const small = document.createElement("small");
  small.textContent = hint;
  field.append(title, input, small);
  return field;
}
