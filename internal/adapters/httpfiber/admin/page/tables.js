// The tables of policies, shards and top clients.

import { byId, element, options, rows, setText } from "./dom.js";
import * as format from "./format.js";

const cell = (name, ...children) => element("td", name, ...children);

function head(text) {
  const th = element("th", "", text);
  th.scope = "row";
  return th;
}

// policies shows those in force, and any other that has decided something. known are the answer of /v1/policies.
export function policies(history, known) {
  const byName = new Map(known.map((p) => [p.name, p]));
  for (const name of history.policies()) {
    if (!byName.has(name)) byName.set(name, { name });
  }
  byId("no-policies").hidden = byName.size > 0;
  rows(byId("policies"), [...byName.values()], (p) => p.name, makePolicy, (row, p) => showPolicy(row, p, history));
}

function makePolicy(p) {
  return element("tr", "", head(p.name), cell(""), cell(""), cell(""),
    cell("number"), cell("number"), cell("number"), cell("number"));
}

function limitText(l) {
  if (l.kind === "concurrency") return `${format.count(l.concurrent)} at once, lease ${l.lease}`;
  const rule = l.kind === "quota"
    ? `${l.quota}${l.zone ? ` in ${l.zone}` : ""}${l.anchor ? ` from ${l.anchor}` : ""}`
    : `${l.rate}, up to ${format.count(l.capacity)}`;
  return l.cost ? `${rule}, ${format.count(l.cost)} a request` : rule;
}

// costText says what a request costs, unless that is one token. An estimate is settled when the answer has ended.
function costText(p) {
  const sources = p.cost_estimate ?? (p.cost_header ? [`header:${p.cost_header}`] : []);
  const taken = [...sources, format.count(p.cost)].join(", else ");
  if (p.cost_actual) return `estimate ${taken}, then ${p.cost_actual.join(" + ")}`;
  return sources.length > 0 || p.cost > 1 ? `${taken} a request` : "";
}

// limitLines are the lines of a policy's limits, and one for its cost, which has no name.
function limitLines(p) {
  const lines = (p.limits ?? []).map((l) => ({ name: l.name, text: `${limitText(l)}${l.key ? ` by ${l.key.join(" + ")}` : ""} ` }));
  const cost = p.limits ? costText(p) : "";
  return cost ? [...lines, { name: "", text: `cost: ${cost}` }] : lines;
}

function showPolicy(row, p, history) {
  const [, key, limits, mode, allowedRate, deniedRate, allowed, denied] = row.children;
  setText(key, p.key?.join(" + ") ?? "–");
  rows(limits, limitLines(p), (line) => line.name, () => element("span", "limit"), (node, { name, text }) => {
    if (node.dataset.text !== text) node.replaceChildren(text, element("span", "", name));
    node.dataset.text = text;
  });
  const shadow = history.outcome("shadow_denied", p.name);
  setText(mode, p.mode ?? "–");
  if (shadow > 0) mode.append(element("span", "sub", `${format.count(shadow)} would have been denied`));
  setText(allowedRate, format.rate(history.rate("allowed", p.name)));
  setText(deniedRate, format.rate(history.rate("denied", p.name)));
  setText(allowed, format.count(history.total("allowed", p.name)));
  setText(denied, format.count(history.total("denied", p.name)));
}

export function shards(history) {
  const list = history.last.shards;
  byId("shards-table").hidden = list.length === 0;
  byId("no-shards").hidden = list.length > 0;
  rows(byId("shards"), list, (s) => s.name,
    (s) => element("tr", "", head(s.name), cell(""), cell(""), cell("number"), cell("number"), cell("number")),
    (row, s) => showShard(row, s, history));
}

function showShard(row, s, history) {
  const [, state, breaker, waiting, within, failures] = row.children;
  row.dataset.up = s.up;
  state.className = s.up ? "shard-up" : "shard-down";
  setText(state, s.up ? "✓ up" : "✕ down");
  setText(breaker, s.breaker ?? "–");
  setText(waiting, format.count(s.queued));
  setText(within, format.duration(history.quantile(0.99,
    (event) => event.shards.find((other) => other.name === s.name)?.latency_seconds)));
  setText(failures, format.count(s.failures));
}

// top calls inspect with the client whose button is pressed.
export function top(history, inspect) {
  const all = history.last.top.policies;
  options(byId("top-policy"), all.map((p) => p.policy));
  const kind = byId("top-kind").value;
  const of = all.find((p) => p.policy === byId("top-policy").value);
  const list = of?.[kind] ?? [];
  setText(byId("top-count"), kind === "by_denials" ? "Denials" : "Requests");
  byId("no-top").hidden = list.length > 0;
  byId("top-error").hidden = !list.some((c) => c.error > 0);
  rows(byId("top"), list, (c) => `${c.source ?? ""} ${c.key}`, (c) => makeTop(c, inspect), (row, c) => {
    setText(row.children[1], `${c.error > 0 ? "≤ " : ""}${format.count(c.count)}`);
    const share = row.querySelector(".share");
    share.className = `share ${kind}`;
    share.style.width = `${100 * c.count / list[0].count}%`;
    row.policy = of.policy;
  });
}

function makeTop(c, inspect) {
  const button = element("button", "small", "Inspect");
  button.type = "button";
  button.setAttribute("aria-label", `Inspect ${c.key}`);
  const name = element("span", "client", c.key);
  const row = element("tr", "", cell("", name, ...(c.source ? [element("span", "sub", "by address: had no key")] : []),
    element("span", "share")), cell("number"), cell("action", button));
  button.addEventListener("click", () => inspect({ policy: row.policy, key: c.key, source: c.source ?? "" }));
  return row;
}
