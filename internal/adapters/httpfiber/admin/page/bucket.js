// The limits of one client. Buckets are drawn as they refill, quotas until their period ends, and permits until their leases end,
// until they are read again.

import { bucketPath, json, overridePath, permitPath } from "./api.js";
import { byId, element, rows, setText } from "./dom.js";
import * as format from "./format.js";
import * as override from "./override.js";

const svgNamespace = "http://www.w3.org/2000/svg";
const outline = "M8 8h48l-6 44a5 5 0 0 1-5 4H19a5 5 0 0 1-5-4z";
const [top, bottom] = [8, 56];

let shown = null; // the client, its report and when it arrived
let inspected = null; // the client, also if its report did not arrive
let change = null; // what the dialog asks about

// changes are what the buttons of these ids do, after asking.
const changes = {
  reset: {
    title: "Reset this client?", what: "Nothing is spent any more of the limits of", yes: "Reset",
    then: ": buckets become full, quotas unused.",
    path: bucketPath, failed: "Not reset", done: (name) => `Reset: nothing is spent of the limits of ${name}.`,
  },
  "end-permits": {
    title: "End this client’s permits?", what: "No permit is held any more by", yes: "End permits",
    then: ". The requests that hold them go on, while others may take their place.",
    path: permitPath, failed: "Not ended",
    done: (name, { ended }) => `Ended ${format.count(ended)} ${ended === 1 ? "permit" : "permits"} of ${name}.`,
  },
  "end-override": {
    title: "End this client’s override?", what: "The policy file alone says what holds for", yes: "End override", then: ".",
    path: overridePath, failed: "Not ended", done: (name) => `Ended the override of ${name}.`,
  },
};

// start is called once. policies returns the policies in force.
export function start(policies) {
  byId("inspect").addEventListener("submit", (event) => {
    event.preventDefault();
    inspect({
      policy: byId("inspect-policy").value,
      key: byId("inspect-key").value,
      source: byId("inspect-ip").checked ? "ip" : "",
    });
  });
  for (const id of Object.keys(changes)) byId(id).addEventListener("click", () => askTo(changes[id]));
  byId("override").addEventListener("click", () => override.open(shown.client, shown.report.override, policies()));
  override.start(inspect, async (client) => {
    await inspect(client);
    announce(`Set: ${client.key} under ${client.policy} has an override.`);
  });
  byId("confirm-no").addEventListener("click", () => byId("confirm").close());
  byId("confirm-yes").addEventListener("click", carryOut);
  setInterval(draw, 250);
}

export async function inspect(client) {
  byId("inspect-policy").value = client.policy;
  byId("inspect-key").value = client.key;
  byId("inspect-ip").checked = client.source === "ip";
  try {
    const report = await json(bucketPath(client));
    shown = { client, report, at: performance.now() };
    announce(`${client.key} under ${client.policy}, by ${report.source}, in ${report.store}.`);
  } catch (error) {
    shown = null;
    announce(`Not shown: ${error.message}`, true);
  }
  inspected = client;
  const current = shown?.report.override ?? override.ignored(client);
  byId("reset").disabled = byId("override").disabled = !shown;
  byId("end-override").hidden = !current;
  setText(byId("inspect-override"), overrideText(current));
  byId("end-permits").hidden = !shown?.report.limits.some((l) => l.kind === "concurrency");
  draw();
}

function overrideText(o) {
  if (!o) return "";
  return `Override: ${override.text(o)}${o.expires_at ? `; until ${override.time(o.expires_at)}` : ""}${o.note ? `; note: ${o.note}` : ""}`;
}

function askTo(what) {
  change = { ...what, client: inspected };
  for (const part of ["title", "what", "then", "yes"]) setText(byId(`confirm-${part}`), change[part]);
  setText(byId("confirm-key"), change.client.key);
  setText(byId("confirm-policy"), change.client.policy);
  byId("confirm").showModal();
}

async function carryOut() {
  byId("confirm").close();
  const { client, path, failed, done } = change;
  let answer;
  try {
    answer = await json(path(client), { method: "DELETE" });
  } catch (error) {
    announce(`${failed}: ${error.message}`, true);
    return;
  }
  if (path === overridePath) await override.refresh();
  await inspect(client);
  announce(done(`${client.key} under ${client.policy}`, answer));
}

