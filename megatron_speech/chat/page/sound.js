// Microphone in, loudspeaker out. Samples between page and server are 16-bit PCM.

export class Microphone {
  // Asks for the microphone; throws what the browser says if there is none or it is refused.
  // `onLost` is called when it is unplugged or taken away.
  static async open(onBlock, onLost) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("browsers lend the microphone to https pages and to this machine's own only");
    }
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    const context = new AudioContext({ latencyHint: "interactive" });
    await context.resume();
    await context.audioWorklet.addModule("mic-worklet.js");
    const source = context.createMediaStreamSource(stream);
    const blocks = new AudioWorkletNode(context, "blocks", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    blocks.port.onmessage = ({ data }) => onBlock(data);
    source.connect(blocks);
    for (const track of stream.getTracks()) track.onended = onLost; // not by our own stop()
    return new Microphone(stream, context);
  }

  constructor(stream, context) {
    this.stream = stream;
    this.context = context;
    this.sampleRate = context.sampleRate;
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    this.context.close();
  }
}

export function toPcm(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, n) => {
    view.setInt16(2 * n, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
  });
  return view.buffer;
}

export function fromPcm(buffer) {
  const view = new DataView(buffer);
  return Float32Array.from({ length: buffer.byteLength >> 1 }, (_, n) => view.getInt16(2 * n, true) / 32768);
}

const contexts = new Map();
// A context of the sound's own rate: pieces resampled one by one would click where they meet.
function contextOf(rate) {
  if (!contexts.has(rate)) contexts.set(rate, new AudioContext({ sampleRate: rate }));
  return contexts.get(rate);
}

const HEADROOM = 0.06; // seconds before the first piece, and after a gap

// One answer being played: pieces are put behind one another without a gap.
export class Playback {
  constructor(rate, onEnd) {
    this.context = contextOf(rate);
    this.rate = rate;
    this.onEnd = onEnd;
    this.gain = this.context.createGain();
    this.gain.connect(this.context.destination);
    this.pieces = [];
    this.total = 0;       // seconds given so far
    this.complete = false;
    this.stopped = false;
    this.heard = 0;       // seconds, once it has stopped
    this.gaps = 0;
  }

  // Whether sound comes out; browsers hold it back until something is pressed.
  async starts() {
    if (this.context.state === "running") return true;
    return this.context.resume().then(() => true, () => false);
  }

  push(samples) {
    if (this.stopped || !samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const node = this.context.createBufferSource();
    node.buffer = buffer;
    node.connect(this.gain);
    const last = this.pieces.at(-1);
    const soonest = this.context.currentTime + HEADROOM;
    let start = last ? last.start + last.duration : soonest;
    if (start < this.context.currentTime) { start = soonest; this.gaps += 1; }
    node.onended = () => this.check();
    node.start(start);
    this.pieces.push({ node, start, duration: buffer.duration });
    this.total += buffer.duration;
  }

  // No more pieces follow.
  finish() {
    this.complete = true;
    this.check();
  }

  check() {
    if (this.stopped || !this.complete) return;
    if (this.played() < this.total - 0.005) { // handed out, but not heard yet
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.check(), 40);
      return;
    }
    this.end();
  }

  // Its buffers are not needed any more.
  end() {
    this.heard = this.played();
    this.stopped = true;
    this.pieces = [];
    this.onEnd?.();
  }

  // Seconds that were heard.
  played() {
    if (this.stopped) return this.heard;
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    return this.pieces.reduce((sum, { start, duration }) => sum + Math.max(0, Math.min(now - start, duration)), 0);
  }

  // Silence at once, without a click; returns the seconds that were heard.
  stop() {
    if (this.stopped) return this.heard;
    const now = this.context.currentTime;
    this.gain.gain.setTargetAtTime(0, now, 0.006);
    for (const { node } of this.pieces) node.stop(now + 0.05);
    this.end();
    return this.heard;
  }
}
