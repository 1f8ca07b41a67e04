import { follow, json } from "./api.js";
import * as bucket from "./bucket.js";
import { Chart } from "./chart.js";
import { byId, options, setText } from "./dom.js";
import * as format from "./format.js";
import { History } from "./history.js";
import * as override from "./override.js";
import * as tables from "./tables.js";

const states = {
  ready: "Ready",
  starting: "Starting: the keys of tokens are not loaded yet",
  degraded: "Degraded: a shard is down",
  unavailable: "Unavailable: no shard answers",
  draining: "Draining: the service is stopping",
  lost: "No connection",
};

const history = new History();
const chart = new Chart(byId("chart"));
let known = []; // the policies in force
let overridden = []; // who has overrides, also policies that are gone

function setState(state, shards = []) {
  byId("state").dataset.state = state;
  const noKeys = state === "degraded" && shards.every((s) => s.up);
  setText(byId("state").querySelector(".text"), noKeys ? "Degraded: the keys of tokens are missing" : states[state] ?? state);
}

async function learnPolicies() {
  try {
    const answer = await json("/v1/policies");
    known = answer.policies ?? [];
    overridden = answer.overridden ?? [];
  } catch {
    // what was known stays
  }
  setTimeout(learnPolicies, 5000);
}

function show() {
  if (!history.last) return;
  setText(byId("version"), history.last.version);
  setText(byId("allowed-rate"), format.rate(history.rate("allowed")));
  setText(byId("denied-rate"), format.rate(history.rate("denied")));
  for (const [id, q] of [["p50", 0.5], ["p99", 0.99], ["p999", 0.999]]) {
    setText(byId(id), format.duration(history.quantile(q)));
  }
  const fallback = history.fallbackRate();
  setText(byId("fallback-rate"), format.rate(fallback));
  byId("fallback-tile").classList.toggle("alarm", fallback > 0);

  const names = [...new Set([...known.map((p) => p.name), ...history.policies()])];
  options(byId("chart-policy"), ["", ...names], (name) => name || "All");
  options(byId("policy-names"), names);
  chart.show(history, byId("chart-policy").value);
  tables.policies(history, known);
  tables.shards(history);
  tables.top(history, bucket.inspect);
  const shared = known.flatMap((p) => p.limits ?? []).filter((l) => l.shared).map((l) => `shared/${l.name}`);
  override.show(history.last.overrides, [...new Set([...known.map((p) => p.name), ...shared, ...overridden])]);
}

for (const id of ["chart-policy", "top-policy", "top-kind"]) byId(id).addEventListener("change", show);
bucket.start(() => known);
learnPolicies();
follow((event) => {
  history.add(event);
  setState(event.state, event.shards);
  show();
}, () => setState("lost"));
