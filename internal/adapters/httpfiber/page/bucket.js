// One client's buckets: drawn, refilling by the limit's own rate until they are looked at again.

import { bucketPath, json } from "./api.js";
import { byId, element, rows, setText } from "./dom.js";
import * as format from "./format.js";

const svgNamespace = "http://www.w3.org/2000/svg";
const outline = "M8 8h48l-6 44a5 5 0 0 1-5 4H19a5 5 0 0 1-5-4z";
const [top, bottom] = [8, 56];

let shown = null; // the client, its report and when it arrived

export function start() {
  byId("inspect").addEventListener("submit", (event) => {
    event.preventDefault();
    inspect({
      policy: byId("inspect-policy").value,
      key: byId("inspect-key").value,
      source: byId("inspect-ip").checked ? "ip" : "",
    });
  });
  byId("reset").addEventListener("click", askToReset);
  byId("confirm-no").addEventListener("click", () => byId("confirm").close());
  byId("confirm-yes").addEventListener("click", reset);
  setInterval(draw, 250);
}

export async function inspect(client) {
  byId("inspect-policy").value = client.policy;
  byId("inspect-key").value = client.key;
  byId("inspect-ip").checked = client.source === "ip";
  try {
    const report = await json(bucketPath(client));
    shown = { client, report, at: performance.now() };
    tell(`${client.key} under ${client.policy}, by ${report.source}, in ${report.store}.`);
  } catch (error) {
    shown = null;
    tell(`Not shown: ${error.message}`, true);
  }
  byId("reset").disabled = !shown;
  draw();
}

function askToReset() {
  setText(byId("confirm-key"), shown.client.key);
  setText(byId("confirm-policy"), shown.client.policy);
  byId("confirm").showModal();
}

async function reset() {
  byId("confirm").close();
  const client = shown.client;
  try {
    await json(bucketPath(client), { method: "DELETE" });
  } catch (error) {
    tell(`Not reset: ${error.message}`, true);
    return;
  }
  await inspect(client);
  tell(`Reset: every bucket of ${client.key} under ${client.policy} is full.`);
}

function tell(text, bad = false) {
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
    element("div", "", element("h3", "", limit.name), element("p", "level"), element("p", "sub rate"), element("p", "sub full")));
}

function part(tag, attributes, ...children) {
  const e = document.createElementNS(svgNamespace, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function show(item, limit) {
  const { report, at } = shown;
  const wait = Math.max(0, (Date.parse(limit.expires_at) - Date.parse(report.now)) / 1000);
  const passed = (performance.now() - at) / 1000;
  const left = Math.max(0, wait - passed);
  const level = wait > 0 ? limit.tokens + (limit.limit - limit.tokens) * Math.min(1, passed / wait) : limit.limit;
  const share = Math.min(1, Math.max(0, level / limit.limit));

  item.querySelector(".water").setAttribute("y", String(bottom - share * (bottom - top)));
  const text = level < 0
    ? `${format.tokens(-level)} tokens in debt`
    : `${format.tokens(level)} of ${format.count(limit.limit)} tokens`;
  item.querySelector("svg").setAttribute("aria-label", text);
  item.querySelector(".level").classList.toggle("debt", level < 0);
  setText(item.querySelector(".level"), text);
  setText(item.querySelector(".rate"), `refilled at ${limit.rate}`);
  setText(item.querySelector(".full"), left > 0 ? `full in ${format.duration(left)}` : "full");
}
