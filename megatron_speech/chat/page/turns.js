// What is seen of the conversation: bubbles, text in step with sound, times, replay.

import { Playback, fromPcm } from "./sound.js";

const log = document.getElementById("log");
const said = document.getElementById("said"); // what a screen reader reads out
const KEPT_S = 1200; // seconds of sound that can be replayed; older answers lose theirs
const PARTS = [
  ["tokenise_s", "hearing"],
  ["prefill_s", "reading"],
  ["first_tokens_s", "thinking"],
  ["first_decode_s", "voice"],
];

function make(tag, className, parent, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  parent?.append(element);
  return element;
}

const seconds = (value) => `${value.toFixed(2)} s`;

function toEnd() {
  const distance = log.scrollHeight - log.scrollTop - log.clientHeight;
  if (distance < 220) log.scrollTo({ top: log.scrollHeight });
}

export class Question {
  constructor(text = null) {
    this.element = make("article", "turn user", log);
    make("p", "who", this.element, "You");
    this.words = make("p", "words", this.element, text ?? "");
    if (text === null) this.words.classList.add("pending");
    log.scrollTo({ top: log.scrollHeight });
  }

  // What the server understands so far.
  hear(text) {
    if (!text) return;
    this.words.classList.add("growing");
    this.words.textContent = text;
    toEnd();
  }

  // What the server understood.
  show(text) {
    this.words.classList.remove("pending", "growing");
    this.words.classList.toggle("unheard", !text);
    this.words.textContent = text || "(not understood)";
    toEnd();
  }

  settle() {
    if (this.words.classList.contains("pending")) this.show(this.words.textContent ? `${this.words.textContent} …` : "(spoken)");
  }

  drop() { this.element.remove(); }
}

export class Answer {
  static kept = [];

  constructor(askedAt) {
    this.askedAt = askedAt;
    this.texts = [];      // [text, second of the sound at which it begins]
    this.pieces = [];     // sound, for the replay
    this.rate = 0;
    this.soundLength = 0;
    this.done = false;
    this.element = make("article", "turn model busy", log);
    make("p", "who", this.element, "Model");
    const words = make("p", "words", this.element);
    this.said = make("span", "said", words);
    this.ahead = make("span", "ahead", words);
    make("span", "dots", words).append(...[0, 1, 2].map(() => document.createElement("i")));
    this.bar = make("div", "track", this.element);
    this.fill = make("i", "", this.bar);
    this.foot = make("div", "foot", this.element);
    this.button = make("button", "replay", this.foot, "Replay");
    this.button.hidden = true;
    this.times = make("div", "times", this.foot);
    log.scrollTo({ top: log.scrollHeight });
  }

  addText(text, at) {
    const last = this.texts.at(-1);
    if (last && last[1] === at) last[0] += text;
    else this.texts.push([text, at]);
    this.paint(this.playback ? this.playback.played() : 0);
    toEnd();
  }

  beginSound(rate, onEnd) {
    this.rate = rate;
    this.play(onEnd);
  }

  addSound(pcm) {
    const samples = fromPcm(pcm);
    if (!this.pieces.length) {
      this.waited = (performance.now() - this.askedAt) / 1000;
      this.paintTimes();
    }
    this.pieces.push(samples);
    this.soundLength += samples.length / this.rate;
    this.playback.push(samples);
  }

  play(onEnd) {
    this.element.classList.add("playing");
    const playback = new Playback(this.rate, () => {
      this.element.classList.remove("playing");
      this.paint(playback.played());
      this.button.textContent = "Replay";
      onEnd?.();
    });
    this.playback = playback;
    this.pieces.forEach((samples) => playback.push(samples));
    const step = () => {
      if (playback.stopped) return;
      this.paint(playback.played());
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  replay(onEnd) {
    this.play(onEnd);
    this.button.textContent = "Stop";
    this.playback.finish();
  }

  // Text up to the word that is being said in ink, the rest pale.
  paint(played) {
    const whole = this.texts.map(([text]) => text).join("");
    let count = 0;
    this.texts.forEach(([text, at], n) => {
      const next = this.texts[n + 1]?.[1];
      const end = next ?? (this.done ? this.soundLength : Math.max(this.soundLength, at + text.length / 14));
      count += text.length * Math.max(0, Math.min(1, (played - at) / Math.max(end - at, 0.01)));
    });
    if (this.done && (!this.pieces.length || played >= this.soundLength - 0.05)) count = whole.length;
    count = Math.round(count);
    while (count > 0 && count < whole.length && /\S/.test(whole[count])) count += 1; // whole words
    this.said.textContent = whole.slice(0, count);
    this.ahead.textContent = whole.slice(count);
    this.fill.style.width = `${this.soundLength ? (100 * played) / this.soundLength : 0}%`;
  }

  showTiming(timing) {
    this.timing = timing ?? this.timing;
    this.paintTimes();
  }

  paintTimes() {
    const { timing, waited } = this;
    this.times.replaceChildren();
    if (waited !== undefined) make("b", "", this.times, `sound after ${seconds(waited)}`);
    if (!timing) return;
    const parts = PARTS.filter(([name]) => timing[name] != null);
    const sum = parts.reduce((total, [name]) => total + timing[name], 0);
    const bar = make("button", "parts", this.times);
    bar.ariaLabel = "Where the time went";
    bar.title = parts.map(([name, label]) => `${label} ${seconds(timing[name])}`).join(", ");
    for (const [name, label] of parts) {
      const part = make("i", label, bar);
      part.style.flexGrow = Math.max(timing[name] / (sum || 1), 0.02);
    }
    if (this.done && timing.real_time_factor != null) {
      make("span", "", this.times, `real-time factor ${timing.real_time_factor.toFixed(2)}`);
    }
    const legend = make("span", "legend", this.times);
    for (const [name, label] of parts) make("span", `part ${label}`, legend, `${label} ${seconds(timing[name])}`);
    toEnd();
  }

  // The answer is complete; `reason` as the server says it.
  finish(reason, timing) {
    this.done = true;
    this.element.classList.remove("busy");
    this.playback?.finish();
    this.showTiming(timing);
    if (reason === "interrupted") this.note("interrupted");
    if (reason === "length") this.note("cut off: the answer grew too long");
    if (!this.texts.length && !this.pieces.length) this.note(reason === "interrupted" ? "" : "no answer");
    if (!this.texts.length && this.pieces.length) this.note("answered in sound alone");
    this.paint(this.playback ? this.playback.played() : 0);
    if (!this.pieces.length) {
      said.textContent = this.said.textContent; // answers with sound are heard anyway
      return;
    }
    this.button.hidden = false;
    Answer.kept.push(this);
    let total = Answer.kept.reduce((sum, answer) => sum + answer.soundLength, 0);
    while (total > KEPT_S && Answer.kept.length > 1) {
      const oldest = Answer.kept.shift();
      total -= oldest.soundLength;
      oldest.playback?.stop();
      oldest.playback = null;
      oldest.pieces = [];
      oldest.button.hidden = true;
    }
  }

  fail(message) {
    this.element.classList.remove("busy");
    this.element.classList.add("refused");
    this.said.textContent = said.textContent = message;
  }

  note(text) {
    if (text) this.times.before(make("span", "note", null, text));
  }
}
