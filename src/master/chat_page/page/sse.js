// Server-sent events out of a stream of bytes. Borders of chunks may fall anywhere: inside a character, between CR and LF,
// inside a line. Comments (keep-alives) and fields other than `data` are skipped.

export class EventParser {
  #rest = "";
  #data = [];

  // Takes decoded text; returns the data of the events that it completes.
  push(text) {
    this.#rest += text;
    // A CR at the very end may be the first half of a CRLF.
    const held = this.#rest.endsWith("\r") ? 1 : 0;
    const lines = this.#rest.slice(0, this.#rest.length - held).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + (held ? "\r" : "");
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }
}

// Yields the data of each event of a ReadableStream. An event that the end cuts off is dropped, as the standard says.
export async function* readEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Whoever stops reading early wants the answer to stop too.
    reader.cancel().catch(() => {});
  }
}
