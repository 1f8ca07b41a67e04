// How numbers and times are written.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

export const count = (n) => whole.format(n);

// rate is per second. null: not known yet.
export function rate(n) {
  if (n === null) return "–";
  return n > 0 && n < 10 ? fine.format(n) : whole.format(n);
}

// duration takes seconds.
export function duration(s) {
  if (s === null) return "–";
  if (s < 0.001) return `${Number((s * 1e6).toPrecision(2))} µs`;
  if (s < 1) return `${Number((s * 1e3).toPrecision(2))} ms`;
  if (s < 60) return `${Number(s.toPrecision(3))} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function tokens(n) {
  const digits = Math.abs(n) < 100 ? 1 : 0;
  const cut = Math.floor(n * 10 ** digits) / 10 ** digits; // round against the client, as the limiter does
  return new Intl.NumberFormat("en", { maximumFractionDigits: digits }).format(cut);
}
