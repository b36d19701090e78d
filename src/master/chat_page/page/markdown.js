// A small part of Markdown, drawn as DOM nodes while it streams in. Text becomes text nodes, never markup: whatever a model
// writes, nothing of it runs. Only the last block is drawn anew as it grows; what lies before it is final, and a code block
// only gets the new text appended.

const DEPTH_MAX = 6;
const SPAN_MAX = 4000; // how far a closing mark is looked for
const TABLE_LINE_MAX = 1000;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]{0,40})[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// ---- blocks ----

const isBlank = (line) => line.trim() === "";

function startsTable(lines, i) {
  const rule = lines[i + 1] ?? "";
  return lines[i].includes("|") && rule.length < TABLE_LINE_MAX && TABLE_RULE.test(rule);
}

function startsOther(lines, i) {
  const line = lines[i];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^ {0,3}>/.test(line) ||
    startsTable(lines, i);
}

// Each block: {kind, first, end, ...}, `first` and `end` being numbers of lines.
function parseBlocks(lines) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    const block = parseBlock(lines, i);
    blocks.push({ ...block, first: i });
    i = block.end;
  }
  return blocks;
}

function parseBlock(lines, i) {
  const line = lines[i];
  const fence = FENCE.exec(line);
  if (fence) return parseCode(lines, i, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: heading[2].trim().replace(/[ \t]#+$/, ""), end: i + 1 };
  if (RULE.test(line)) return { kind: "rule", end: i + 1 };
  let end = i + 1;
  if (/^ {0,3}>/.test(line)) {
    while (end < lines.length && /^ {0,3}>/.test(lines[end])) end += 1;
    return { kind: "quote", lines: lines.slice(i, end).map((l) => l.replace(/^ {0,3}> ?/, "")), end };
  }
  if (ITEM.test(line)) return parseList(lines, i);
  if (startsTable(lines, i)) {
    while (end < lines.length && lines[end].includes("|")) end += 1;
    return { kind: "table", head: lines[i], rule: lines[i + 1], rows: lines.slice(i + 2, end), end };
  }
  while (end < lines.length && !isBlank(lines[end]) && !startsOther(lines, end)) end += 1;
  return { kind: "paragraph", text: lines.slice(i, end).join("\n"), end };
}

function parseCode(lines, i, [, mark, language]) {
  const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$`);
  let end = i + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  return { kind: "code", language, text: lines.slice(i + 1, end).join("\n"), end: Math.min(end + 1, lines.length) };
}

function parseList(lines, i) {
  const ordered = /\d/.test(ITEM.exec(lines[i])[2]);
  const start = ordered ? Number.parseInt(ITEM.exec(lines[i])[2], 10) : 1;
  const items = [];
  let indent = 0;
  let end = i;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const item = ITEM.exec(line);
    const inside = items.length > 0 && /^ */.exec(line)[0].length >= indent;
    if (isBlank(line)) {
      items.at(-1).push("");
    } else if (inside) {
      items.at(-1).push(line.slice(indent));
    } else if (item && /\d/.test(item[2]) === ordered && !RULE.test(line)) {
      indent = item[0].length + (item[3] ? 0 : 1);
      items.push([line.slice(item[0].length)]);
    } else if (isBlank(lines[end - 1]) || startsOther(lines, end)) {
      break;
    } else {
      items.at(-1).push(line.trimStart());
    }
  }
  return { kind: "list", ordered, start, items, end };
}

function drawBlock(block, depth) {
  switch (block.kind) {
    case "code":
      return drawCode(block);
    case "heading":
      // The page itself has the first levels.
      return inline(element(`h${Math.min(block.level + 2, 6)}`), block.text);
    case "rule":
      return element("hr");
    case "quote":
      return drawBlocks(element("blockquote"), block.lines, depth + 1);
    case "list": {
      const list = element(block.ordered ? "ol" : "ul");
      if (block.ordered && block.start !== 1) list.start = block.start;
      for (const lines of block.items) list.append(drawItem(lines, depth));
      return list;
    }
    case "table":
      return drawTable(block);
    default:
      return inline(element("p"), block.text);
  }
}

function drawBlocks(parent, lines, depth) {
  if (depth > DEPTH_MAX) return inline(parent, lines.join("\n"));
  for (const block of parseBlocks(lines)) parent.append(drawBlock(block, depth));
  return parent;
}

// The text of a tight item needs no paragraph around it.
function drawItem(lines, depth) {
  const item = drawBlocks(element("li"), lines, depth + 1);
  const first = item.firstElementChild;
  if (first?.tagName === "P" && item.querySelectorAll(":scope > p").length === 1) first.replaceWith(...first.childNodes);
  return item;
}

function cellsOf(line) {
  return line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function drawTable({ head, rule, rows }) {
  const sides = cellsOf(rule).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  const row = (line, tag) => {
    const cells = cellsOf(line).slice(0, sides.length);
    return element("tr", "", ...cells.map((cell, i) => inline(element(tag, `to-${sides[i]}`), cell)));
  };
  const body = element("tbody", "", ...rows.map((line) => row(line, "td")));
  return element("div", "table", element("table", "", element("thead", "", row(head, "th")), body));
}

function drawCode({ language, text }) {
  const copy = element("button", "copy", "Copy");
  copy.type = "button";
  const code = element("code", "", document.createTextNode(text));
  const pre = element("pre", "", code);
  pre.tabIndex = 0; // so that the keyboard can scroll it
  copy.addEventListener("click", () => copyText(code.textContent, copy));
  return element("div", "code", element("div", "code-head", element("span", "", language || "text"), copy), pre);
}

// The button says for a moment how it went.
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = label), 1200);
}

// ---- inline ----

const SPECIAL = /[\\`*_~[\n]|https?:\/\//g;
const isWord = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

// Null for anything but http and https.
function safeUrl(text) {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

function link(url) {
  const made = element("a");
  made.href = url;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

function inline(parent, text, depth = 0) {
  let done = 0;
  SPECIAL.lastIndex = 0;
  for (let found = SPECIAL.exec(text); found; found = SPECIAL.exec(text)) {
    const span = depth <= DEPTH_MAX ? spanAt(text, found.index, depth) : null;
    if (span) {
      parent.append(text.slice(done, found.index), span.node);
      done = span.end;
    }
    SPECIAL.lastIndex = span ? span.end : found.index + found[0].length;
  }
  parent.append(text.slice(done));
  return parent;
}

// {node, end} of what begins at `i`, or null when it is only text.
function spanAt(text, i, depth) {
  switch (text[i]) {
    case "\n":
      return { node: element("br"), end: i + 1 };
    case "\\":
      return /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "") ? { node: text[i + 1], end: i + 2 } : null;
    case "`":
      return codeSpan(text, i);
    case "[":
      return linkSpan(text, i, depth);
    case "h":
      return bareLink(text, i);
    default:
      return emphasis(text, i, depth);
  }
}

function codeSpan(text, i) {
  const mark = /^`+/.exec(text.slice(i, i + 16))[0];
  const from = i + mark.length;
  const at = text.slice(from, from + SPAN_MAX).indexOf(mark);
  if (at <= 0) return null;
  const inner = text.slice(from, from + at);
  const padded = /^ .*[^ ].* $/s.test(inner);
  return { node: element("code", "", padded ? inner.slice(1, -1) : inner), end: from + at + mark.length };
}

function linkSpan(text, i, depth) {
  const match = /^\[([^[\]\n]{1,500})\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)?)>?(?:\s+"[^"]*")?\s*\)/.exec(
    text.slice(i, i + SPAN_MAX),
  );
  const url = match && safeUrl(match[2]);
  return url ? { node: inline(link(url), match[1], depth + 1), end: i + match[0].length } : null;
}

function bareLink(text, i) {
  // Punctuation at its end belongs to the sentence.
  const shown = /^https?:\/\/[^\s<>"'`]+/.exec(text.slice(i, i + SPAN_MAX))?.[0].replace(/[.,;:!?)\]}*_~]+$/, "");
  const url = shown && !isWord(text[i - 1]) && safeUrl(shown);
  if (!url) return null;
  const made = link(url);
  made.append(shown);
  return { node: made, end: i + shown.length };
}

