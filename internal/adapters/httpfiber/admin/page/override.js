// The overrides that operators set for single clients at run time: the dialog that sets one, and the list of them.

import { json, overridePath, overridesPath } from "./api.js";
import { byId, element, options, rows, setText } from "./dom.js";
import * as format from "./format.js";

// members are what an override may say of a limit of a kind. Others are offered if the override in force says them.
const members = { bucket: ["rate", "capacity"], quota: ["quota"], concurrency: ["concurrent"] };
const numbers = ["capacity", "concurrent", "cost"];
const pageLength = 50;

let editing = null; // the client, what the dialog began with, and its limits
let done = null; // is called with the client after a change
let inspect = null;
let cursors = [""]; // of the pages up to the one that is shown
let next = "";
let listed = []; // the overrides of the page that is shown

// start is called once. inspectClient shows a client; onSet is called with one whose override has been set.
export function start(inspectClient, onSet) {
  [inspect, done] = [inspectClient, onSet];
  byId("override-form").addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  byId("override-no").addEventListener("click", () => byId("override-dialog").close());
  byId("override-kind").addEventListener("change", showKind);
  byId("overrides-policy").addEventListener("change", () => turnTo([""]));
  byId("overrides-next").addEventListener("click", () => turnTo([...cursors, next]));
  byId("overrides-before").addEventListener("click", () => turnTo(cursors.slice(0, -1)));
  setInterval(() => turnTo(cursors), 10000);
}

// text describes what an override gives its client.
export function text(o) {
  return o.unfit ? `${rule(o)} (ignored: ${o.unfit})` : rule(o);
}

function rule(o) {
  if (o.exempt) return "exempt: never limited";
  if (o.block) return "blocked";
  return (o.limits ?? []).map(({ name, ...says }) =>
    `${name}: ${Object.entries(says).map(([member, value]) => `${member} ${value}`).join(", ")}`).join("; ");
}

export const time = (instant) => new Date(instant).toLocaleString();

// open asks what to set for a client. current is its override, if it has one, and known are the policies in force.
export function open(client, current, known) {
  const limits = limitsOf(client.policy, known);
  limits.push(...(current?.limits ?? []).filter((l) => !limits.some((other) => other.name === l.name)));
  editing = { client, fields: limits.map((l) => fieldsOf(l, current)) };
  setText(byId("override-key"), client.key);
  setText(byId("override-policy"), client.policy);
  const kinds = editing.fields.length > 0 ? ["limits", "exempt", "block"] : ["exempt", "block"];
  options(byId("override-kind"), kinds, (kind) => ({ limits: "other limits", exempt: "no limits", block: "never let pass" })[kind]);
  byId("override-kind").value = current?.block ? "block" : current?.exempt ? "exempt" : kinds[0];
  byId("override-limits").replaceChildren(...editing.fields.map((f) => element("fieldset", "",
    element("legend", "", f.name), ...f.inputs.map(([member, input]) => element("label", "", member, input)))));
  byId("override-expires").value = current?.expires_at ? localTime(current.expires_at) : "";
  byId("override-note").value = current?.note ?? "";
  complain("");
  showKind();
  byId("override-dialog").showModal();
}

// limitsOf are the limits that an override under a policy may change: those by the policy's own key.
function limitsOf(policy, known) {
  const shared = known.flatMap((p) => p.limits ?? []).find((l) => l.shared && `shared/${l.name}` === policy);
  if (shared) return [shared];
  return (known.find((p) => p.name === policy)?.limits ?? []).filter((l) => !l.key);
}

// fieldsOf makes an input for each member of a limit. An empty one leaves what the policy says, which is its placeholder.
function fieldsOf(limit, current) {
  const { name, ...says } = current?.limits?.find((l) => l.name === limit.name) ?? { name: limit.name };
  const names = new Set([...(members[limit.kind] ?? []), ...Object.keys(says)]);
  return { name, inputs: [...names].map((member) => [member, inputOf(member, says[member], limit[member])]) };
}

function inputOf(member, value, usual) {
  const input = element("input", "");
  if (numbers.includes(member)) Object.assign(input, { type: "number", min: 1, step: 1 });
  Object.assign(input, { autocomplete: "off", spellcheck: false, placeholder: usual ?? "", value: value ?? "" });
  return input;
}

