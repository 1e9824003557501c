// The conversation: what is pressed, heard and said becomes turns. States of the page:
// new, connecting, waiting, ready, recording, thinking, speaking, ended.

import { Link } from "./link.js";
import { Microphone, toPcm } from "./sound.js";
import { Answer, Question } from "./turns.js";
import { VoiceActivity, levelOf, DEFAULTS } from "./vad.js";

const byId = (id) => document.getElementById(id);
const SHORTEST_S = 0.25;  // a shorter press is no question
const TAIL_MS = 150;      // of sound that still belongs to a question when the button is let go
const BLOCK_S = 0.02;
const TOUCH = matchMedia("(pointer: coarse)").matches;

const page = {
  link: null, microphone: null, mode: "push", state: "new",
  turn: 0, turns: new Map(), current: null,   // the answer that comes or plays
  replaying: null, recording: null, recent: [], vad: new VoiceActivity(), limit: 30,
};

const HINTS = {
  new: "Start first", connecting: "One moment", waiting: "Waiting for a place", ended: "Start again to go on",
};
const STATUS = {
  new: "Not connected", connecting: "Connecting", ready: "Ready", recording: "Listening",
  thinking: "Thinking", speaking: "Speaking", ended: "Not connected", waiting: "In the queue",
};

function setState(state, detail = "") {
  page.state = state;
  document.body.dataset.state = state;
  document.body.dataset.microphone = page.microphone ? "yes" : "no";
  byId("status").lastElementChild.textContent = detail || STATUS[state];
  const usable = ["ready", "recording", "thinking", "speaking"].includes(state);
  const free = page.mode === "free";
  byId("talk").disabled = !usable || !page.microphone || free;
  byId("stop").disabled = !["thinking", "speaking"].includes(state);
  for (const element of byId("write").children) element.disabled = !usable;
  const busy = state === "thinking" || state === "speaking";
  byId("hint").textContent = HINTS[state] ?? (!page.microphone ? "No microphone: type below"
    : state === "recording" ? (free ? "I hear you" : "Let go to ask")
    : free ? (busy ? "Speak to interrupt" : "Just speak")
    : busy ? "Hold to interrupt" : TOUCH ? "Hold and speak" : "Hold, or press the space bar");
}

function notice(title, text, again = false) {
  const box = byId("notice");
  box.hidden = !title;
  box.querySelector("b").textContent = title ?? "";
  box.querySelector("span").textContent = text ?? "";
  box.querySelector("button").hidden = !again;
}

// ---- connection

async function start() {
  byId("welcome").hidden = true;
  notice(null);
  setState("connecting");
  if (!page.microphone) {
    try {
      page.microphone = await Microphone.open(onBlock);
    } catch (error) {
      notice("No microphone", `${error.message || error.name}. You can type, and hear the answers.`);
    }
  }
  page.turn = 0;
  page.turns.clear();
  page.link = new Link(page.microphone?.sampleRate ?? 16000, handlers);
}

const handlers = {
  waiting({ place, waiting }) {
    setState("waiting", `Place ${place} of ${waiting}`);
    notice(`You are number ${place} in the queue`,
      place === 1 ? "You are next. Stay on this page." : "You move up as others leave. Stay on this page.");
  },
  ready({ question_s }) {
    page.limit = question_s;
    if (page.microphone) notice(null);
    page.vad.reset();
    settle();
  },
  transcript({ turn, text }) { page.turns.get(turn)?.question.show(text); },
  text({ turn, text, at_s }) {
    const answer = page.turns.get(turn)?.answer;
    if (answer && !answer.muted) answer.addText(text, at_s);
  },
  sound({ turn, sample_rate_hz }) {
    const answer = page.turns.get(turn)?.answer;
    page.sounding = answer;
    if (!answer || answer.muted) return;
    answer.beginSound(sample_rate_hz, () => settle());
    setState("speaking");
  },
  pcm(data) {
    const answer = page.sounding;
    if (answer && !answer.muted) answer.addSound(data);
  },
  timing({ turn, ...timing }) { page.turns.get(turn)?.answer.showTiming(timing); },
  done({ turn, reason, timing }) {
    const found = page.turns.get(turn);
    found?.answer.finish(reason, timing);
    settle();
  },
  refused({ turn, message }) {
    const found = page.turns.get(turn);
    if (!found) return;
    found.question.settle();
    found.answer.fail(message[0].toUpperCase() + message.slice(1));
    found.answer.done = true;
    settle();
  },
  ended({ reason, message }) {
    page.recording?.question.drop();
    page.recording = null;
    for (const { question, answer } of page.turns.values()) {
      question.settle();
      if (!answer.done) answer.finish("interrupted", null);
    }
    page.link = null;
    page.microphone?.close(); // nobody listens any more
    page.microphone = null;
    const titles = {
      gone: "Connection lost", full: "All places are taken", idle: "Are you still there?",
      session_length: "Time is up", token: "A token is needed", failure: "Something went wrong",
    };
    const help = reason === "token" ? "Open this page by the address that ends in #token=…" : `${message}.`;
    notice(titles[reason] ?? "Disconnected", help[0].toUpperCase() + help.slice(1), true);
    setState("ended");
  },
};

