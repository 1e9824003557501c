// The WebSocket. Text messages are JSON with a type, binary ones are sound.

// What a connection says that ends without a word, by its code (RFC 6455); else nobody was there.
const CLOSED = {
  1009: ["too_large", "it took a message to be larger than it reads; ask a shorter question"],
  1011: ["gone", "this page did not answer it for too long"],
  1012: ["gone", "the server was stopped"],
};
const GONE = ["gone", "the server does not answer: it was stopped, or the network is gone"];

export class Link {
  constructor(sampleRate, handlers) {
    this.handlers = handlers;
    this.over = false;
    const address = new URL("chat", location.href);  // beside the page: a proxy may serve it below a path
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      const token = new URLSearchParams(location.hash.slice(1)).get("token");
      this.say("hello", { sample_rate_hz: sampleRate, ...(token ? { token } : {}) });
    };
    this.socket.onmessage = ({ data }) => this.take(data);
    this.socket.onclose = ({ code }) => this.end(...(CLOSED[code] ?? GONE));
  }

  take(data) {
    if (data instanceof ArrayBuffer) return this.handlers.pcm(data);
    const { type, ...fields } = JSON.parse(data);
    if (type === "ended") return this.end(fields.reason, fields.message);
    this.handlers[type]?.(fields);
  }

  end(reason, message) {
    if (this.over) return;
    this.over = true;
    this.socket.close();
    this.handlers.ended({ reason, message });
  }

  say(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  sound(buffer) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(buffer);
  }
}