function showKind() {
  byId("override-limits").hidden = byId("override-kind").value !== "limits";
}

function complain(reason) {
  setText(byId("override-status"), reason);
  byId("override-status").classList.toggle("bad", reason !== "");
}

// wanted is the override that the dialog describes.
function wanted() {
  const kind = byId("override-kind").value;
  const body = kind === "limits" ? { limits: editing.fields.map(limitOf).filter((l) => Object.keys(l).length > 1) } : { [kind]: true };
  if (byId("override-expires").value) body.expires_at = new Date(byId("override-expires").value).toISOString();
  if (byId("override-note").value) body.note = byId("override-note").value;
  return body;
}

function limitOf(field) {
  const limit = { name: field.name };
  for (const [member, input] of field.inputs) {
    const value = input.value.trim();
    if (value) limit[member] = numbers.includes(member) ? Number(value) : value;
  }
  return limit;
}

async function save() {
  const { client } = editing;
  try {
    await json(overridePath(client), {
      method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted()),
    });
  } catch (error) {
    complain(`Not set: ${error.message}`);
    return;
  }
  byId("override-dialog").close();
  turnTo(cursors);
  await done(client);
}

// localTime is an instant as an input of the type datetime-local has it.
function localTime(instant) {
  const at = new Date(instant);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

// show is called with each event: status is its member overrides, and names are the policies and shared limits.
export function show(status, names) {
  byId("overrides-card").hidden = !status;
  byId("override").hidden = !status;
  if (!status) return;
  const first = byId("overrides-policy").options.length === 0;
  options(byId("overrides-policy"), names);
  if (first && names.length > 0) turnTo([""]);
  let note = `${format.count(status.count)} in all`;
  if (!status.known) note = "This node has not read the overrides yet";
  else if (status.local) note += ", in this process’s memory: they end with it, and other nodes do not have them";
  else if (status.behind_ms > 5000) note += `; this node last heard of changes ${format.duration(Math.floor(status.behind_ms / 1000))} ago`;
  setText(byId("overrides-count"), `${note}.`);
}

// ignored returns the override of a client, if the list shows it as one that the policy ignores: the client's buckets do not have it.
export function ignored({ policy, key, source }) {
  const here = byId("overrides-policy").value === policy;
  return here ? listed.find((o) => o.unfit && o.key === key && (o.source ?? "") === source) : undefined;
}

// refresh reads the page of the list again that is shown.
export const refresh = () => turnTo(cursors);

async function turnTo(wantedCursors) {
  const policy = byId("overrides-policy").value;
  if (byId("overrides-card").hidden || !policy) return;
  let page;
  try {
    page = await json(`${overridesPath(policy)}?limit=${pageLength}&after=${encodeURIComponent(wantedCursors.at(-1))}`);
  } catch (error) {
    page = { overrides: [], failed: error.message };
  }
  if (policy !== byId("overrides-policy").value) return; // another one has been chosen meanwhile
  [cursors, next, listed] = [wantedCursors, page.next ?? "", page.overrides];
  byId("overrides-next").hidden = !next;
  byId("overrides-before").hidden = cursors.length === 1;
  byId("no-overrides").hidden = page.overrides.length > 0;
  setText(byId("no-overrides"), page.failed ? `Not shown: ${page.failed}` : `No client of ${policy} has an override.`);
  rows(byId("overrides"), page.overrides, (o) => `${policy} ${o.source ?? ""} ${o.key}`, (o) => makeRow(o, policy), showRow);
}

function makeRow(o, policy) {
  const button = element("button", "small", "Inspect");
  button.type = "button";
  button.setAttribute("aria-label", `Inspect ${o.key}`);
  button.addEventListener("click", () => inspect({ policy, key: o.key, source: o.source ?? "" }));
  const cell = (name, ...children) => element("td", name, ...children);
  return element("tr", "", cell("", element("span", "client", o.key), ...(o.source ? [element("span", "sub", `by ${o.source}`)] : [])),
    cell(""), cell(""), cell(""), cell(""), cell("action", button));
}

function showRow(row, o) {
  const [, says, until, note, since] = row.children;
  setText(says, text(o));
  setText(until, o.expires_at ? time(o.expires_at) : "–");
  setText(note, o.note ?? "–");
  setText(since, o.set_at ? time(o.set_at) : "–");
}