function announce(text, bad = false) {
  const status = byId("inspect-status");
  status.classList.toggle("bad", bad);
  setText(status, text);
}

function draw() {
  rows(byId("buckets"), shown?.report.limits ?? [], (l) => l.name, make, (item, limit) => show(item, limit));
}

function make(limit) {
  const svg = document.createElementNS(svgNamespace, "svg");
  svg.setAttribute("viewBox", "0 0 64 64");
  svg.setAttribute("role", "img");
  const clip = part("clipPath", { id: `clip-${limit.name}` }, part("path", { d: outline }));
  svg.append(
    part("defs", {}, clip),
    part("path", { d: outline, class: "glass" }),
    part("g", { "clip-path": `url(#clip-${limit.name})` },
      part("rect", { x: 0, y: bottom, width: 64, height: bottom - top, class: "water" })),
    part("path", { d: outline, class: "wall" }),
  );
  return element("li", "bucket", svg,
    element("div", "", element("h3", "", limit.name), element("p", "level"), element("p", "sub rate"), element("p", "sub full"), element("ul", "permits")));
}

function part(tag, attributes, ...children) {
  const e = document.createElementNS(svgNamespace, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function show(item, limit) {
  const { level, of, text, rate, full, permits } = (kinds[limit.kind] ?? bucket)(limit);
  const share = Math.min(1, Math.max(0, level / of));
  item.querySelector(".water").setAttribute("y", String(bottom - share * (bottom - top)));
  item.querySelector("svg").setAttribute("aria-label", text);
  item.querySelector(".level").classList.toggle("debt", level < 0);
  setText(item.querySelector(".level"), text);
  setText(item.querySelector(".rate"), rate);
  setText(item.querySelector(".full"), full);
  rows(item.querySelector(".permits"), permits ?? [], (p) => p.id, () => element("li", "sub"), (row, p) => setText(row, permit(p)));
}

function bucket(limit) {
  const wait = Math.max(0, seconds(limit.full_at));
  const left = Math.max(0, wait - passed());
  const of = limit.capacity;
  const level = wait > 0 ? limit.tokens + (of - limit.tokens) * Math.min(1, passed() / wait) : of;
  return {
    level, of,
    text: level < 0 ? `${format.tokens(-level)} tokens in debt` : `${format.tokens(level)} of ${format.count(of)} tokens`,
    rate: `refilled at ${limit.rate}`,
    full: left > 0 ? `full in ${format.duration(left)}` : "full",
  };
}

function quota(limit) {
  const left = seconds(limit.period_end) - passed();
  const used = left > 0 ? limit.used : 0;
  return {
    level: limit.limit - used, of: limit.limit,
    text: `${format.count(used)} of ${format.count(limit.limit)} used`,
    rate: `quota of ${limit.rate}`,
    full: left > 0 ? `the period ends in ${format.duration(left)}` : "a new period has begun",
  };
}

function concurrency(limit) {
  const permits = limit.held.filter((p) => seconds(p.expires_at) > passed());
  const held = limit.held_total - (limit.held.length - permits.length);
  const more = held - permits.length;
  return {
    level: limit.limit - held, of: limit.limit, permits,
    text: `${format.count(held)} of ${format.count(limit.limit)} permits held`,
    rate: `${format.count(limit.limit)} at once`,
    full: more > 0 ? `the first ${format.count(permits.length)}, by the end of their leases:` : "",
  };
}

function permit(p) {
  const age = p.since ? `held for ${format.duration(Math.max(0, Math.floor(passed() - seconds(p.since))))}` : "held";
  const cost = p.cost ? `, cost ${format.count(p.cost)}` : "";
  return `${age}${cost}, lease ends in ${format.duration(Math.ceil(seconds(p.expires_at) - passed()))}`;
}

const kinds = { bucket, quota, concurrency };

// seconds is the time from the report to an instant; passed, the time since the report.
const seconds = (instant) => (Date.parse(instant) - Date.parse(shown.report.now)) / 1000;
const passed = () => (performance.now() - shown.at) / 1000;
