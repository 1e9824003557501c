// Voice activity by energy with hysteresis: the noise floor is followed, a voice must stand above
// it for a while to begin and stay near it for longer to end. Times in seconds, levels in dBFS.

export const DEFAULTS = {
  above: 12,        // dB over the noise floor that may begin a voice
  stay: 7,          // dB over the noise floor that keep it going
  least: -50,       // quieter is never a voice
  echo: 9,          // dB more while an answer plays: loudspeakers leak into microphones
  begin: 0.12,      // of voice within the last `window` begin it
  window: 0.24,
  end: 0.75,        // of quiet end it
  preroll: 0.35,    // before the beginning that belong to it
  rise: 1.5,        // dB a second that the noise floor may rise; it falls at once
};

export function levelOf(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return 10 * Math.log10(sum / Math.max(samples.length, 1) + 1e-10);
}

export class VoiceActivity {
  constructor(settings = {}) {
    this.settings = { ...DEFAULTS, ...settings };
    this.reset();
  }

  reset() {
    this.floor = null;
    this.speaking = false;
    this.quiet = 0;
    this.recent = [];
  }

  // Takes the level of a block and its length; returns "begin", "end" or null.
  push(level, seconds, playing = false) {
    const { above, stay, least, echo, begin, window, end, rise } = this.settings;
    const floor = this.floor ?? Math.min(level, least);
    // a voice does not raise the floor, or a long one would end itself
    const up = this.speaking ? 0 : rise * seconds;
    this.floor = Math.max(level < floor ? 0.7 * floor + 0.3 * level : floor + Math.min(up, level - floor), -90);
    const margin = playing ? echo : 0;
    if (!this.speaking) {
      const loud = level > Math.max(this.floor + above, least) + margin;
      this.recent.push([seconds, loud]);
      let length = 0, voiced = 0;
      for (const [s, l] of this.recent) { length += s; voiced += l ? s : 0; }
      while (length - this.recent[0][0] >= window) {
        const [s, l] = this.recent.shift();
        length -= s; voiced -= l ? s : 0;
      }
      if (voiced < begin) return null;
      this.speaking = true; this.quiet = 0; this.recent = [];
      return "begin";
    }
    this.quiet = level > Math.max(this.floor + stay, least - 5) ? 0 : this.quiet + seconds;
    if (this.quiet < end) return null;
    this.speaking = false;
    return "end";
  }
}
