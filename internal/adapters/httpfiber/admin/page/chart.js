// The chart of decisions per second. Allowed is a full line, denied a dashed one: colour is not the only difference.

import * as format from "./format.js";

const shortest = 60; // seconds that the axis shows at least

export class Chart {
  #parent; #plot; #data = [[], [], []];

  constructor(parent) {
    this.#parent = parent;
    this.#draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(parent);
  }

  show(history, policy) {
    const times = [], allowed = [], denied = [];
    for (let i = 1; i < history.events.length; i++) {
      times.push(history.events[i].at_ms / 1000);
      allowed.push(history.rate("allowed", policy, i));
      denied.push(history.rate("denied", policy, i));
    }
    this.#data = [times, allowed, denied];
    this.#plot.setData(this.#data);
    const [a, d] = [allowed.at(-1) ?? null, denied.at(-1) ?? null];
    this.#parent.setAttribute("aria-label",
      `Decisions per second since this page was opened. Now: ${format.rate(a)} allowed, ${format.rate(d)} denied.`);
  }

  #size() { return { width: this.#parent.clientWidth, height: this.#parent.clientHeight }; }

  #draw() {
    this.#plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = `12px ${style.fontFamily}`;
    const axis = {
      stroke: colour("--quiet"), font, ticks: { show: false }, grid: { stroke: colour("--line"), width: 1 },
    };
    this.#plot = new uPlot({
      ...this.#size(),
      legend: { show: false },
      cursor: { show: false },
      padding: [10, 28, 0, 0], // half a time fits beside the last tick
      scales: {
        x: { range: (_, min, max) => max === null ? [0, shortest] : [Math.min(min, max - shortest), max] },
        y: { range: (_, __, max) => [0, Math.max(5, (max ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 30, space: 90, values: "{HH}:{mm}:{ss}" },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((t) => format.count(t)) },
      ],
      series: [
        {},
        { stroke: colour("--allowed"), width: 2, fill: colour("--wash"), points: { show: false } },
        { stroke: colour("--denied"), width: 2, dash: [6, 4], points: { show: false } },
      ],
    }, this.#data, this.#parent);
  }
}