// Which state follows when nothing is recorded.
function settle() {
  if (page.state === "ended" || page.recording) return;
  const answer = page.current;
  if (!answer || answer.muted) return setState("ready");
  if (answer.element.classList.contains("playing")) return setState("speaking");
  setState(answer.done ? "ready" : "thinking");
}

// ---- asking

function interrupt() {
  stopReplay();
  const answer = page.current;
  if (!answer || answer.muted) return;
  const playing = answer.element.classList.contains("playing");
  if (answer.done && !playing) return;
  const heard = answer.playback ? answer.playback.stop() : 0;
  answer.muted = true;
  if (answer.done) answer.note("interrupted");
  page.link?.say("interrupt", { heard_s: heard });
  settle();
}

function beginRecording() {
  if (page.recording || !page.link || !page.microphone) return;
  interrupt();
  page.recording = { question: new Question(), length: 0, askedAt: 0 };
  for (const block of page.recent) sendBlock(block);
  page.recent = [];
  setState("recording");
}

function endRecording(askedAt) {
  const recording = page.recording;
  if (!recording) return;
  page.recording = null;
  if (recording.length < SHORTEST_S) {
    page.link?.say("discard");
    recording.question.drop();
    return settle();
  }
  ask(recording.question, {}, askedAt);
}

function ask(question, fields, askedAt) {
  page.turn += 1;
  page.current = new Answer(askedAt);
  page.turns.set(page.turn, { question, answer: page.current });
  page.link.say("ask", fields);
  setState("thinking");
}

function sendBlock(samples) {
  page.recording.length += samples.length / page.microphone.sampleRate;
  page.link?.sound(toPcm(samples));
  if (page.recording.length > page.limit - 0.5) endRecording(performance.now());
}

function onBlock(samples) {
  const level = levelOf(samples);
  byId("talk").style.setProperty("--level", Math.max(0, Math.min(1, (level + 60) / 50)).toFixed(2));
  if (!page.link || ["connecting", "waiting", "ended"].includes(page.state)) return;
  if (page.recording) sendBlock(samples);
  else {
    page.recent.push(samples);
    const kept = page.mode === "free" ? DEFAULTS.preroll : 0.06;
    while (page.recent.length * BLOCK_S > kept) page.recent.shift();
  }
  if (page.mode !== "free") return;
  const playing = page.state === "speaking" || page.replaying;
  const change = page.vad.push(level, BLOCK_S, Boolean(playing));
  if (change === "begin") beginRecording();
  if (change === "end") endRecording(performance.now());
}

// ---- replay

function stopReplay() {
  page.replaying?.playback.stop();
  page.replaying = null;
}

byId("log").addEventListener("click", ({ target }) => {
  const bar = target.closest(".parts"); // narrow pages show its legend when it is touched
  bar?.parentElement.querySelector(".legend").classList.toggle("open");
  if (!target.classList.contains("replay")) return;
  const answer = Answer.kept.find(({ button }) => button === target);
  if (!answer) return;
  const again = page.replaying !== answer;
  interrupt();
  answer.playback?.stop();
  if (!again) return;
  page.replaying = answer;
  answer.replay(() => { if (page.replaying === answer) page.replaying = null; });
});

// ---- buttons and keys

const talk = byId("talk");
let letGo = 0;

function press() {
  clearTimeout(letGo);
  beginRecording();
}

function release() {
  if (!page.recording || page.mode !== "push") return;
  const askedAt = performance.now();
  clearTimeout(letGo);
  letGo = setTimeout(() => endRecording(askedAt), TAIL_MS);
}

talk.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || talk.disabled) return;
  talk.setPointerCapture(event.pointerId);
  press();
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) talk.addEventListener(name, release);
talk.addEventListener("contextmenu", (event) => event.preventDefault());

const typing = (target) => target.matches("input, button:not(#talk)");
window.addEventListener("keydown", (event) => {
  if (event.code === "Escape") interrupt();
  if (event.code !== "Space" || typing(event.target)) return;
  event.preventDefault();
  if (!event.repeat && page.mode === "push" && !talk.disabled) press();
});
window.addEventListener("keyup", (event) => {
  if (event.code === "Space" && !typing(event.target)) release();
});
window.addEventListener("blur", release);

byId("stop").addEventListener("click", interrupt);
byId("start").addEventListener("click", start);
byId("notice").querySelector("button").addEventListener("click", start);
byId("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || !page.link) return;
  byId("text").value = "";
  interrupt();
  ask(new Question(text), { text }, performance.now());
});
byId("modes").addEventListener("click", ({ target }) => {
  if (!target.dataset.mode) return;
  page.mode = target.dataset.mode;
  for (const button of byId("modes").children) button.setAttribute("aria-checked", button === target);
  page.vad.reset();
  setState(page.state, byId("status").lastElementChild.textContent);
});