function emphasis(text, i, depth) {
  const mark = /^(?:\*{1,3}|_{1,3}|~~)/.exec(text.slice(i, i + 3))?.[0];
  if (!mark || /^\s|^$/.test(text[i + mark.length] ?? "")) return null;
  if (mark[0] === "_" && isWord(text[i - 1])) return null;
  const from = i + mark.length;
  for (let at = text.indexOf(mark, from + 1); at >= 0 && at - from < SPAN_MAX; at = text.indexOf(mark, at + 1)) {
    const after = text[at + mark.length];
    if (/\s/.test(text[at - 1]) || text[at - 1] === "\\" || (mark[0] === "_" && isWord(after))) continue;
    // "*a **b** c*": a longer run of marks is not this one's end.
    if (mark.length < 3 && mark[0] !== "~" && (after === mark[0] || text[at - 1] === mark[0])) {
      while (text[at + 1] === mark[0]) at += 1;
      continue;
    }
    const node = mark === "~~" ? element("del") : element(mark.length === 1 ? "em" : "strong");
    const inner = mark.length === 3 ? node.appendChild(element("em")) : node;
    inline(inner, text.slice(from, at), depth + 1);
    return { node, end: at + mark.length };
  }
  return null;
}

// ---- the growing whole ----

export class MarkdownView {
  #root;
  #rest = ""; // from the start of the last block on
  #last = null; // its node
  #code = null; // {first line, text so far} while the last block is code

  constructor(root) {
    this.#root = root;
  }

  // Draws what `text` adds.
  append(text) {
    this.#rest += text;
    const lines = this.#rest.split("\n");
    const blocks = parseBlocks(lines);
    for (const [i, block] of blocks.entries()) {
      if (i > 0) this.#seal();
      this.#draw(block, lines[block.first]);
    }
    const first = blocks.at(-1)?.first ?? 0;
    if (first > 0) this.#rest = lines.slice(first).join("\n");
  }

  #seal() {
    this.#last = null;
    this.#code = null;
  }

  #draw(block, firstLine) {
    if (this.#code && block.kind === "code" && firstLine === this.#code.firstLine &&
        block.text.startsWith(this.#code.text)) {
      this.#code.node.appendData(block.text.slice(this.#code.text.length));
      this.#code.text = block.text;
      return;
    }
    const drawn = drawBlock(block, 0);
    if (this.#last) this.#last.replaceWith(drawn);
    else this.#root.append(drawn);
    this.#last = drawn;
    this.#code = block.kind === "code"
      ? { firstLine, text: block.text, node: drawn.querySelector("code").firstChild }
      : null;
  }
}
