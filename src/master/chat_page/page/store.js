// What the browser remembers: the key for this tab alone (sessionStorage), settings, model and theme for good
// (localStorage). Conversations are not kept. Storage that is blocked or full behaves as empty.

const SETTINGS = "fathom.settings";
const MODEL = "fathom.model";
const KEY = "fathom.key";

function read(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

function write(storage, name, value) {
  try {
    if (value === null) window[storage].removeItem(name);
    else window[storage].setItem(name, value);
  } catch {
    // The page works without a memory.
  }
}

let key = read("sessionStorage", KEY) ?? "";

export const apiKey = () => key;

export function setApiKey(value) {
  key = value.trim();
  write("sessionStorage", KEY, key || null);
}

// "#key=..." hands the key over once; it must not stay in the address bar or the history.
export function takeKeyFromAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  if (!fragment.has("key")) return;
  setApiKey(fragment.get("key"));
  history.replaceState(null, "", location.pathname + location.search);
}

export function loadSettings() {
  try {
    const value = JSON.parse(read("localStorage", SETTINGS) ?? "{}");
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

export const saveSettings = (settings) => write("localStorage", SETTINGS, JSON.stringify(settings));

export const loadModel = () => read("localStorage", MODEL);
export const saveModel = (name) => write("localStorage", MODEL, name);
