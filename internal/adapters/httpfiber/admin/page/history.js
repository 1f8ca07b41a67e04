// Events hold totals; rates and percentiles come from what has changed between two of them.

const kept = 300;
const window = 10; // events that percentiles are about

const outcomes = {
  allowed: ["allowed", "exempt", "shadow_denied"],
  denied: ["denied", "blocked", "unavailable"],
};

export class History {
  events = [];

  add(event) {
    const last = this.events.at(-1);
    if (last && total(last, () => true) > total(event, () => true)) this.events = []; // the service began anew
    this.events.push(event);
    if (this.events.length > kept) this.events.shift();
  }

  get last() { return this.events.at(-1); }

  // total of a kind, "allowed" or "denied", under a policy; "" is every policy.
  total(kind, policy = "", event = this.last) {
    return total(event, (d) => outcomes[kind].includes(d.outcome) && (!policy || d.policy === policy));
  }

  outcome(name, policy) { return total(this.last, (d) => d.outcome === name && d.policy === policy); }

  // rate per second between the events i-1 and i; null if there are none.
  rate(kind, policy = "", i = this.events.length - 1) {
    return this.#rate(i, (event) => this.total(kind, policy, event));
  }

  fallbackRate() {
    return this.#rate(this.events.length - 1, (event) => total(event, (d) => d.store === "fallback"));
  }

  #rate(i, of) {
    if (i < 1) return null;
    const [a, b] = [this.events[i - 1], this.events[i]];
    return b.at_ms > a.at_ms ? (of(b) - of(a)) * 1000 / (b.at_ms - a.at_ms) : null;
  }

  // quantile of a histogram's change in the last seconds; null while it has not changed.
  quantile(q, histogramOf = (event) => event.latency_seconds) {
    const now = histogramOf(this.last);
    const before = histogramOf(this.events.at(-1 - window) ?? this.events[0]);
    if (!now || !before) return null;
    const counts = now.counts.map((n, i) => n - (this.events.length > 1 ? before.counts[i] ?? 0 : 0));
    let rank = q * counts.reduce((sum, n) => sum + n, 0);
    if (!(rank > 0)) return null;
    for (const [i, n] of counts.entries()) {
      if (rank <= n) {
        const low = i ? now.bounds[i - 1] : 0;
        return i < now.bounds.length ? low + (now.bounds[i] - low) * rank / n : low;
      }
      rank -= n;
    }
    return now.bounds.at(-1);
  }

  policies() { return [...new Set(this.last.decisions.map((d) => d.policy))]; }
}

function total(event, wanted) {
  return event.decisions.reduce((sum, d) => wanted(d) ? sum + d.count : sum, 0);
}
