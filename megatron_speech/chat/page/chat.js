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
  link: null, microphone: null, deaf: null /* why there is no microphone */, mode: "push", state: "new",
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

// `button` is its words and what it does.
function notice(title, text, button = null) {
  const box = byId("notice");
  box.hidden = !title;
  box.querySelector("b").textContent = title ?? "";
  box.querySelector("span").textContent = text ?? "";
  const [words, action] = button ?? ["", null];
  Object.assign(box.querySelector("button"), { hidden: !button, textContent: words, onclick: action });
}

// What stands while the conversation goes on.
function standingNotice() {
  if (page.state !== "ended") notice(...(page.deaf ?? [null]));
}

// ---- connection

async function start() {
  byId("welcome").hidden = true;
  notice(null);
  setState("connecting");
  if (!page.microphone) {
    try {
      page.microphone = await Microphone.open(onBlock, loseMicrophone);
      page.deaf = null;
    } catch (error) {
      page.deaf = ["No microphone", `${error.message || error.name}. You can type, and hear the answers.`];
      standingNotice();
    }
  }
  page.turn = 0;
  page.turns.clear();
  page.link = new Link(page.microphone?.sampleRate ?? 16000, handlers);
}

function loseMicrophone() {
  page.deaf = ["Microphone lost", "You can type, and hear the answers. Reload this page to speak again."];
  discardRecording();
  page.microphone?.close();
  page.microphone = null;
  page.recent = [];
  if (page.state !== "waiting") standingNotice();
  setState(page.state, byId("status").lastElementChild.textContent);
}

// Until something is pressed, browsers may hold sound back.
async function offerSound(playback) {
  const started = playback.starts();
  const soon = new Promise((resolve) => setTimeout(resolve, 500, false));
  if (await Promise.race([started, soon])) return;
  const press = async () => { if (await playback.starts()) standingNotice(); };
  notice("You hear nothing yet", "Your browser plays no sound until you press something.", ["Press to hear", press]);
  if (await started) standingNotice();
}

const handlers = {
  waiting({ place, waiting }) {
    setState("waiting", `Place ${place} of ${waiting}`);
    notice(`You are number ${place} in the queue`,
      place === 1 ? "You are next. Stay on this page." : "You move up as others leave. Stay on this page.");
  },
  ready({ question_s }) {
    page.limit = question_s;
    standingNotice();
    page.vad.reset();
    settle();
  },
  hearing({ turn, text }) { if (turn === page.turn + 1) page.recording?.question.hear(text); },
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
    offerSound(answer.playback);
    setState("speaking");
  },
  pcm(data) {
    const answer = page.sounding;
    if (answer && !answer.muted) answer.addSound(data);
  },
  timing({ turn, ...timing }) { page.turns.get(turn)?.answer.showTiming(timing); },
  done({ turn, reason, timing }) {
    const found = page.turns.get(turn);
    found?.question.settle(); // a transcript may still come, or none
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
    discardRecording();
    for (const { question, answer } of page.turns.values()) {
      question.settle();
      if (!answer.done) answer.finish("interrupted", null);
    }
    page.link = null;
    page.microphone?.close(); // nobody listens any more
    page.microphone = null;
    const titles = {
      gone: "Connection lost", origin: "This page may not connect", too_large: "That was too much", full: "All places are taken", idle: "Are you still there?",
      session_length: "Time is up", token: "A token is needed", failure: "Something went wrong",
    };
    const help = reason === "token" ? "Open this page by the address that ends in #token=…" : `${message}.`;
    notice(titles[reason] ?? "Disconnected", help[0].toUpperCase() + help.slice(1), ["Start again", start]);
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
  if (recording.length < SHORTEST_S) return discardRecording();
  page.recording = null;
  ask(recording.question, {}, askedAt);
}

function discardRecording() {
  clearTimeout(letGo);
  if (!page.recording) return;
  page.recording.question.drop();
  page.recording = null;
  page.link?.say("discard");
  settle();
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
  offerSound(answer.playback);
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

// The space bar wherever it means nothing else, and Enter on the button itself.
const talks = ({ code, key, target }) =>
  code === "Space" ? !target.matches("input, button:not(#talk)") : key === "Enter" && target === talk;
window.addEventListener("keydown", (event) => {
  if (event.code === "Escape") interrupt();
  if (!talks(event)) return;
  event.preventDefault();
  if (!event.repeat && page.mode === "push" && !talk.disabled) press();
});
window.addEventListener("keyup", (event) => {
  if (talks(event)) release();
});
window.addEventListener("blur", release);

byId("stop").addEventListener("click", interrupt);
byId("start").addEventListener("click", start);
byId("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || !page.link) return;
  byId("text").value = "";
  interrupt();
  ask(new Question(text), { text }, performance.now());
});

function choose(button) {
  if (page.mode !== button.dataset.mode) discardRecording(); // nothing would end it in the other mode
  page.mode = button.dataset.mode;
  for (const other of byId("modes").children) {
    other.setAttribute("aria-checked", other === button);
    other.tabIndex = other === button ? 0 : -1;
  }
  page.vad.reset();
  setState(page.state, byId("status").lastElementChild.textContent);
}

byId("modes").addEventListener("click", ({ target, detail }) => {
  if (!target.dataset.mode) return;
  choose(target);
  if (detail) target.blur(); // of a pointer: the space bar talks again
});
byId("modes").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...byId("modes").children];
  const next = buttons.at((buttons.indexOf(event.target) + step) % buttons.length);
  choose(next);
  next.focus();
});
